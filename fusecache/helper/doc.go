// Package helper lets users whom Nix does not trust import what a builder of the
// administrator's choice has signed: a small service that runs as root ([Server]),
// its protocol ([Request], [Event]), and the user's side of it ([Client]).
//
// # What an allowed user can do
//
// Whoever may connect to the socket can have store paths imported into this
// machine's store that carry a valid signature of a key on the helper's list. That
// is all: the user names store paths and one of those keys, and serves the files
// of a binary cache. The helper mounts them where only root can read, writes the
// narinfos of the paths anew into a cache whose NARs are the mount's, and runs
//
//	nix copy --no-recursive --from file://<that cache> --to daemon -- <paths>
//
// with signatures required and that key as the only one. So the user cannot import
// what nobody signed, choose another key, another store, a setting of Nix, a
// program, a file or an environment variable, nor read anything through the helper.
// (Content-addressed paths need no signature, here as anywhere in Nix: their name
// is the hash of their contents.)
//
// What remains. The user decides what the mount answers and when, so root's nix
// parses NARs that the user made, as it does those of any binary cache, and the
// helper narinfos; neither symbolic links in the mount nor the names that narinfos
// give to NARs are followed. The user can fill the store
// with paths that are signed, and keep a bounded number of imports busy until each
// is cut off for want of progress, or at last by its total time. What nix says when
// it fails is told to the user, bounded; nix has read nothing but the mount by then.
// The fallback without FUSE lets the user have the helper make GET requests to a
// port of the loopback interface on which a process of that same user listens.
// They carry no credentials, and redirects are not followed: nix asks the helper.
//
// Everything that is refused is logged with the user's ID and the reason.
//
// # Protocol
//
// Messages on a Unix stream socket are a length (4 bytes, big endian) and as many
// bytes of JSON; unknown fields are refused. The client sends a [Request]. The
// helper answers with [Event]s. To "check" it answers "accepted" or "refused". To
// "import" it answers "refused", or "device" with a descriptor of /dev/fuse beside
// it (SCM_RIGHTS), already mounted; the client serves it and sends a [Ready]. With
// a URL there is no "device" and no Ready. Then come "progress" events and, as the
// last, "done" or "failed". A client that closes the connection ends its import.
package helper
