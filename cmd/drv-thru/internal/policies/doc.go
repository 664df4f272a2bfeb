// Package policies lets the modules of package policy decide for a builder: it
// finds the module of a ticket, compares it with what was pinned, puts the
// builder's words into the policy's and back, and records what was decided.
//
// Whatever is wrong with a module denies. Only a configured policy in mode
// [Monitor] has no effect, whatever it does.
package policies
