// Package daemon speaks the Nix worker protocol as a client: what nix-daemon
// answers on its Unix socket, and what `nix-daemon --stdio` answers on its
// standard streams.
//
// It asks, adds and builds. It does not evaluate, decides nothing about
// trust and never asks the daemon to skip a signature check or to repair.
//
// # Versions
//
// Protocol 1.34 (Nix 2.8) to 1.38 (Nix 2.24 to 2.34 and, without the optional
// features, newer ones). The lower of the two sides' versions is spoken; from
// 1.38 on both also name the features that they know, and this package knows
// none. An older daemon is refused with a *VersionError. The formats follow
// Nix's libstore/worker-protocol.cc, worker-protocol-connection.cc and daemon.cc
// of 2.8.0, 2.26.3 and 2.34.8.
//
// Every integer is 64 bits little endian. A string is its length, its bytes and
// zeros up to the next multiple of eight. A list is its length and its elements.
// An operation is its number and arguments; the daemon answers with messages of
// the log channel (stderr.go), then either an error or the result.
//
// # Connections
//
// A Conn runs one operation at a time. The daemon forks one process per
// connection, and the connection's settings (SetOptions) and temporary roots
// live and die with it. Cancelling an operation's context closes the
// connection: this is how Nix itself cancels, the daemon's process watches for
// the hang-up and kills what it is building (MonitorFdHup in Nix 2.8 to 2.34;
// the builder gets SIGKILL). An error that the daemon reports is an *Error and
// leaves the connection usable; after any other error it is dead.
//
// # Limits
//
// The daemon is local but repeats what builders wrote. Nothing is allocated by
// a length that it merely declares. Over-long texts of the log channel and of
// build errors are cut (Max… constants), over-long names and paths are an error,
// and lines of build logs are handed on in pieces of at most LogPiece bytes, so
// that a line of any length passes in constant memory.
//
// # What Nix does to a build log before it gets here
//
// The builder writes to a pseudoterminal in raw mode, so no byte is translated
// on the way. The daemon then splits at "\n" and keeps a whole line in memory;
// a last line without "\n" counts as a line. A "\r" moves the daemon's write
// position to the start of the line and is dropped: later bytes overwrite
// earlier ones. Up to Nix 2.33 the rest of the longer text stays ("abc\rX" gives
// "Xbc"), Nix 2.34 cuts it ("X"). Backspaces, escapes, NUL and invalid UTF-8
// pass untouched. A line that begins with "@nix " and continues as JSON is an
// instruction to the daemon's logger and does not appear as a line; what it may
// cause here is a phase, a message, or a file-transfer activity with its results.
// The daemon's own copy of the log (nix log) has the raw bytes, "\r" included.
// Build logs come whatever the verbosity is, max-log-size bounds their sum.
package daemon
