// Package fusecache shows a [cache.View] to Nix: as a FUSE file system for
// file:// URLs ([Mount], Linux), or as a loopback HTTP server for http:// URLs
// ([ServeHTTP]) where FUSE cannot be had.
//
// It holds no data of its own. NARs are opened for direct I/O: each read of a
// process is one request, answered straight from the View's buffers with one
// copy. They do not go through the page cache, because a NAR that is not
// complete cannot be mapped safely (a page that fails to come is a SIGBUS), and
// because an import reads each byte once. Nix 2.29 and later try to map a NAR,
// are refused, and read instead. Everything else is small, complete, and cached
// by the kernel.
//
// A read can be interrupted and ends within the View's ReadTimeout, with EIO.
// Names that do not exist are not cached, so a path that appears is found.
package fusecache
