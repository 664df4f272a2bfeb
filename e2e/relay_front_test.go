//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// A front is a way to a relay that is not simply its own listener.
type front struct {
	name, url string
	// env is what the client's environment adds.
	env []string
}

// The relay behind real proxies, in front of a client's proxy, and over IPv6: a
// build goes through each.
func TestRelayBehindProxies(t *testing.T) {
	lab.Programs(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cert := writeCert(t, dir, "relay.test", "proxied.test")

	b := lab.NewHost(t, lab.Trixie, lab.WithName("builder"))
	c := lab.NewHost(t, lab.Trixie, lab.WithName("client"))
	walled := lab.NewHost(t, lab.Trixie, lab.WithName("walled"))
	// The client reaches proxied.test through its proxy alone, and so does the builder
	// on this host.
	const here = "127.0.0.1 localhost relay.test proxied.test\n"
	b.WriteFile(lab.RootUser, "/etc/hosts", here)
	for _, h := range []*lab.Host{c, walled} {
		h.WriteFile(lab.RootUser, "/etc/hosts", "127.0.0.1 localhost relay.test\n127.0.0.99 proxied.test\n")
	}
	for _, h := range []*lab.Host{b, c, walled} {
		h.WriteFile(lab.RootUser, "/etc/ssl/certs/ca-certificates.crt", cert)
	}

	fronts := []front{
		frontNginx(t, dir, b, here),
		frontCaddy(t, dir, b, here),
		frontProxied(t, dir, b, cert, startTinyproxy(t, dir, b, here)),
		frontProxied(t, dir, b, cert, startSquid(t, dir, b, here)),
		frontIPv6(t, b),
	}
	client := someKey(t)
	c.WriteSecret(lab.Alice, "/home/alice/client.key", client.Text()+"\n")
	var relays []string
	for _, f := range fronts {
		relays = append(relays, f.url)
	}
	b.StartDaemon()
	builder := lab.StartBuilder(t, b, lab.BuilderConfig{Relays: relays, Args: []string{"--trusted-client", client.ID().String()}})
	c.StartDaemon("trusted-public-keys = " + builder.PublicKey())
	endpoint := statusOf(t, builder).Endpoint

	for _, f := range fronts {
		t.Run(f.name, func(t *testing.T) {
			build := c.Command(lab.Alice, "drv-thru", "build", "--server", endpoint, "--relay-url", f.url,
				"--key-file", "/home/alice/client.key", "--no-link", "--impure", "--expr", string(lab.Concat("front", f.name)))
			build.AddEnv(f.env...)
			out, err := build.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			says(t, string(out), "relay "+f.url)
		})
	}

	walled.StartDaemon()
	for _, f := range fronts {
		if f.env == nil {
			continue
		}
		t.Run("serve by "+f.name, func(t *testing.T) {
			builder := lab.StartBuilder(t, walled, lab.BuilderConfig{Relays: []string{f.url}, Env: f.env})
			defer builder.Stop(longest)
			c.StartDaemon("trusted-public-keys = " + builder.PublicKey())
			builder.WaitFor("registered at relay", longest)
			build := c.Command(lab.Alice, "drv-thru", "build", "--ticket", builder.Ticket(), "--no-link",
				"--impure", "--expr", string(lab.Concat("walled", f.name)))
			out, err := build.AddEnv(f.env...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			says(t, string(out), "relay "+f.url)
		})
	}
}

// listening waits until somebody listens on an address of the machine.
func listening(t *testing.T, address string) {
	t.Helper()
	eventually(t, "somebody listens on "+address, func() bool {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// hidden starts a relay that speaks plain HTTP behind a proxy of this machine.
func hidden(t *testing.T, h *lab.Host) *lab.Relay {
	return lab.StartRelay(t, h, "--hostname", "relay.test", "--trusted-proxies", "127.0.0.1,::1")
}

// frontNginx has the relay below a path, as docs/relay.md shows it.
func frontNginx(t *testing.T, dir string, h *lab.Host, hosts string) front {
	address := fmt.Sprintf("127.0.0.1:%d", h.FreePort())
	conf := filepath.Join(dir, "nginx.conf")
	write(t, conf, `
		daemon off; master_process off; pid `+dir+`/nginx.pid; error_log stderr;
		events { }
		http {
			access_log off;
			client_body_temp_path `+dir+`/n1; proxy_temp_path `+dir+`/n2; fastcgi_temp_path `+dir+`/n3;
			uwsgi_temp_path `+dir+`/n4; scgi_temp_path `+dir+`/n5;
			server {
				listen `+address+` ssl;
				ssl_certificate `+dir+`/cert.pem;
				ssl_certificate_key `+dir+`/key.pem;
				location /relay/ {
					proxy_pass `+hidden(t, h).URL+`/;
					proxy_http_version 1.1;
					proxy_set_header Host $http_host;
					proxy_set_header Upgrade $http_upgrade;
					proxy_set_header Connection "upgrade";
					proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
					proxy_read_timeout 1h;
					proxy_send_timeout 1h;
					proxy_buffer_size 64k;
					proxy_buffers 8 64k;
				}
			}
		}`)
	lab.StartProxy(t, hosts, "nginx", "-p", dir, "-c", conf)
	listening(t, address)
	_, port, _ := net.SplitHostPort(address)
	return front{name: "nginx", url: "https://relay.test:" + port + "/relay"}
}

func frontCaddy(t *testing.T, dir string, h *lab.Host, hosts string) front {
	port := h.FreePort()
	conf := filepath.Join(dir, "Caddyfile")
	write(t, conf, fmt.Sprintf(`{
	admin off
	auto_https disable_redirects
}
https://relay.test:%d {
	bind 127.0.0.1
	tls %[2]s/cert.pem %[2]s/key.pem
	reverse_proxy %[3]s
}
`, port, dir, hidden(t, h).URL))
	lab.StartProxy(t, hosts, "caddy", "run", "--adapter", "caddyfile", "--config", conf)
	listening(t, fmt.Sprintf("127.0.0.1:%d", port))
	return front{name: "caddy", url: fmt.Sprintf("https://relay.test:%d", port)}
}

// A proxy is a program that clients reach others through.
type proxy struct{ name, address string }

// startTinyproxy and startSquid run proxies that let clients connect anywhere.
func startTinyproxy(t *testing.T, dir string, h *lab.Host, hosts string) proxy {
	port := h.FreePort()
	conf := filepath.Join(dir, "tinyproxy.conf")
	write(t, conf, fmt.Sprintf("Port %d\nListen 127.0.0.1\nAllow 127.0.0.1\nTimeout 600\nMaxClients 20\nLogLevel Info\n", port))
	lab.StartProxy(t, hosts, "tinyproxy", "-d", "-c", conf)
	return proxy{"tinyproxy", fmt.Sprintf("127.0.0.1:%d", port)}
}

func startSquid(t *testing.T, dir string, h *lab.Host, hosts string) proxy {
	port := h.FreePort()
	conf := filepath.Join(dir, "squid.conf")
	write(t, conf, fmt.Sprintf(`
		http_port 127.0.0.1:%d
		http_access allow localhost
		cache deny all
		pid_filename none
		access_log none
		cache_log stdio:/dev/stderr
		netdb_filename none
		pinger_enable off
		shutdown_lifetime 0 seconds
	`, port))
	lab.StartProxy(t, hosts, "squid", "-N", "-f", conf)
	return proxy{"squid", fmt.Sprintf("127.0.0.1:%d", port)}
}

// frontProxied is a relay with a certificate that the client reaches only through a
// proxy.
func frontProxied(t *testing.T, dir string, h *lab.Host, cert string, through proxy) front {
	key, err := os.ReadFile(filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	h.WriteFile(lab.BuilderUser, "/tmp/cert.pem", cert)
	h.WriteSecret(lab.BuilderUser, "/tmp/key.pem", string(key))
	relay := lab.StartRelay(t, h, "--tls-cert", "/tmp/cert.pem", "--tls-key", "/tmp/key.pem", "--hostname", "proxied.test")
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(relay.URL, "http://"))
	listening(t, through.address)
	return front{name: "HTTPS_PROXY " + through.name, url: "https://proxied.test:" + port, env: []string{"HTTPS_PROXY=http://" + through.address}}
}

func frontIPv6(t *testing.T, h *lab.Host) front {
	address := fmt.Sprintf("[::1]:%d", h.FreePort())
	h.Start(lab.BuilderUser, "drv-thru-relay", "--listen", address, "--hostname", address)
	listening(t, address)
	return front{name: "IPv6", url: "http://" + address}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// writeCert makes cert.pem, which it returns, and key.pem.
func writeCert(t *testing.T, dir string, names ...string) string {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: names, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, filepath.Join(dir, "cert.pem"), cert)
	write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	return cert
}
