// Package cache is a builder's store as a signed Nix binary cache. The client
// side is [View], an [io/fs.FS] in the layout that Nix reads from file:// and
// http:// caches; package fusecache mounts it. The builder side, [Server], signs
// narinfos and sends the chunks of NARs from the store's own files.
//
// # What a View shows
//
//	nix-cache-info              StoreDir, WantMassQuery, Priority
//	<hash>.narinfo              rendered from the parsed path info
//	nar/<nar hash>.nar          uncompressed, size known in advance
//	log/<derivation>            build log, when the Fetcher has logs
//	realisations/<id>.doi       when the build reported realisations
//	build-trace-v2/             empty
//
// A narinfo that a View shows is never the text that a builder sent but what
// was parsed from it, so that unknown fields and foreign URLs end here.
//
// # Trust
//
// The judge of what enters a store is that store's own Nix daemon: it checks
// each path's signature and that the NAR has the signed hash. A View checks
// signatures too when it is told the builder's key, to fail early with a clear
// message, and shows no NAR before. It does not hash NARs: they are not authenticated before
// their last byte anyway, the daemon hashes them in any case, and hashing them
// twice costs a third of an import's CPU. What a View promises about NAR bytes
// is that there are exactly as many as the narinfo says; what a ChunkFetcher
// promises is that each chunk is the one that the builder's manifest names, so
// that what a disk or a link has damaged ends here. Pieces that lie in files
// ([View.Pieces]) are the exception: those the daemon alone verifies.
//
// # Fetching
//
// [Fetcher] is where NAR bytes come from: [ChunkFetcher] plans across all NARs
// of a request which chunks are needed, gets each from the chunk store, from
// local data that resembles it, or from the builder, verifies it, and puts the
// references back that it was masked of. Requests to the builder are short and
// several are under way; one that fails is made again for what did not come, so
// the next can take another path. A builder whose chunks are not what its
// manifest says is asked for the manifest once more, then the NAR fails.
//
// In a View, few requests run at once ("runs",
// run.go): one that runs ahead in the order in which `nix copy` will read
// ([View.RunAhead]), and one for each reader that wants something else now.
// Bytes wait for their readers in slabs of fixed size that are allocated once
// and used again (slab.go); their number is the View's memory budget. What all
// readers of a NAR have passed is dropped, and fetched again should anyone go
// back. When a run that a reader waits for needs a slab, unread data that is
// needed last gives way, so that a full budget never stops a reader.
//
// No read waits longer than [ViewConfig.ReadTimeout] without progress. Progress
// is bytes that readers can have; what has come of an incomplete chunk only buys
// the time to complete it. Then, or
// when the retries of a broken transfer are used up, it fails, and [View.Err]
// says why: Nix only sees an input/output error, and Nix 2.8 not even that (its
// LocalBinaryCacheStore ignores it and complains of a truncated NAR).
//
// # The builder's side
//
// A NAR's chunks are found by reading it once (package chunk), in the background
// when a build ends or when they are first asked for, and then sent while they
// are found. The [Index] keeps what was found out: the manifest, and the NAR
// without the contents of its files, by which any range of it can be read from
// those. The NAR itself is never copied. The client compares every chunk with its
// ID. When one is wrong it asks again, and then the builder compares, too: what
// does not fit is not sent, its index entry is dropped, and the NAR is read again,
// this time with its hash. An index file has a
// checksum and is worth no more than the time to make it again: one that is
// damaged, of another format, of a path that is gone or built again, or over the
// quota is removed.
package cache
