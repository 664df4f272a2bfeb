//go:build linux

package lab

import (
	"fmt"
	"strings"
	"time"
)

// Programs start within this time, or not at all.
const startTimeout = 60 * time.Second

// A Relay is a running drv-thru-relay.
type Relay struct {
	*Process
	URL string

	host *Host
	args []string
}

// StartRelay runs drv-thru-relay on a host's loopback, without TLS. args are
// further flags.
func StartRelay(t T, h *Host, args ...string) *Relay {
	t.Helper()
	Programs(t)
	addr := fmt.Sprintf("127.0.0.1:%d", h.FreePort())
	r := &Relay{
		URL:  "http://" + addr,
		host: h,
		args: append([]string{"drv-thru-relay", "--listen", addr, "--hostname", addr}, args...),
	}
	r.Start()
	return r
}

// Start starts the relay again, at the same address, after Stop or Kill.
func (r *Relay) Start() {
	r.host.t.Helper()
	r.Process = r.host.Start(BuilderUser, r.args...)
	r.host.eventually("the relay listens on "+r.URL, startTimeout, r.Process, func() bool {
		return dialable(r.host, strings.TrimPrefix(r.URL, "http://"))
	})
}

// Restart stops the relay as a deployment does and starts it again.
func (r *Relay) Restart() {
	r.host.t.Helper()
	r.Stop(startTimeout)
	r.Start()
}

// A BuilderConfig says how [StartBuilder] runs drv-thru serve.
type BuilderConfig struct {
	// Relays are the --relay URLs; without any the relay is embedded.
	Relays []string
	// Direct lets clients come without a relay. Hosts share the machine's network
	// unless they have their own, so only scenarios about paths want it.
	Direct bool
	// Args are further flags.
	Args []string
	// Env is added to the environment.
	Env []string
	// DataDir is the --data-dir. The default is the builder's home.
	DataDir string
	// User is who runs it, BuilderUser by default.
	User string
}

// A Builder is a running drv-thru serve.
type Builder struct {
	*Process
	Host *Host

	config BuilderConfig
	socket string
}

// StartBuilder runs drv-thru serve on a host whose daemon runs, and waits until
// it is ready: its relay knows it, and who comes now finds it.
func StartBuilder(t T, h *Host, config BuilderConfig) *Builder {
	t.Helper()
	Programs(t)
	if config.User == "" {
		config.User = BuilderUser
	}
	if config.DataDir == "" {
		config.DataDir = h.users[config.User].home + "/state"
	}
	b := &Builder{Host: h, config: config, socket: config.DataDir + "/admin.sock"}
	b.Start()
	b.WaitFor(`ready +make a ticket`, startTimeout)
	return b
}

// Start starts the builder again, with the same state, after Stop or Kill.
func (b *Builder) Start() {
	b.Host.t.Helper()
	b.Process = b.Host.StartCmd(b.Host.Command(b.config.User, b.argv()...).AddEnv(b.config.Env...))
	b.Host.eventually("the builder answers on "+b.socket, startTimeout, b.Process, func() bool {
		return b.AdminCmd("ticket", "list").Run() == nil
	})
}

func (b *Builder) argv() []string {
	argv := []string{"drv-thru", "serve", "--data-dir", b.config.DataDir, "--admin-socket", b.socket}
	for _, r := range b.config.Relays {
		argv = append(argv, "--relay", r)
	}
	if !b.config.Direct {
		argv = append(argv, "--listen", "none")
	}
	return append(argv, b.config.Args...)
}

// AdminCmd prepares a command of drv-thru that talks to the running builder:
// "ticket list", "status".
func (b *Builder) AdminCmd(command ...string) *Cmd {
	return b.Host.Command(b.config.User, append([]string{"drv-thru"}, command...)...).AddEnv("DRV_THRU_ADMIN_SOCKET=" + b.socket)
}

// Admin runs [Builder.AdminCmd] and returns what it prints.
func (b *Builder) Admin(command ...string) string {
	b.Host.t.Helper()
	return b.Host.Must(b.AdminCmd(command...))
}

// Ticket makes a ticket. args are flags of ticket create.
func (b *Builder) Ticket(args ...string) string {
	b.Host.t.Helper()
	return b.Admin(append([]string{"ticket", "create"}, args...)...)
}

// PublicKey is the builder's key for trusted-public-keys: "name:base64".
func (b *Builder) PublicKey() string {
	b.Host.t.Helper()
	return strings.TrimSpace(b.Host.mustRead(b.config.DataDir + "/signing-public.key"))
}

// A Client is a user of a host who runs drv-thru build.
type Client struct {
	Host *Host
	User string
}

// NewClient is alice on a host.
func NewClient(t T, h *Host) *Client {
	t.Helper()
	Programs(t)
	return &Client{Host: h, User: Alice}
}

// BuildCmd prepares drv-thru build with a ticket; args are flags and
// installables.
func (c *Client) BuildCmd(ticket string, args ...string) *Cmd {
	argv := append([]string{"drv-thru", "build", "--ticket", ticket}, args...)
	return c.Host.Command(c.User, argv...)
}

// StartBuild runs drv-thru build in the background.
func (c *Client) StartBuild(ticket string, args ...string) *Process {
	c.Host.t.Helper()
	return c.Host.StartCmd(c.BuildCmd(ticket, args...))
}

// Build runs drv-thru build --no-link --print-out-paths to its end, failing the
// test if it fails, and returns the output paths.
func (c *Client) Build(ticket string, args ...string) []string {
	c.Host.t.Helper()
	args = append([]string{"--no-link", "--print-out-paths"}, args...)
	return strings.Fields(c.Host.Must(c.BuildCmd(ticket, args...)))
}

// BuildExpr is [Client.Build] of an expression.
func (c *Client) BuildExpr(ticket string, expr Expr) []string {
	c.Host.t.Helper()
	return c.Build(ticket, "--impure", "--expr", string(expr))
}

// A Pair is the usual set-up: a builder behind a relay and a client whose Nix
// trusts the builder's key, on two hosts.
type Pair struct {
	Relay   *Relay
	Builder *Builder
	Client  *Client
}

// NewPair starts a relay, a builder and a client.
func NewPair(t T, client, builder Root) *Pair {
	t.Helper()
	b := NewHost(t, builder, WithName("builder"))
	c := NewHost(t, client, WithName("client"))
	b.StartDaemon()
	return Join(t, b, c, BuilderConfig{})
}

// Join makes a pair of two hosts: of the builder's, whose daemon runs, and of the
// client's, whose nix.conf gets further lines.
func Join(t T, b, c *Host, config BuilderConfig, conf ...string) *Pair {
	t.Helper()
	p := &Pair{Relay: StartRelay(t, b)}
	config.Relays = []string{p.Relay.URL}
	p.Builder = StartBuilder(t, b, config)
	c.StartDaemon(append(conf, "trusted-public-keys = "+p.Builder.PublicKey())...)
	p.Client = NewClient(t, c)
	return p
}

// Verify checks both stores, and that no FUSE mount is left on the client.
func (p *Pair) Verify(t T) {
	t.Helper()
	for _, h := range []*Host{p.Client.Host, p.Builder.Host} {
		if err := h.Verify(); err != nil {
			t.Fatalf("%v", err)
		}
	}
	if mounts := p.Client.Host.FuseMounts(); len(mounts) > 0 {
		t.Fatalf("mounted on the client: %v", mounts)
	}
}
