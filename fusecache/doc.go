// Package fusecache shows a [cache.View] to Nix: as a FUSE file system for
// file:// URLs ([Mount], Linux), or as a loopback HTTP server for http:// URLs
// ([ServeHTTP]) where FUSE cannot be had.
//
// NARs that come from the builder are opened for direct I/O: each read of a process is
// one request, answered straight from the View's buffers with one copy. They do
// not go through the page cache, because a NAR that is not complete cannot be
// mapped safely (a page that fails to come is a SIGBUS), and because an import
// reads each byte once. Nix 2.29 and later try to map a NAR, are refused, and read
// instead. Everything else is complete, and cached by the kernel: narinfos and
// their like, NARs of up to 32 KiB whose bytes are here, and those that a [Disk] has
// kept. A mount that lasts has one: a NAR that was read whole is kept in a file, and
// shown from there once its hash has been checked, also when the builder cannot be
// reached.
//
// The mount of an import ([Options].Pipes) spares Nix waiting for answers. It hands NARs
// of 256 KiB and more on through named pipes; what the View has in files
// ([cache.View.Pieces]) goes there without being copied. All other files the kernel opens by
// itself, and once another process has listed their directories it has their names
// and, as they come, their bytes. Who reads one that fails to come should be ended by who
// mounts it, when the View fails: it has five seconds until the answer, which is a SIGBUS for
// a reader that has mapped it.
//
// A read can be interrupted and ends within the View's ReadTimeout, with EIO.
// Names that do not exist are not cached, so a path that appears is found. How many
// names the kernel knows is bounded.
//
// A process never looks into what it has mounted: while it waits for its own answer
// it could not be killed.
package fusecache
