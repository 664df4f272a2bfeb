package nix_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

func TestDrvClosureVectors(t *testing.T) {
	files := drvs(t)
	top, _ := drv(t, "top")
	simple, _ := drv(t, "simple")
	dep, _ := drv(t, "dep-1.0")
	loads := 0
	load := func(p nix.Path) ([]byte, error) {
		loads++
		return files[p], nil
	}
	c, err := nix.DrvClosure(context.Background(), []nix.Path{top, simple, top}, load)
	if err != nil {
		t.Fatal(err)
	}
	var order []nix.Path
	for _, d := range c.Drvs {
		order = append(order, d.Path)
		if string(d.Contents) != string(files[d.Path]) || d.Name+".drv" != d.Path.Name() {
			t.Errorf("%s: other contents or derivation", d.Path)
		}
	}
	if !slices.Equal(order, []nix.Path{dep, top, simple}) || loads != 3 {
		t.Errorf("order %s, %d loads", order, loads)
	}
	if want := []nix.Path{"/nix/store/8pwkd94658i9303g7jifg44bklgaq428-lib.txt", "/nix/store/h29di9fd5fm7i6w5hhmxswbjxvm05bl6-ref.txt"}; !slices.Equal(c.Srcs, want) {
		t.Errorf("sources %s", c.Srcs)
	}
}

func drvName(i int) nix.Path { return nix.Path(fmt.Sprintf("/nix/store/%032d-d%d.drv", i, i)) }

// graph is a made-up graph of derivations that depend on the named ones.
func graph(deps map[int][]int, body int) map[nix.Path][]byte {
	files := make(map[nix.Path][]byte)
	for i, on := range deps {
		var inputs []string
		slices.Sort(on)
		for _, k := range on {
			inputs = append(inputs, fmt.Sprintf("(%q,[\"out\"])", drvName(k)))
		}
		var env []string
		for v := range body {
			env = append(env, fmt.Sprintf(`("var%04d","some value with \"escapes\"\nand lines")`, v))
		}
		files[drvName(i)] = fmt.Appendf(nil, `Derive([("out","/nix/store/%032d-d%d","","")],[%s],["/nix/store/%032d-src"],"x86_64-linux","/bin/sh",["-e"],[%s])`,
			i, i, strings.Join(inputs, ","), i%7, strings.Join(env, ","))
	}
	return files
}

func loader(files map[nix.Path][]byte) func(nix.Path) ([]byte, error) {
	return func(p nix.Path) ([]byte, error) {
		if contents, ok := files[p]; ok {
			return contents, nil
		}
		return nil, errMissing
	}
}

var errMissing = errors.New("missing")

func TestDrvClosureOrder(t *testing.T) {
	deps := make(map[int][]int)
	for i := range 500 {
		deps[i] = nil
		for k := i*2 + 1; k <= i*2+3 && k < 500; k++ {
			deps[i] = append(deps[i], k)
		}
	}
	c, err := nix.DrvClosure(context.Background(), []nix.Path{drvName(3), drvName(0)}, loader(graph(deps, 0)))
	if err != nil || len(c.Drvs) != 500 || len(c.Srcs) != 7 {
		t.Fatal(c, err)
	}
	at := make(map[nix.Path]int)
	for i, d := range c.Drvs {
		at[d.Path] = i
		for in := range d.InputDrvs {
			if k, ok := at[in]; !ok || k >= i {
				t.Errorf("%s comes before %s", d.Path, in)
			}
		}
	}
}

func TestDrvClosureChain(t *testing.T) {
	const n = 20_000
	deps := map[int][]int{n: nil}
	for i := range n {
		deps[i] = []int{i + 1}
	}
	c, err := nix.DrvClosure(context.Background(), []nix.Path{drvName(0)}, loader(graph(deps, 0)))
	if err != nil || len(c.Drvs) != n+1 || c.Drvs[0].Path != drvName(n) {
		t.Fatal(err)
	}
}

func TestDrvClosureRefuses(t *testing.T) {
	ctx := context.Background()
	for name, deps := range map[string]map[int][]int{
		"itself": {0: {0}},
		"cycle":  {0: {1}, 1: {2}, 2: {3, 0}, 3: nil},
	} {
		if _, err := nix.DrvClosure(ctx, []nix.Path{drvName(0)}, loader(graph(deps, 0))); !errors.Is(err, nix.ErrClosure) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := nix.DrvClosure(ctx, []nix.Path{drvName(0)}, loader(graph(map[int][]int{0: {1}}, 0))); !errors.Is(err, errMissing) {
		t.Errorf("missing: %v", err)
	}
	for _, p := range []nix.Path{"", "x.drv", "/nix/store/" + h32 + "-x"} {
		if _, err := nix.DrvClosure(ctx, []nix.Path{p}, loader(nil)); !errors.Is(err, nix.ErrClosure) {
			t.Errorf("root %q: %v", p, err)
		}
	}
	if _, err := nix.DrvClosure(ctx, []nix.Path{drvName(0)}, func(nix.Path) ([]byte, error) { return []byte("x"), nil }); !errors.Is(err, nix.ErrBadDerivation) {
		t.Errorf("malformed: %v", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := nix.DrvClosure(cancelled, []nix.Path{drvName(0)}, loader(nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// 3,000 derivations of about 3 KB, each depending on up to ten others.
func BenchmarkDrvClosure(b *testing.B) {
	deps := make(map[int][]int)
	for i := range 3000 {
		deps[i] = nil
		for k := 1; k <= 10 && i+k*k < 3000; k++ {
			deps[i] = append(deps[i], i+k*k)
		}
	}
	files := graph(deps, 50)
	size := 0
	for _, f := range files {
		size += len(f)
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		if c, err := nix.DrvClosure(context.Background(), []nix.Path{drvName(0)}, loader(files)); err != nil || len(c.Drvs) != 3000 {
			b.Fatal(err)
		}
	}
}
