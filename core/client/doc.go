// Package client is one build session seen from the client: what the builder
// needs is collected, sent and built there, and what came out is described to
// whoever imports it.
//
// The package speaks the protocol of package wire and trusts nothing that a
// builder answers: every index, size, path, reference and signature is checked
// before it is used. It survives lost connections (see [Session]) and a builder
// that restarts.
//
// It opens no connection, evaluates nothing, mounts nothing and starts no
// process: the transport, the local store and the importer are interfaces or
// come from the caller, so the package also compiles to WebAssembly.
package client
