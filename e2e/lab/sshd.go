//go:build linux

package lab

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// An SSHD is a real sshd on a host that lets one user of it in.
type SSHD struct {
	user string
	port int
	key  string // the secret key that is let in
	pub  string // the host's own public key
}

// SSHD starts an sshd on loopback that user may log in to. See [SSHD.Allow].
func (h *Host) SSHD(user string) *SSHD {
	h.t.Helper()
	const dir = "/etc/ssh/lab"
	home := h.users[user].home
	h.Shell(RootUser, `
		mkdir -p `+dir+` /run/sshd
		usermod -p '*' `+user+` # an account without a password counts as locked
		ssh-keygen -q -t ed25519 -N '' -f `+dir+`/host
		ssh-keygen -q -t ed25519 -N '' -f `+dir+`/login`)
	s := &SSHD{user: user, port: h.FreePort()}
	s.key, s.pub = h.mustRead(dir+"/login"), h.mustRead(dir+"/host.pub")
	h.WriteSecret(user, filepath.Join(home, ".ssh/authorized_keys"), h.mustRead(dir+"/login.pub"))
	p := h.Start(RootUser, "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null",
		"-o", "ListenAddress=127.0.0.1:"+strconv.Itoa(s.port), "-o", "HostKey="+dir+"/host",
		"-o", "StrictModes=no", "-o", "PasswordAuthentication=no", "-o", "PidFile=none",
		"-o", "SetEnv=PATH="+searchPath+" NIX_REMOTE=daemon")
	p.WaitFor(`Server listening on`, 20*time.Second)
	return s
}

// Allow gives alice of another host (or the same) what it takes to log in, and
// returns the store URL and the environment for that.
func (s *SSHD) Allow(client *Host) (storeURL string, env []string) {
	client.t.Helper()
	dir := filepath.Join(client.users[Alice].home, ".ssh")
	name := "lab-" + strconv.Itoa(s.port)
	client.WriteSecret(Alice, filepath.Join(dir, name), s.key)
	client.WriteFile(Alice, filepath.Join(dir, name+".hosts"), fmt.Sprintf("[127.0.0.1]:%d %s", s.port, s.pub))
	opts := []string{
		"-p", strconv.Itoa(s.port), "-i", filepath.Join(dir, name),
		"-o", "UserKnownHostsFile=" + filepath.Join(dir, name+".hosts"), "-o", "BatchMode=yes",
	}
	return "ssh-ng://" + s.user + "@127.0.0.1", []string{"NIX_SSHOPTS=" + strings.Join(opts, " ")}
}

// Alias gives a user of another host what it takes to log in by "ssh NAME" alone,
// as user: what nix-daemon needs for a machine that it sends builds to.
func (s *SSHD) Alias(client *Host, user, name string) {
	client.t.Helper()
	dir := filepath.Join(client.users[user].home, ".ssh")
	client.WriteSecret(user, filepath.Join(dir, name), s.key)
	client.WriteFile(user, filepath.Join(dir, name+".hosts"), fmt.Sprintf("[127.0.0.1]:%d %s", s.port, s.pub))
	client.WriteSecret(user, filepath.Join(dir, "config"), fmt.Sprintf(`Host %s
HostName 127.0.0.1
Port %d
User %s
IdentityFile %s
UserKnownHostsFile %[4]s.hosts
BatchMode yes
`, name, s.port, s.user, filepath.Join(dir, name)))
}

func (h *Host) mustRead(name string) string {
	h.t.Helper()
	data, err := h.ReadFile(name)
	if err != nil {
		h.t.Fatalf("lab: read %s on %s: %v", name, h.name, err)
	}
	return string(data)
}

// FreePort is a TCP port of the host's loopback that nothing listens on.
func (h *Host) FreePort() int {
	h.t.Helper()
	var port int
	err := h.Do(func() error {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		port = l.Addr().(*net.TCPAddr).Port
		return l.Close()
	})
	if err != nil {
		h.t.Fatalf("lab: find a free port on %s: %v", h.name, err)
	}
	return port
}

// dialable says whether something accepts TCP connections at addr.
func dialable(h *Host, addr string) bool {
	return h.Do(func() error {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	}) == nil
}
