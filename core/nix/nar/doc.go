// Package nar reads and writes Nix archives (NARs): the one canonical byte
// form of a file tree, which hashes and signatures are made of.
//
// Three things are here. Checker is a strict push parser for archives that
// strangers send: constant memory, nothing allocated by a declared length.
// Layout gives random access to the archive of a tree on disk without
// producing it. WriteFile, FileSize and HashFile deal with the archive of one
// regular file, the form of every .drv.
//
// The package unpacks nothing. The format is that of Nix's libutil/archive.cc;
// the two implementations of go-nix (nar.Reader, nar.DumpPath) check the
// tests here but are not used: RATIONALE says why.
package nar
