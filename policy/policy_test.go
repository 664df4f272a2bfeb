package policy

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/drv-thru/drv-thru/core/ticket"
)

func TestDecide(t *testing.T) {
	narrowed := testLimits
	narrowed.MaxUploadBytes, narrowed.Systems = 1<<20, []string{"aarch64-linux"}
	long := strings.Repeat(" ", 3000)
	for name, c := range map[string]struct {
		says   string
		limits ticket.Limits
		denied string
	}{
		"allow":              {says: allows, limits: testLimits},
		"white space around": {says: "\n" + allows + "\r\n", limits: testLimits},
		"spread out":         {says: `{"abi":` + long + `"ticket-policy/1","decision":"allow"}`, limits: testLimits},
		"narrow":             {says: decides(`"max_upload_bytes":1048576,"systems":["aarch64-linux"]`), limits: narrowed},
		"narrow to the same": {says: decides(`"max_upload_bytes":1073741824,"no_fixed_output":true`), limits: testLimits},
		"deny":               {says: `{"abi":"ticket-policy/1","decision":"deny","reason":"not at night"}`, denied: "not at night"},
		"deny, no reason":    {says: `{"abi":"ticket-policy/1","decision":"deny"}`, denied: "no reason given"},
		"deny in colour":     {says: `{"abi":"ticket-policy/1","decision":"deny","reason":"a\u001b[31m\n\u202eb"}`, denied: "a [31m b"},
	} {
		t.Run(name, func(t *testing.T) {
			res, err := ask(t, patient(t, false), says(c.says))
			if c.denied != "" {
				if e := wantCode(t, err, CodeDenied); e.Error() != c.denied {
					t.Errorf("denied with %q, want %q", e.Error(), c.denied)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, want := mustJSON(t, res.Limits), mustJSON(t, c.limits); got != want {
				t.Errorf("limits %s, want %s", got, want)
			}
			if res.Cost.Stdout != len(c.says) || res.Cost.Memory != pageSize || res.Cost.Stdin == 0 {
				t.Errorf("cost %+v", res.Cost)
			}
		})
	}
}

// TestDecideUnderLimits: a policy sees the limits that hold, whatever else the request
// says.
func TestDecideUnderLimits(t *testing.T) {
	m, err := patient(t, false).Load(t.Context(), says(allows))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	r := testRequest()
	r.Ticket.Limits = LimitsOf(testLimits)
	want, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, said := range []Limits{{}, {MaxUploadBytes: 1}, r.Ticket.Limits} {
		r.Ticket.Limits = said
		if res, err := m.Decide(t.Context(), r, testLimits); err != nil || res.Cost.Stdin != len(want) {
			t.Errorf("%+v: %d bytes instead of %d, %v", said, res.Cost.Stdin, len(want), err)
		}
	}
}

// TestAnswerInPieces: how the one answer is written does not matter.
func TestAnswerInPieces(t *testing.T) {
	pieces := mod{imports: []imp{fdWrite}, data: allows, body: op(write(1, 1024, 7), write(1, 1031, int32(len(allows)-7)))}
	if _, err := ask(t, patient(t, false), pieces.wasm()); err != nil {
		t.Error(err.(*Error).Owner())
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestStderr: what a module says there is for the owner, whatever came of it.
func TestStderr(t *testing.T) {
	text := "secret\x1b[2J" + allows
	code := mod{imports: []imp{fdWrite}, data: text, body: op(write(2, 1024, 10), write(1, 1034, int32(len(allows))))}.wasm()
	res, err := ask(t, patient(t, false), code)
	if err != nil || res.Stderr != text[:10] {
		t.Errorf("stderr %q, error %v", res.Stderr, err)
	}
	code = mod{imports: []imp{fdWrite}, data: text, body: op(write(2, 1024, 10), unreachable)}.wasm()
	_, err = ask(t, patient(t, false), code)
	e := wantCode(t, err, CodeTrap)
	if e.Stderr != text[:10] || strings.Contains(e.Error(), "secret") {
		t.Errorf("the holder sees %q, stderr %q", e.Error(), e.Stderr)
	}
	if !strings.Contains(e.Owner(), `secret\x1b`) || strings.Contains(e.Owner(), "\x1b") {
		t.Errorf("the owner sees %q", e.Owner())
	}
}

// TestRepeatable: clock and random bytes follow from the request, and nothing
// is kept from one decision to the next.
func TestRepeatable(t *testing.T) {
	body := op(
		i32(64), i32(32), call(1), drop, // random_get
		i32(0), []byte{0x42, 1}, i32(96), call(2), drop, // clock_time_get, wall
		i32(1), []byte{0x42, 1}, i32(104), call(2), drop, // and monotonic
		[]byte{0x23, 0}, // global.get
		i32(1), []byte{0x6a, 0x24, 0},
		i32(112), []byte{0x23, 0, 0x36, 2, 0},
		write(2, 64, 52), write(1, 1024, int32(len(allows))))
	m := mod{imports: []imp{fdWrite, randomGet, clockTimeGet}, global: true, data: allows, body: body}
	host := patient(t, false)
	loaded, err := host.Load(t.Context(), m.wasm())
	if err != nil {
		t.Fatal(err)
	}
	defer loaded.Close()
	said := func(r Request) string {
		res, err := loaded.Decide(t.Context(), r, testLimits)
		if err != nil {
			t.Fatal(err.(*Error).Owner())
		}
		return res.Stderr
	}
	first, second := said(testRequest()), said(testRequest())
	if first != second {
		t.Errorf("two answers to one request: %x and %x", first, second)
	}
	later := testRequest()
	later.Now++
	other := said(later)
	if other[:32] == first[:32] || other[32:40] == first[32:40] {
		t.Errorf("one answer to two requests: %x and %x", first, other)
	}
	if other[40:] != first[40:] {
		t.Errorf("monotonic clock and global depend on the request: %x and %x", first, other)
	}
	if now := int64(binary.LittleEndian.Uint64([]byte(first[32:40]))); now != time.Unix(1_700_000_000, 0).UnixNano() {
		t.Errorf("the clock says %d", now)
	}
}

func TestReadModule(t *testing.T) {
	files := fstest.MapFS{
		"p.wasm":   {Data: says(allows)},
		"big.wasm": {Data: make([]byte, MaxModule+1)},
		"d/x":      {},
	}
	code, err := ReadModule(files, "p.wasm")
	if err != nil {
		t.Fatal(err)
	}
	m, err := patient(t, false).Load(t.Context(), code)
	if err != nil {
		t.Fatal(err)
	}
	if m.Hash() != HashOf(code) || len(m.Info().Imports) != 1 || m.Info().Memory != pageSize {
		t.Errorf("info %+v", m.Info())
	}
	// What happens to the file later is nothing to a module that runs.
	delete(files, "p.wasm")
	if _, err := m.Decide(t.Context(), testRequest(), testLimits); err != nil {
		t.Error(err)
	}
	m.Close()
	m.Close()
	_, err = m.Decide(t.Context(), testRequest(), testLimits)
	wantCode(t, err, CodeMissing)
	for name, want := range map[string]Code{
		"p.wasm": CodeMissing, "d": CodeMissing, "../p": CodeMissing, "big.wasm": CodeTooLarge,
	} {
		_, err := ReadModule(files, name)
		wantCode(t, err, want)
	}
	_, err = ReadModule(files, "p.wasm")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestHash(t *testing.T) {
	h := HashOf([]byte("x"))
	if got, err := ParseHash(h.String()); err != nil || got != h {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{"", h.String()[1:], h.String() + "0", strings.ToUpper(h.String()), strings.Repeat("g", 64)} {
		if _, err := ParseHash(text); err == nil {
			t.Errorf("%q is a hash", text)
		}
	}
}

func TestCacheIsRebuilt(t *testing.T) {
	code := says(allows)
	dir := t.TempDir()
	decide := func() {
		t.Helper()
		h := NewHost(Config{CacheDir: dir, Wall: time.Minute})
		if _, err := ask(t, h, code); err != nil {
			t.Fatal(err.(*Error).Owner())
		}
	}
	files := func() map[string]string {
		t.Helper()
		out := map[string]string{}
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				data, err := os.ReadFile(path)
				out[path] = string(data)
				return err
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	decide()
	fresh := files()
	if len(fresh) != 2 {
		t.Fatalf("%d files in the cache, want the code and its hash", len(fresh))
	}
	folder := filepath.Join(dir, HashOf(code).String())
	damage := map[string]func(path, data string) error{
		"as it was": func(string, string) error { return nil },
		"emptied":   func(path, _ string) error { return os.WriteFile(path, nil, 0o600) },
		"cut":       func(path, data string) error { return os.WriteFile(path, []byte(data[:len(data)/2]), 0o600) },
		"flipped": func(path, data string) error {
			b := []byte(data)
			b[len(b)/2] ^= 1
			return os.WriteFile(path, b, 0o600)
		},
		"removed": func(path, _ string) error { return os.Remove(path) },
		"joined by what no list names": func(path, _ string) error {
			return errors.Join(os.Remove(filepath.Join(folder, sumsFile)), os.WriteFile(path+".other", nil, 0o600))
		},
		"made a link": func(path, _ string) error { _ = os.Remove(path); return os.Symlink("/dev/zero", path) },
	}
	for name, change := range damage {
		for path, data := range fresh {
			if err := change(path, data); err != nil {
				t.Fatal(err)
			}
			decide()
			if got := files(); len(got) != len(fresh) || got[path] != data {
				t.Errorf("%s %s: not rebuilt", filepath.Base(path), name)
			}
		}
	}
}

// TestCacheIsBounded: of policies that change again and again, the compiled code of the
// newest is kept, and of one that is still in use.
func TestCacheIsBounded(t *testing.T) {
	dir := t.TempDir()
	clock := time.Now()
	h := NewHost(Config{CacheDir: dir, Clock: func() time.Time { clock = clock.Add(time.Second); return clock }})
	load := func(i int) (folder string) {
		t.Helper()
		code := says(fmt.Sprint(i))
		m, err := h.Load(t.Context(), code)
		if err != nil {
			t.Fatal(err.(*Error).Owner())
		}
		m.Close()
		folder = filepath.Join(dir, HashOf(code).String())
		if err := os.Chtimes(folder, clock, clock); err != nil { // files in it were made today
			t.Fatal(err)
		}
		return folder
	}
	foreign := filepath.Join(dir, "foreign")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	first, second, newest := load(0), load(1), ""
	for i := range maxFolders {
		load(0)
		newest = load(2 + i)
	}
	for folder, want := range map[string]bool{first: true, second: false, newest: true, foreign: true} {
		if _, err := os.Stat(folder); (err == nil) != want {
			t.Errorf("%s: kept should be %v, %v", folder, want, err)
		}
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != maxFolders+1 {
		t.Errorf("%d folders, %v", len(all), err)
	}
}

// TestCacheThatCannotBe: no cache is no reason to refuse.
func TestCacheThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h := NewHost(Config{CacheDir: file, Wall: time.Minute})
	if _, err := ask(t, h, says(allows)); err != nil {
		t.Fatal(err.(*Error).Owner())
	}
}

// TestCacheOfAnother: what somebody else can put there is not run.
func TestCacheOfAnother(t *testing.T) {
	code := says(allows)
	folder := func(dir string) string { return filepath.Join(dir, HashOf(code).String()) }
	changes := map[string]func(path string) error{"for all": func(path string) error { return os.Chmod(path, 0o777) }}
	if os.Geteuid() == 0 {
		changes["of another"] = func(path string) error { return os.Chown(path, 65534, 65534) }
	}
	for name, change := range changes {
		for _, which := range []func(string) string{func(dir string) string { return dir }, folder} {
			dir := t.TempDir()
			if err := os.Mkdir(folder(dir), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := change(which(dir)); err != nil {
				t.Fatal(err)
			}
			if _, err := ask(t, NewHost(Config{CacheDir: dir, Wall: time.Minute}), code); err != nil {
				t.Fatal(err.(*Error).Owner())
			}
			if files, err := os.ReadDir(folder(dir)); err != nil || len(files) > 0 {
				t.Errorf("%s: %d files in %s, %v", name, len(files), which("DIR"), err)
			}
		}
	}
}

// TestSpareMemory: what an instance begins with has nothing in it of another's, and
// keeps what is written there as it grows.
func TestSpareMemory(t *testing.T) {
	for _, sizes := range [][]uint64{{pageSize}, {pageSize, spareMemory}, {spareMemory, 2 * spareMemory}} {
		m := memory{spare: new(sync.Pool)}
		var spare, before []byte
		for _, size := range sizes {
			data := m.Reallocate(size)
			if spare == nil {
				spare = *m.taken
			}
			if !bytes.HasPrefix(data, before) {
				t.Errorf("%d: what was written is gone", sizes)
			}
			for i := range data {
				data[i] = 1
			}
			before = bytes.Clone(data)
		}
		m.Free()
		if bytes.IndexByte(spare, 1) >= 0 {
			t.Errorf("%d: what was written is given to others", sizes)
		}
	}
}

func TestConcurrentDecisions(t *testing.T) {
	m, err := patient(t, false).Load(t.Context(), says(allows))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := m.Decide(t.Context(), testRequest(), testLimits); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	m.Close()
}

// TestScanKeeps: what is taken away from a module, and what is not.
func TestScanKeeps(t *testing.T) {
	names := op(bytesOf([]byte("name")), []byte{1}, bytesOf(vec(op([]byte{0}, bytesOf([]byte("mine"))))))
	m := mod{
		body: unreachable, table: []byte{0x70, 0, 5},
		extra: op(section(secCustom, bytesOf([]byte("producers"))), section(secCustom, names)),
	}
	s, err := scan(m.wasm())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(s.code, []byte("producers")) {
		t.Error("custom sections are kept")
	}
	_, err = ask(t, patient(t, false), m.wasm())
	if e := wantCode(t, err, CodeTrap); !strings.Contains(e.Detail, "mine") {
		t.Errorf("no function name in %q", e.Detail)
	}
	for name, damaged := range map[string][]byte{
		"count": op(bytesOf([]byte("name")), []byte{1}, bytesOf(vecLen(1<<32-1))),
		"end":   op(bytesOf([]byte("name")), []byte{1, 9}),
	} {
		m.extra = section(secCustom, damaged)
		_, err = ask(t, patient(t, false), m.wasm())
		if e := wantCode(t, err, CodeTrap); e == nil {
			t.Errorf("names with a damaged %s", name)
		}
	}
}
