package main

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/client"
	"github.com/drv-thru/drv-thru/fusecache/helper"
)

// Who asks for one way of importing does without the helper, and is told so where it
// would have done.
func TestHelped(t *testing.T) {
	const key, other = "attic-1:arnx6499M4j0+dWG9m6Z/VQIDfLERvDlhmiwnAihbdA=", "attic-1:AV9+a8Wur0g3JAieklLME7UJUaa2lBJSJ2XP9NeAMG4="
	dir := t.TempDir()
	keys, socket := filepath.Join(dir, "keys"), filepath.Join(dir, "socket")
	if err := os.WriteFile(keys, []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	server, err := helper.NewServer(helper.Config{KeyFiles: []string{keys}, Dir: filepath.Join(dir, "helper"), Nix: "/bin/true", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() { server.Close(); <-served }()
	for _, c := range []struct {
		socket, key, mode string
		helps             bool
		says              string
	}{
		{socket, key, "auto", true, ""},
		{socket, key, "http", false, "the import helper would take it, but --import http does without"},
		{socket, key, "fuse", false, "the import helper would take it, but --import fuse does without"},
		{socket, other, "http", false, "the key is not on its list"},
		{filepath.Join(dir, "none"), key, "http", false, ""},
	} {
		if os.Geteuid() != 0 && c.socket == socket {
			c.helps, c.says = false, "is not root" // who is not is not taken for the helper
		}
		a := &app{environ: []string{importHelperEnv + "=" + c.socket}}
		distrust := &client.TrustError{User: "alice", Key: c.key}
		if h := a.helped(t.Context(), distrust, c.mode, log); (h != nil) != c.helps || !strings.Contains(distrust.Helper, c.says) || c.says == "" && distrust.Helper != "" {
			t.Errorf("%+v: %v, %q", c, h != nil, distrust.Helper)
		}
	}
}
