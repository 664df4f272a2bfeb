//go:build !linux

package relay

import "net"

// Elsewhere the system chooses what answers come from.
const infoSize = 0

func askForInfo(*net.UDPConn) {}

func fromThere([]byte) []byte { return nil }
