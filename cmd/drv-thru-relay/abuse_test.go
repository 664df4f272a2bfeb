package main

import (
	"flag"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/pion/stun/v3"
	"github.com/rogpeppe/go-internal/testscript"
)

// halfOpenCount is how many connections that say nothing halfopen makes.
var halfOpenCount = flag.Int("half-open", 5_000, "connections that say nothing")

// stranger is whose limits the abuse meets: not those of sessions, which come
// from 127.0.0.1.
const stranger = "127.0.0.2"

// halfopen opens connections that say nothing, of which some stay open at any
// time, and waits until the relay has refused most of them.
func cmdHalfOpen(ts *testscript.TestScript, _ bool, _ []string) {
	const open = 256
	_, address, _ := strings.Cut(ts.Getenv("URL"), "://")
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(stranger)}, Timeout: time.Minute}
	var conns [open]net.Conn
	for i := range *halfOpenCount {
		c, err := d.Dial("tcp", address)
		ts.Check(err)
		// Without TIME_WAIT, of which there would be more than there are ports.
		ts.Check(c.(*net.TCPConn).SetLinger(0))
		if old := conns[i%open]; old != nil {
			_ = old.Close()
		}
		conns[i%open] = c
	}
	atLeast(ts, `drv_thru_relay_connections_refused_total{limit="address"}`, *halfOpenCount/2)
	for _, c := range conns {
		if c != nil {
			_ = c.Close()
		}
	}
}

// stunflood asks for far more answers than the relay gives to one address.
func cmdSTUNFlood(ts *testscript.TestScript, _ bool, _ []string) {
	_, address, _ := strings.Cut(ts.Getenv("URL"), "://")
	d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(stranger)}}
	c, err := d.Dial("udp", address)
	ts.Check(err)
	defer c.Close()
	// As long as its answer.
	padding := stun.RawAttribute{Type: stun.AttrSoftware, Value: make([]byte, 64)}
	request, err := stun.Build(stun.TransactionID, stun.BindingRequest, padding)
	ts.Check(err)
	eventually(ts, func() string {
		for range 100 {
			_, _ = c.Write(request.Raw) // what is lost is sent again
		}
		if n := metric(ts, `drv_thru_relay_stun_packets_total{result="rate"}`); n < 1000 {
			return "it has refused " + strconv.Itoa(n) + " STUN packets"
		}
		return ""
	})
}

// atLeast waits until a metric has a value.
func atLeast(ts *testscript.TestScript, name string, want int) {
	eventually(ts, func() string {
		if n := metric(ts, name); n < want {
			return name + " is " + strconv.Itoa(n)
		}
		return ""
	})
}

// metric reads a metric of the running relay.
func metric(ts *testscript.TestScript, name string) int {
	text := askMetrics(ts, "/metrics")
	_, rest, ok := strings.Cut("\n"+text, "\n"+name+" ")
	if !ok {
		ts.Fatalf("no metric %s in\n%s", name, text)
	}
	value, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseFloat(value, 64)
	ts.Check(err)
	return int(n)
}
