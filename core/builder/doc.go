// Package builder is the service that builds for others: one [http.Handler]
// for the routes of package wire, over small interfaces for the Nix store, the
// records of tickets and builds, and the policy.
//
// It decides who may do what, which inputs it wants, checks every byte of
// them before the Nix daemon may keep it, queues, builds, tells what happens
// as numbered events, and serves the outputs' closure through package cache.
// It opens no listener, speaks to no relay, evaluates nothing and knows nothing
// of SQLite or of the command line.
//
// # A build's life
//
// PUT creates it: the closure document is checked (closure.go), what the store
// lacks is found (plan.go), limits and policy are asked (policy.go) and one use of
// the ticket is spent in one transaction of the records (admit.go). Its inputs
// arrive while it waits (inputs.go); it holds its place in the queue but takes
// no slot until they are complete (queue.go). Before it runs, what would be
// built is compared with what the ticket allows (check.go). The run itself is
// one operation of the worker protocol (run.go); closing its connection cancels
// it. Everything that happens is appended to a file of events (eventlog.go), so
// that a reader can come late, leave and come back.
//
// Large inputs come in chunks (incoming_http.go) and gather in files beside the
// builds' directory (incoming.go), which outlive connection, client and process.
// What a sender has sent before is found by its manifests (donors.go), compared
// with its IDs and copied; all the rest is asked for. The NAR is verified as a
// whole from the file before the daemon sees it.
//
// # What a stranger cannot do
//
// Only content-addressed paths are taken, or paths with a signature that this
// builder's own Nix trusts, and only those that were asked for. The content
// address is recomputed from name and references before the first byte is
// accepted and from the contents before the daemon sees the last one. "Have"
// is only ever said of a path whose NAR hash and references the client could
// state, and so of a closure that it could state whole. A build is visible to the
// client that created it and to the ticket that paid for it; a derivation's log
// once all inputs of a build of it were there.
//
// # Roots
//
// While inputs arrive, temporary roots on a daemon connection of its own keep
// the closure from being collected. Once the root derivations are valid, links
// below the build's directory, registered as indirect roots, hold them (and
// through their references every input); after the build, the outputs. They go
// when the outputs' time is over. A directory without a record, left by a
// crash, is removed at the next start.
package builder
