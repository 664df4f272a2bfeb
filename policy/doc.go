// Package policy runs ticket policies: small WebAssembly programs by which a
// builder's owner decides what a ticket or trusted client may do. It is the ABI,
// the host, and what authors test with; it reads no configuration and keeps no
// records. docs/policies.md is the guide.
//
// # ticket-policy/1
//
// A policy is a WASI command (wasi_snapshot_preview1) in any language. Every
// decision runs a fresh instance: one JSON object, a [Request], is on its
// standard input, and it writes exactly one JSON object, a [Decision], to
// standard output, then returns or exits with 0:
//
//	{"abi":"ticket-policy/1","decision":"deny","reason":"not at night"}
//
// "allow" leaves the limits as they are, "deny" refuses, "narrow" names the
// limits that become tighter. Anything else denies: a trap, an exit code, a
// field that is unknown or given twice, text that is not UTF-8, bytes after the
// object, a limit that is wider than before. Every such failure has its own
// [Code] in an [Error] whose message is safe to show to the ticket's holder;
// what the module wrote or where it trapped is in fields for the owner.
//
// # What a policy can reach
//
// Nothing. It may import the functions of WASI that need no file, socket or
// environment and no others. The wall clock stands still at Request.Now. The
// monotonic clock starts at zero and moves only by being read or slept on, and a
// sleep returns at once. Random bytes follow from the request alone, so a
// decision can be repeated exactly.
//
// # What a policy may use
//
// The constants of this package, from [MaxModule] to [MaxWall]. They hold
// whatever the module does, under wazero's compiler and interpreter alike; for
// that the module is changed before it is compiled, so that its tables and its
// stack have a maximum and all of its code can be stopped. What would take long to
// compile is interpreted. One exception: where the host itself is WebAssembly there is one thread only,
// so that a policy that loops forever there is stopped by whoever runs the host.
package policy

import "time"

// ABI names the interface in both documents.
const ABI = "ticket-policy/1"

// Limits of a module and of one decision.
const (
	MaxModule   = 8 << 20                // bytes of a module
	MaxMemory   = 32 << 20               // bytes of linear memory; asking for more denies
	MaxTable    = 100_000                // elements of all tables; growing past it fails
	MaxStdin    = 1 << 20                // bytes of a request
	MaxStdout   = 16 << 10               // bytes of a decision
	MaxStderr   = 4 << 10                // bytes of messages to the owner
	MaxWall     = 250 * time.Millisecond // of one decision, waiting for its turn not counted
	MaxSettings = 64 << 10               // bytes of a policy's settings
	MaxReason   = 1 << 10                // bytes of a decision's reason
)
