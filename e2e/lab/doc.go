// Package lab runs real Nix on several hosts of one machine, for the end-to-end
// tests and the demo.
//
// A [Host] is a set of Linux namespaces: a mount namespace whose root is an
// overlay over one of the root file systems that e2e/roots makes (each with its
// own version of Nix), a PID namespace, and, when asked for, a network
// namespace. It has its own store on tmpfs, its own nix-daemon with build users
// and the build sandbox on, and two ordinary users that Nix does not trust:
// alice, who builds, and builder, who runs drv-thru's services.
//
// Nothing outlives a host. Everything in it descends from one init process that
// ends when its standard input does, so even a test binary that is killed takes
// its hosts' processes, mounts and namespaces with it. Nothing is written to
// the machine itself but the state directory (see [Dir]).
//
// It is not a sandbox: hosts run as root and share the machine's kernel and,
// by default, its network.
package lab
