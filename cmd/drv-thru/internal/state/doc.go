// Package state is the builder's durable state: tickets, their uses, and builds,
// in one SQLite file.
//
// What a method has returned from is on disk (WAL, synchronous=FULL). Several
// goroutines may use a DB; one process at a time has the file, which the
// builder's admin socket is for. A file that is damaged is never replaced by an
// empty one: opening it fails with what to do.
package state
