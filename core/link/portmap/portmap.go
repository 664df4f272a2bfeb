// Package portmap asks the router in front of this host to forward a port, by
// NAT-PMP (RFC 6886), PCP (RFC 6887) or UPnP IGD, and keeps it forwarded.
//
// All of it is best effort and in the background: most networks have none of
// the three, and nothing waits for an answer.
package portmap
