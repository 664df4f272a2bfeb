package helper

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// stateListen is TCP_LISTEN of the kernel's net/tcp_states.h.
const stateListen = "0A"

// ownPort makes sure that a process of the user listens at a loopback URL, and
// nobody else.
func ownPort(url string, uid uint32) error {
	at, err := parseURL(url)
	if err != nil {
		return err
	}
	file := "/proc/net/tcp"
	if at.Addr().Is6() {
		file = "/proc/net/tcp6"
	}
	table, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("find out who listens at %s: %w", at, err)
	}
	return listensThere(string(table), at, uid)
}

// listensThere reads the kernel's table of sockets: proc_pid_net(5), /proc/net/tcp.
func listensThere(table string, at netip.AddrPort, uid uint32) error {
	found := false
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 8 || f[3] != stateListen {
			continue
		}
		addr, ok := parseSocket(f[1])
		if !ok || addr != at {
			continue
		}
		if owner, err := strconv.ParseUint(f[7], 10, 32); err != nil || uint32(owner) != uid {
			return fmt.Errorf("somebody else than the client listens at %s", at)
		}
		found = true
	}
	if !found {
		return fmt.Errorf("the client does not listen at %s", at)
	}
	return nil
}

// parseSocket reads an address as the kernel prints it: words of four bytes in the
// machine's order, little-endian on all that Nix runs on, and the port in hex.
func parseSocket(text string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	if err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		raw[i], raw[i+1], raw[i+2], raw[i+3] = raw[i+3], raw[i+2], raw[i+1], raw[i]
	}
	addr, ok := netip.AddrFromSlice(raw)
	n, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(addr, uint16(n)), ok && err == nil
}
