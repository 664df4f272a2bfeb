//go:build !js

package link

// errorsQuery asks the relay for refusals that can be seen here: a program
// reads the HTTP answer.
const errorsQuery = ""
