// Package wire is the protocol between a drv-thru client and a builder, in one
// place: this comment is its specification, and the types below are its
// documents. It opens no connection and keeps no state. The relay's own
// protocol is in relay.go.
//
// # Session
//
// Client and builder speak HTTP inside TLS 1.3 (RFC 8446), over any byte stream: a
// relay circuit or a direct path. ALPN (RFC 7301) says which: h2 (RFC 9113), by
// which clients send small requests and events, or http/1.1 (RFC 9112), by which
// they send what is large, a connection for each request while it lasts. A builder
// takes any request by either. Both ends present a
// self-signed certificate of their ed25519 key. The client accepts only the
// key that it was told (ticket, builders file); the builder takes any key and
// thereby knows the client's ID. Requests go to https://builder/ whatever path
// carries them.
//
// Every request carries [HeaderVersion]; an answer carries the builder's. A
// request with a version that the builder does not speak fails with
// [CodeVersion], whose detail names what it speaks. Within one version a
// receiver ignores unknown fields of JSON documents and unknown event types,
// so that a newer peer may add them; nothing that narrows what a peer may do
// is ever added that way.
//
// # Who may do what
//
// A trusted client (known by its ID in the builder's configuration) sends
// nothing more. Everyone else sends
//
//	Authorization: Bearer <ticket secret, 52 characters of base32>
//
// with every request. A build belongs to the client ID that created it and to
// the ticket that paid for it: either may attach to it, cancel it and read its
// outputs' closure; nobody else learns that it exists ([CodeNotFound]).
//
// # Routes
//
//	GET    /v1/info                      Info
//	POST   /v1/plan                      PlanRequest → Plan
//	PUT    /v1/builds/{id}               BuildRequest → Build
//	GET    /v1/builds/{id}               → Build
//	PUT    /v1/builds/{id}/inputs        input frames → Build
//	PUT    …/inputs/{index}/manifest     chunk manifest → MissingChunks
//	PUT    …/inputs/{index}/chunks       numbered chunk frames → nothing
//	POST   …/inputs/{index}              → Build
//	GET    /v1/builds/{id}/events?from=N → Event, one JSON document a line
//	DELETE /v1/builds/{id}               → Build
//	GET    /v1/cache/closure?build={id}  → Closure
//	GET    /v1/cache/narinfo/{hash}      → narinfo text
//	POST   /v1/cache/manifests           ManifestsRequest → manifests
//	POST   /v1/cache/chunks              ChunksRequest → chunk frames
//	GET    /v1/cache/log/{drv}           → log text
//	POST   /v1/path                      PathRequest → PathAnswer
//	GET    /v1/path                      → nothing
//
// {id} is a [BuildID] that the client chose, so a request that is repeated
// after a lost answer attaches to the same build and spends nothing twice.
// {hash} is the 32-character hash part of a store path, {drv} a derivation's base
// name.
//
// # A build
//
// PUT /v1/builds/{id} states what is wanted: the roots and their closure of
// .drv files and sources, each with its NAR hash. The builder checks limits
// and policy, spends one use of the ticket, queues the build, and answers with
// the indexes of the paths that it wants sent ([Build.Wanted]): those that are
// not valid in its store with the very NAR hash that the client stated. (Of
// large content-addressed paths and of all input-addressed ones it asks its
// substituters first, which is why the answer may want less than a Plan did.)
// An input-addressed path that it lacks must carry a signature that it trusts.
// This and the other documents may be compressed (Content-Encoding: zstd, window
// of at most 8 MiB).
//
// PUT …/inputs then carries the .drv files of any size and what is smaller than
// [ChunkedInput], in any number of requests one after another.
// The body is a sequence of frames, optionally compressed as a whole
// (Content-Encoding: zstd):
//
//	offset  size  field
//	0       4     index into BuildRequest.Closure, big endian
//	4       8     size of the NAR, big endian; equals the stated nar_size
//	12      size  the NAR
//
// Frames come in the order of Closure, references before referrers. The
// builder recomputes every hash and content address while it reads, and
// refuses the first path that does not match. Paths of complete frames stay:
// after a lost connection, a repeated PUT /v1/builds/{id} answers with what is
// still wanted. A newer inputs request of a build ends an older one.
//
// # Large inputs
//
// What is not a .drv file and has a NAR of [ChunkedInput] bytes or more is sent
// in chunks (package chunk: content-defined, named by their contents). {index}
// is the path's index in Closure.
//
// PUT …/{index}/manifest states the chunks of the NAR, in which the hash parts of
// the path's references and of the path itself are masked: the manifest's
// references are exactly those. The builder answers with the chunks that it
// lacks. It knows again what came before with the same ticket or from the same
// client, and nothing else, so that a manifest tells nobody what others have.
// That are the chunks of earlier uploads, complete or not, for as long as it
// keeps them (the time that it keeps outputs, or less when its disk is full).
// The request may be repeated at any time and then answers with what is still
// missing.
//
// PUT …/{index}/chunks carries some of them, at most [MaxInputChunkBytes] in a
// request, any number of requests at once and in any order:
//
//	offset  size  field
//	0       4     ordinal of the chunk in the manifest, big endian
//	4       …     chunk frame
//
// Each chunk is compared with its ID and then kept, whatever becomes of the
// request, of the connection or of the builder's process. One that is there
// already is ignored.
//
// POST …/{index} ends it: the builder verifies the NAR as a whole, as it does
// with those that come in frames, and adds it to its store. Before that its
// references must be there. While chunks are missing the answer is
// [CodeInputIncomplete], and the manifest is to be sent again. Of an input that
// was taken it may be repeated. A NAR that is not what the closure states ends the
// build.
//
// A build whose inputs stop coming ends with [CodeInputStalled], after ten minutes and
// the time that a slow disk needs to read the largest of them. A request that waits for its
// client for a minute ends before.
//
// An upload limit counts what the paths weigh, as their NAR sizes, however many
// of their chunks were there already; and beside that, chunks that were sent in
// vain.
//
// # Waiting and building
//
// Once it has all inputs, the builder checks what would be built against the
// limits, and waits for a slot; what is built already needs none. A client
// that reads no events while its build waits keeps its place and is passed
// over until it is back. The turn goes to the ticket or trusted client, and
// among the clients of one ticket to the client, that was served longest ago.
//
// Events are numbered from 1 without gaps and are kept until the build is
// forgotten, so a reader that lost its connection goes on with ?from=N+1. The
// stream stays open until the event of type [EventFinished], which is last. It
// has the build's result unless that would make it longer than [MaxEventLine]; then
// GET /v1/builds/{id} has it. An event of type [EventLog] may have several lines of
// a build, with line feeds between them. An empty line is sent every
// [EventKeepalive] while nothing happens.
//
// When the builder restarts, builds that had not ended become interrupted:
// asking for their events fails with [CodeRestarted]. A client that is still
// there repeats PUT /v1/builds/{id} with the same document, which spends
// nothing; the numbers of events go on after those that it has seen. A build that
// was created with detach and had all of its inputs begins again by itself.
//
// A client that has no events stream open for longer than the builder's grace
// period is taken to be gone, and its build is cancelled unless it was created
// with detach and has all of its inputs.
//
// # The cache
//
// Closure lists the narinfo of every path in the closure of a finished build's
// outputs, references first, each signed by the builder's Nix key in addition
// to the signatures that its daemon holds. NARs are uncompressed, so that their
// size is known in advance, and come in chunks.
//
// # Chunks
//
// A NAR is a sequence of chunks that its contents alone determine, with the hash
// parts of the store paths that it refers to masked: package chunk has the rules
// and the formats of manifests and frames. The references of a NAR are those of
// its path's narinfo and the path's own hash part.
//
// POST /v1/cache/manifests answers, for each NAR in the order asked for, with one
// byte and what follows it:
//
//	0  the NAR's manifest: chunk.Encoder's stream, which tells its own end
//	1  nothing: this NAR cannot be had
//
// A manifest that the builder does not have yet is sent while it is being made,
// so its first chunks can be asked for before its last are known. With
// Accept-Encoding: zstd the whole answer may come in Content-Encoding: zstd.
//
// POST /v1/cache/chunks answers with one frame for each chunk, in the order asked
// for. Chunks are named by their NAR and their place in its manifest, never by
// their contents, so that asking tells nothing about what others have. A NAR or
// ordinal that cannot be had comes as the frame "unavailable". So does, when the
// request says "check", a chunk that is no longer what its manifest says: a client
// that got one asks that way. Asking for the manifest again tells whether the NAR
// is gone for good. A NAR may stand in a request
// several times, and so may a chunk; each time counts. A request of more than
// [MaxChunksRequest] chunks fails with [CodeTooLarge], and the answer to one of
// more than [MaxChunkBytesRequest] bytes of them, before compression, is cut off
// there; an empty range is a [CodeBadRequest].
//
// Either request may be repeated at any time, and several may be under way.
//
// # Direct paths
//
// A client that reached the builder through a relay may ask for a way around
// it: with POST /v1/path each end tells the other the addresses at which it may
// be reached (path.go). Both then send punch packets from the very UDP sockets
// that QUIC (RFC 9000) uses, and the client connects to an address that one came
// from: HTTP/3 (RFC 9114) in a session with the same two certificates. Where the
// builder listens on TCP, TLS does as well, with the same HTTP inside as a circuit;
// by QUIC all requests are streams of one connection. All paths lead to the same
// handlers, and any request may take any of them. GET /v1/path is answered with
// nothing: it measures a path.
//
// An end sends packets to no more than [MaxCandidates] addresses of one list,
// few to each and few in all; to none that are loopback, link-local, multicast
// or broadcast, to none with a port below 1024, and to private ones only in
// networks that it is itself connected to.
//
// # Errors
//
// A failed request is answered with an RFC 9457 problem document ([Error],
// media type application/problem+json): a stable code, a title, what happened
// and what to do. errors.go lists the codes with their HTTP statuses and the
// command line's exit codes. After the headers of a stream have been sent, a
// failure breaks the answer off; the reader asks again and then gets the problem.
//
// # Limits
//
// limits.go names those that every peer may rely on. A builder may also bound what a
// document has in all, as package builder does (closure.go). A peer that exceeds a
// limit is answered with [CodeTooLarge] or cut off; nothing is allocated by a length
// that a peer stated before the bytes arrived.
package wire
