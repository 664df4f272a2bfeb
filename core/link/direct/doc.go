// Package direct is what core/link's direct paths stand on: one UDP socket that
// carries QUIC, STUN (RFC 8489) and punch packets, the addresses at which a host
// may be reached, the rules for which addresses of others get packets at all,
// and word of the network's changes.
//
// It decides nothing about identities: QUIC's TLS does that, configured by
// core/link. On systems without UDP sockets (browsers, WASI) only the rules
// for addresses are left of it.
package direct
