package direct

import (
	"bytes"
	"fmt"
	"net"
	"testing"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// What is sent in segments of one packet arrives as the packets that it is, however
// many are asked for.
func TestGathering(t *testing.T) {
	here := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	to, err := net.ListenUDP("udp4", here)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	from, err := net.DialUDP("udp4", nil, to.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	c, ok := gathering(to).(*gatheringConn)
	if !ok {
		t.Fatal("this kernel gathers nothing (UDP_GRO, Linux 5.0)")
	}
	raw, err := from.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	const size, packets = 1200, 21
	var sent [][]byte
	for i := range packets {
		sent = append(sent, bytes.Repeat([]byte{byte(i)}, size))
	}
	sent[packets-1] = sent[packets-1][:300]
	if err := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, size) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal("this kernel sends no segments (UDP_SEGMENT, Linux 4.18): ", err)
	}
	for _, packet := range [][]byte{bytes.Join(sent, nil), []byte("alone")} {
		if _, err := from.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	sent = append(sent, []byte("alone"))
	ms := make([]ipv4.Message, 8)
	for i := range ms {
		ms[i] = ipv4.Message{Buffers: [][]byte{make([]byte, 1452)}, OOB: make([]byte, oobSize)}
	}
	most := 0
	for got := 0; got < len(sent); {
		n, err := c.ReadBatch(ms, 0)
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, n)
		for _, m := range ms[:n] {
			if !bytes.Equal(m.Buffers[0][:m.N], sent[got]) || fmt.Sprint(m.Addr) != from.LocalAddr().String() {
				t.Fatalf("packet %d is %d bytes from %v", got, m.N, m.Addr)
			}
			got++
		}
	}
	if most != len(ms) {
		t.Errorf("%d packets at once, want %d", most, len(ms))
	}
}
