// Package chunk cuts NARs into content-defined chunks, names each by its
// BLAKE3, and defines the two formats in which chunks travel: the manifest of a
// NAR and the frame of a chunk. It knows nothing of stores, sessions or disks.
//
// # Masking
//
// A rebuild changes the store hashes that a NAR refers to even where nothing
// else changes. So the 32-character hash parts of a NAR's references, its own
// among them, are replaced by a filler before the NAR is cut and hashed, and
// the manifest tells where each stood (Subst). Two NARs that differ in
// references alone then have the same chunks. Occurrences are found from left
// to right and never overlap. After MaxSubsts of them the rest of the NAR stays
// as it is.
//
// # Cutting
//
// The masked bytes are cut by the jump-based algorithm (JC; Jin et al., IEEE
// TPDS 2023) as "jc-v1.0.0" of github.com/PlakarKorp/go-cdc-chunkers
// implements it, with the sizes MinSize, NormalSize and MaxSize and without a
// key. The same NAR and the same references have the same manifest everywhere;
// testdata/vectors.json holds examples.
//
// # Manifest
//
// A manifest is a stream that can be written while the NAR is still being cut
// and read before it is complete. All numbers are unsigned LEB128 in their
// shortest form ("varint" below).
//
//	"DTM\x01"
//	varint  number of references, at most MaxRefs
//	20 bytes each: the hash part, in Nix's base32 with the most significant
//	        bits first; strictly ascending
//	one record for each chunk, in order:
//	  varint    size, from MinSize to MaxSize; the last may be smaller
//	  32 bytes  ID
//	  varint    number of substitutions that begin in this chunk
//	  for each:
//	    varint  bytes from the start of the chunk, or from the end of the
//	            substitution before if that is later
//	    varint  index of the reference
//	varint  0
//	varint  size of the NAR
//
// # Frame
//
// A frame is one chunk on the wire: four bytes, big-endian, then the payload.
//
//	bit 31      the payload is a zstd frame
//	bits 0..30  length of the payload, at most MaxSize
//
// Four zero bytes say that the chunk cannot be had.
package chunk
