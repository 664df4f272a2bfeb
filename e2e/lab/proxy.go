//go:build linux

package lab

import (
	"bufio"
	"io"
	"net"
	"net/http"
)

// serveProxy runs an HTTP proxy at an address of the internet's machine: CONNECT,
// and plain requests with an Upgrade.
func (in *Internet) serveProxy(address string) {
	in.t.Helper()
	var l net.Listener
	err := in.Do(func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(address, "3128"))
		return err
	})
	if err != nil {
		in.t.Fatalf("lab: proxy at %s: %v", address, err)
	}
	in.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go in.proxy(c)
		}
	}()
}

func (in *Internet) proxy(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	var to net.Conn
	// The socket is to be one of the internet's machine.
	err = in.Do(func() (err error) {
		to, err = net.Dial("tcp", req.Host)
		return err
	})
	if err != nil {
		_, _ = io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return
	}
	defer to.Close()
	if req.Method == http.MethodConnect {
		_, err = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	} else {
		err = upgrade(to, req)
	}
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(to, r)
		_ = to.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(c, to)
}

// upgrade passes a request on as it came, with its hop-by-hop headers.
func upgrade(to io.Writer, req *http.Request) error {
	w := bufio.NewWriter(to)
	if _, err := io.WriteString(w, req.Method+" "+req.URL.RequestURI()+" HTTP/1.1\r\nHost: "+req.Host+"\r\n"); err != nil {
		return err
	}
	if err := req.Header.Write(w); err != nil {
		return err
	}
	if _, err := io.WriteString(w, "\r\n"); err != nil {
		return err
	}
	return w.Flush()
}
