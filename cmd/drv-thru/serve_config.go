package main

import (
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/policies"
	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/cache"
	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/link"
	"github.com/drv-thru/drv-thru/core/ticket"
	"github.com/drv-thru/drv-thru/policy/builtin"
)

// policyName is what a policy may be called.
var policyName = pattern(`^[A-Za-z0-9_-]{1,64}$`)

// serveConfig is serve's configuration: the file's, with the flags on top.
type serveConfig struct {
	DataDir            string                   `json:"data_dir"`
	SecretKeyFile      string                   `json:"secret_key_file"`
	MaxConcurrent      int                      `json:"max_concurrent_builds"`
	MaxParallelFills   int                      `json:"output_cache_max_parallel_fills"`
	RecentBuilds       int                      `json:"recent_builds_limit"`
	TrustedClients     map[string]trustedClient `json:"trusted_clients"`
	Relays             []string                 `json:"relays"`
	RelayTokenFiles    map[string]string        `json:"relay_token_files"` // URL → file
	EmbeddedRelay      string                   `json:"embedded_relay"`
	EmbeddedRelayURLs  []string                 `json:"embedded_relay_urls"`
	Listen             string                   `json:"listen"`
	Announce           []string                 `json:"announce"`
	STUN               []string                 `json:"stun"`
	AdminSocket        string                   `json:"admin_socket"`
	KeepOutputs        ticket.Duration          `json:"keep_outputs"`
	ReattachGrace      ticket.Duration          `json:"reattach_grace"`
	DrainTimeout       ticket.Duration          `json:"drain_timeout"`
	MaxOutputBytes     ticket.Size              `json:"max_output_bytes"`
	MaxIndexBytes      ticket.Size              `json:"max_index_bytes"`
	MaxLogBytes        ticket.Size              `json:"max_log_bytes"`
	MinFree            ticket.Size              `json:"min_free"`
	Cores              int                      `json:"cores"`
	MaxSilentTime      ticket.Duration          `json:"max_silent_time"`
	Systems            []string                 `json:"systems"`
	Metrics            string                   `json:"metrics"`
	MetricsPublic      bool                     `json:"metrics_public"`
	AllowTrustedDaemon bool                     `json:"allow_trusted_daemon"`
	AllowUnsandboxed   bool                     `json:"allow_unsandboxed"`
	// Policies by name; see docs/policies.md.
	Policies map[string]policies.Policy `json:"policies"`
}

// trustedClient is a client that needs no ticket.
type trustedClient struct {
	PublicKey      key.ID           `json:"public_key"`
	MaxBuildTime   *ticket.Duration `json:"max_build_time"`
	MaxUploadBytes *ticket.Size     `json:"max_upload_bytes"`
	Cache          string           `json:"cache"`
	Policy         string           `json:"policy"`
	Priority       int              `json:"priority"`
}

const (
	defaultMinFree = 5 << 30
	// maxParallelFills bounds output_cache_max_parallel_fills.
	maxParallelFills = 16
	// maxPriority bounds trusted_clients.<name>.priority in both directions.
	maxPriority = 100
	// maxNixNumber is what Nix reads of its own settings (libutil/serialise.hh, readInt).
	maxNixNumber = math.MaxUint32
	// maxClientName is what a ticket's name may have, too.
	maxClientName   = 200
	systemDataDir   = "/var/lib/drv-thru"
	adminSocketName = "admin.sock"
)

func defaultServeConfig() serveConfig {
	return serveConfig{
		MaxConcurrent: 1, RecentBuilds: 20, MinFree: defaultMinFree,
		MaxIndexBytes: cache.DefaultIndexBytes, MaxLogBytes: builder.DefaultKeepLogs,
	}
}

// readConfig reads a configuration file on top of c.
func (c *serveConfig) readConfig(path string) error {
	if err := readJSON(path, c); err != nil {
		return usagef("read configuration: %s", err)
	}
	return nil
}

