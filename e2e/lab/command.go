//go:build linux

package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// searchPath is PATH inside every host.
const searchPath = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"

// A Cmd is an [exec.Cmd] that runs inside a host. The fields may be changed
// before it is started; Env is complete and clean, so append to it.
type Cmd struct {
	*exec.Cmd
	host *Host
	user string
}

// Command prepares a program to run in the host as a user. The program is
// looked up in the host. The environment is that of a fresh login of the user,
// with the daemon as the store unless the user is root.
func (h *Host) Command(user string, argv ...string) *Cmd {
	// A name with a slash is not looked up here, where the wrong PATH is.
	cmd := exec.Command("/"+argv[0], argv[1:]...)
	cmd.Args[0] = argv[0]
	acc, ok := h.users[user]
	if !ok {
		cmd.Err = fmt.Errorf("host %s has no user %q", h.name, user)
		return &Cmd{Cmd: cmd, host: h, user: user}
	}
	cmd.Dir = acc.home
	cmd.Env = []string{
		"PATH=" + searchPath, "HOME=" + acc.home, "USER=" + user, "LOGNAME=" + user,
		"SHELL=/bin/bash", "LANG=C.UTF-8", "TMPDIR=/tmp",
	}
	if user != RootUser {
		cmd.Env = append(cmd.Env, "NIX_REMOTE=daemon")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: acc.uid, Gid: acc.gid},
		Setsid:     true,
	}
	return &Cmd{Cmd: cmd, host: h, user: user}
}

// AddEnv sets variables, "NAME=value".
func (c *Cmd) AddEnv(env ...string) *Cmd {
	c.Env = append(c.Env, env...)
	return c
}

// In sets the working directory.
func (c *Cmd) In(dir string) *Cmd {
	c.Dir = dir
	return c
}

// WithStdin gives the program its standard input.
func (c *Cmd) WithStdin(text string) *Cmd {
	c.Stdin = strings.NewReader(text)
	return c
}

// Start is [exec.Cmd.Start], in the host.
func (c *Cmd) Start() error {
	if c.Err != nil {
		return c.Err
	}
	return c.host.Do(func() error {
		path, err := lookPath(c.Args[0], c.Dir)
		if err != nil {
			return err
		}
		c.Path = path
		return c.Cmd.Start()
	})
}

// lookPath runs inside the host.
func lookPath(name, dir string) (string, error) {
	candidates := []string{name}
	switch {
	case !strings.Contains(name, "/"):
		candidates = nil
		for _, d := range filepath.SplitList(searchPath) {
			candidates = append(candidates, filepath.Join(d, name))
		}
	case !filepath.IsAbs(name):
		candidates[0] = filepath.Join(dir, name)
	}
	for _, c := range candidates {
		if info, err := os.Stat(c); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return c, nil
		}
	}
	return "", fmt.Errorf("no program %s in the host", name)
}

// Run is [exec.Cmd.Run], in the host.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output is [exec.Cmd.Output], in the host. The error names the command and
// quotes its standard error.
func (c *Cmd) Output() ([]byte, error) {
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	return stdout.Bytes(), c.explain(err, stderr.Bytes())
}

// CombinedOutput is [exec.Cmd.CombinedOutput], in the host.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), c.explain(err, nil)
}

func (c *Cmd) explain(err error, stderr []byte) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s, on %s as %s: %w\n%s", strings.Join(c.Args, " "), c.host.name, c.user, err, tail(stderr, 8<<10))
}

// ExitCode is the exit status that an error of [Cmd.Run] and its like stands
// for: 0 for nil, -1 for a program that did not start or was killed.
func ExitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	default:
		return -1
	}
}

// Run runs a command to its end, failing the test if it fails, and returns its
// standard output without the final newline.
func (h *Host) Run(user string, argv ...string) string {
	h.t.Helper()
	return h.Must(h.Command(user, argv...))
}

// Must runs a prepared command to its end, failing the test if it fails, and
// returns its standard output without the final newline.
func (h *Host) Must(c *Cmd) string {
	h.t.Helper()
	out, err := c.Output()
	if err != nil {
		h.t.Fatalf("%v", err)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// Shell runs a script with sh -euc, failing the test if it fails, and returns
// its standard output.
func (h *Host) Shell(user, script string) string {
	h.t.Helper()
	return h.Run(user, "sh", "-euc", script)
}

// WriteFile writes a file in the host, owned by user, with its directories.
func (h *Host) WriteFile(user, name, contents string) {
	h.t.Helper()
	h.writeFile(user, name, contents, 0o644)
}

// WriteSecret is [Host.WriteFile] for a file that only user may read.
func (h *Host) WriteSecret(user, name, contents string) {
	h.t.Helper()
	h.writeFile(user, name, contents, 0o600)
}

func (h *Host) writeFile(user, name, contents string, mode os.FileMode) {
	h.t.Helper()
	acc := h.users[user]
	err := h.Do(func() error {
		if err := mkdirAll(filepath.Dir(name), acc); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(contents), mode); err != nil {
			return err
		}
		if err := os.Chmod(name, mode); err != nil {
			return err
		}
		return os.Chown(name, int(acc.uid), int(acc.gid))
	})
	if err != nil {
		h.t.Fatalf("lab: write %s on %s: %v", name, h.name, err)
	}
}

// mkdirAll makes directories that belong to acc, as far as they are new.
func mkdirAll(dir string, acc account) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	if err := mkdirAll(filepath.Dir(dir), acc); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chown(dir, int(acc.uid), int(acc.gid))
}

// ReadFile reads a file of the host.
func (h *Host) ReadFile(name string) ([]byte, error) {
	var data []byte
	err := h.Do(func() (err error) {
		data, err = os.ReadFile(name)
		return err
	})
	return data, err
}
