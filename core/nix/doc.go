// Package nix knows Nix's data: store paths, hashes, path infos, narinfos,
// signatures, content addresses and derivations, and it verifies what an
// upload claims to be while its bytes pass.
//
// It talks to no daemon (package daemon), evaluates nothing (package eval) and
// touches no file system (package nar does). Every parser is strict, has named
// limits and allocates nothing by a length that its input merely declares, for
// all of them read what a stranger sent. The store directory is always
// /nix/store: a path of another store is not a path here.
//
// Encodings and signatures come from nix-community/go-nix. Formats are those of
// Nix 2.8 to 2.34; where they differ, the comment at the format says how.
package nix