// check completes the configuration and says what is wrong with it.
func (c *serveConfig) check(a *app) error {
	if c.DataDir == "" {
		dir, err := a.defaultDataDir()
		if err != nil {
			return err
		}
		c.DataDir = dir
	}
	abs, err := filepath.Abs(c.DataDir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	c.DataDir = abs
	if c.SecretKeyFile == "" {
		c.SecretKeyFile = filepath.Join(c.DataDir, "secret.key")
	}
	if c.AdminSocket == "" {
		c.AdminSocket = filepath.Join(c.DataDir, adminSocketName)
	}
	switch {
	case c.MaxConcurrent < 1:
		return usagef("max_concurrent_builds must be at least 1")
	case c.RecentBuilds < 1:
		return usagef("recent_builds_limit must be at least 1")
	case c.Cores < 0 || c.Cores > maxNixNumber:
		return usagef("cores must be 0 to %d", int64(maxNixNumber))
	case c.MaxSilentTime.Std() > maxNixNumber*time.Second:
		return usagef("max_silent_time is at most %s", ticket.Duration(maxNixNumber*time.Second))
	case c.MaxParallelFills < 0 || c.MaxParallelFills > maxParallelFills:
		return usagef("output_cache_max_parallel_fills must be 1 to 16")
	}
	if err := checkSystems("systems:", c.Systems); err != nil {
		return err
	}
	for _, r := range slices.Concat(c.Relays, c.EmbeddedRelayURLs) {
		if err := ticket.CheckRelayURL(r); err != nil {
			return usagef("%s", err)
		}
	}
	for _, urls := range []*[]string{&c.Relays, &c.EmbeddedRelayURLs} {
		if *urls, err = link.RelayURLs(*urls); err != nil {
			return usagef("%s", err)
		}
	}
	if len(c.Relays) == 0 && c.EmbeddedRelay == "" {
		c.EmbeddedRelay = defaultEmbeddedRelay
	}
	if c.EmbeddedRelay != "" {
		if _, err := net.ResolveTCPAddr("tcp", c.EmbeddedRelay); err != nil {
			return usagef("--embedded-relay=%s: want :PORT or ADDRESS:PORT: %s", c.EmbeddedRelay, err)
		}
	}
	if _, err := c.direct(); err != nil {
		return err
	}
	if _, err := c.metricsAddress(); err != nil {
		return err
	}
	for name, p := range c.Policies {
		if !policyName().MatchString(name) {
			return usagef("policy %q: a name is letters, digits, - and _", name)
		}
		if err := p.Check(); err != nil {
			return usagef("policy %q: %s", name, err)
		}
	}
	_, err = c.clients()
	return err
}

// systemName is what a Nix system may be called.
var systemName = pattern(`^[A-Za-z0-9_.+-]{1,64}$`)

// checkSystems checks Nix systems; what is where they were given.
func checkSystems(what string, systems []string) error {
	for i, s := range systems {
		switch {
		case !systemName().MatchString(s):
			return usagef("%s %q is no system, such as x86_64-linux", what, s)
		case slices.Contains(systems[:i], s):
			return usagef("%s %s is there twice", what, s)
		}
	}
	return nil
}

// defaultDataDir is the system's for root and for whoever may write there, else
// the user's.
func (a *app) defaultDataDir() (string, error) {
	if os.Geteuid() == 0 {
		return systemDataDir, nil
	}
	if f, err := os.CreateTemp(systemDataDir, ".writable-*"); err == nil {
		f.Close()
		return systemDataDir, os.Remove(f.Name())
	}
	if dir := a.env("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "drv-thru"), nil
	}
	if home := a.env("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "drv-thru"), nil
	}
	return "", usagef("no data directory: name one with --data-dir")
}

// clients returns the trusted clients by their keys.
func (c *serveConfig) clients() (map[key.ID]builder.TrustedClient, error) {
	clients := make(map[key.ID]builder.TrustedClient, len(c.TrustedClients))
	for name, t := range c.TrustedClients {
		if name == "" || len(name) > maxClientName || strings.ContainsFunc(name, unicode.IsControl) {
			return nil, usagef("trusted client %.60q: a name has 1 to %d bytes and no control characters", name, maxClientName)
		}
		if t.PublicKey.IsZero() {
			return nil, usagef("trusted client %q has no public_key", name)
		}
		if other, twice := clients[t.PublicKey]; twice {
			return nil, usagef("trusted clients %q and %q have the same public_key", other.Name, name)
		}
		tc := builder.TrustedClient{Name: name, Cache: builder.CacheAccess(t.Cache), Policy: t.Policy, Priority: t.Priority, Limits: ticket.Limits{
			MaxBuildTime: ticket.DefaultMaxBuildTime, MaxUploadBytes: ticket.DefaultMaxUploadBytes,
		}}
		if t.MaxBuildTime != nil {
			tc.Limits.MaxBuildTime = *t.MaxBuildTime
		}
		if t.MaxUploadBytes != nil {
			tc.Limits.MaxUploadBytes = *t.MaxUploadBytes
		}
		if _, known := c.Policies[t.Policy]; !known && t.Policy != "" && t.Policy != builtin.Name {
			return nil, usagef("trusted client %q: there is no policy %q", name, t.Policy)
		}
		if t.Priority < -maxPriority || t.Priority > maxPriority {
			return nil, usagef("trusted client %q: priority is %d; want %d to %d, 0 being that of tickets", name, t.Priority, -maxPriority, maxPriority)
		}
		switch tc.Cache {
		case "":
			tc.Cache = builder.CacheBuilds
		case builder.CacheBuilds, builder.CacheStore:
		default:
			return nil, usagef("trusted client %q: cache is %q; want builds or store", name, t.Cache)
		}
		clients[t.PublicKey] = tc
	}
	return clients, nil
}

// unlimited is the number of bytes that a size stands for where "unlimited" means
// as many as there are.
func unlimited(s ticket.Size) int64 {
	if s == 0 {
		return math.MaxInt64
	}
	return int64(s)
}

// parallelFills is how many store paths are prepared for sending at once: as
// many as there are CPUs, unless set.
func (c *serveConfig) parallelFills() int {
	if c.MaxParallelFills > 0 {
		return c.MaxParallelFills
	}
	return min(max(1, runtime.NumCPU()), maxParallelFills)
}
