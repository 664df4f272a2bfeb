package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// A builder that has nothing to remove is told from one that is not there.
func TestGcOfABuilderWithNothingToRemove(t *testing.T) {
	for _, answer := range []string{"null", "[]"} {
		dir := t.TempDir()
		socket := filepath.Join(dir, "admin.sock")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, answer)
		})}
		go func() { _ = srv.Serve(l) }()
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), []string{"gc", "--dry-run", "--json", "--admin-socket", socket}, strings.NewReader(""), &stdout, &stderr, []string{"HOME=" + dir})
		srv.Close()
		if want := `{"dry_run":true,"client":[],"builder":[]}` + "\n"; code != 0 || stdout.String() != want {
			t.Errorf("%s: exit code %d, %q, %q; want %q", answer, code, &stdout, &stderr, want)
		}
	}
}
