package daemon

import (
	"context"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix"
)

// unkeyed is a path info as the daemon answers it.
const realisationJSON = `{"dependentRealisations":{},"id":"sha256:` + zeroHex +
	`!out","outPath":"00000000000000000000000000000000-a","signatures":[]}`

func unkeyed() string {
	return s(pathDrv) + s(someHex) + list(s(pathB), s(pathA)) + u(1700000000) + u(120) + u(1) +
		list(s("k:sig")) + s("fixed:r:sha256:x")
}

func TestOperations(t *testing.T) {
	wantInfo := &nix.PathInfo{
		Path: pathA, Deriver: pathDrv, NarHash: nix.Hash{31: 1}, NarSize: 120,
		References: []nix.Path{pathA, pathB}, RegistrationTime: 1700000000, Ultimate: true,
		Sigs: []string{"k:sig"}, CA: "fixed:r:sha256:x",
	}
	resultHead := list(s(pathDrv+"!dev,out")+u(0)+s("")+u(1)+u(0)+u(10)+u(20)+
		"%s"+list(s("sha256:"+zeroHex+"!out")+s(realisationJSON)),
		s(pathA)+u(14)+s("nobody has it")+u(0)+u(0)+u(0)+u(0)+"%s"+list())
	results := []BuildResult{
		{
			Path: DerivedPath{pathDrv, []string{"dev", "out"}}, TimesBuilt: 1,
			BuiltOutputs: map[string]nix.Path{"out": pathA},
		},
		{Path: DerivedPath{Path: pathA}, Status: NoSubstituters, ErrorMsg: "nobody has it"},
	}
	build := u(46) + list(s(pathDrv+"!dev,out"), s(pathA)) + u(0)
	doBuild := func(ctx context.Context, c *Conn) (any, error) {
		rs, err := c.BuildPathsWithResults(ctx, []DerivedPath{
			{pathDrv, []string{"out", "dev", "out"}}, {Path: pathA},
		}, BuildNormal)
		for i := range rs {
			if len(rs[i].Realisations) != len(rs[i].BuiltOutputs) {
				t.Errorf("realisations %q", rs[i].Realisations)
			}
			rs[i].Realisations = nil
		}
		return rs, err
	}
	tests := []struct {
		name  string
		minor uint64
		step
		do   func(ctx context.Context, c *Conn) (any, error)
		want any
	}{
		{"QueryValidPaths", 34, step{u(31) + list(s(pathA), s(pathB)) + u(1), last + list(s(pathB))},
			func(ctx context.Context, c *Conn) (any, error) {
				return c.QueryValidPaths(ctx, []nix.Path{pathB, pathA, pathB}, true)
			}, []nix.Path{pathB}},
		{"QueryPathInfos", 38, step{u(26) + s(pathA) + u(26) + s(pathB), last + u(1) + unkeyed() + last + u(0)},
			func(ctx context.Context, c *Conn) (any, error) {
				return c.QueryPathInfos(ctx, []nix.Path{pathA, pathB})
			}, []*nix.PathInfo{wantInfo, nil}},
		{"QueryPathFromHashPart", 34, step{u(29) + s(partA), last + s(pathA)},
			func(ctx context.Context, c *Conn) (any, error) { return c.QueryPathFromHashPart(ctx, partA) }, nix.Path(pathA)},
		{"QueryPathFromHashPart of none", 34, step{u(29) + s(partA), last + s("")},
			func(ctx context.Context, c *Conn) (any, error) { return c.QueryPathFromHashPart(ctx, partA) }, nix.Path("")},
		{"QueryMissing", 34, step{
			u(40) + list(s(pathDrv+"!*"), s(pathB)),
			last + list(s(pathDrv)) + list(s(pathA)) + list(s(pathB)) + u(3) + u(4),
		}, func(ctx context.Context, c *Conn) (any, error) {
			return c.QueryMissing(ctx, []DerivedPath{{pathDrv, []string{AllOutputs}}, {Path: pathB}})
		}, Missing{[]nix.Path{pathDrv}, []nix.Path{pathA}, []nix.Path{pathB}, 3, 4}},
		{"SetOptions", 34, step{
			u(19) + u(0) + u(1) + u(0) + u(3) + u(2) + u(60) + u(1) + u(7) + u(0) + u(0) + u(4) + u(1) +
				u(2) + s("a") + s("1") + s("timeout") + s("600"), last,
		}, func(ctx context.Context, c *Conn) (any, error) {
			return nil, c.SetOptions(ctx, Options{
				KeepGoing: true, Verbosity: LevelInfo, MaxJobs: 2, MaxSilentTime: 60, BuildCores: 4,
				UseSubstitutes: true, Overrides: map[string]string{"timeout": "600", "a": "1"},
			})
		}, nil},
		{"AddTempRoots", 34, step{
			u(11) + s(pathA) + u(11) + s(pathB), last + u(1) + last + u(1),
		}, func(ctx context.Context, c *Conn) (any, error) {
			return nil, c.AddTempRoots(ctx, []nix.Path{pathA, pathB})
		}, nil},
		{"KeepPaths", 34, step{
			u(11) + s(pathB) + u(11) + s(pathA) + u(31) + list(s(pathA), s(pathB)) + u(0), last + u(1) + last + u(1) + last + list(s(pathB)),
		}, func(ctx context.Context, c *Conn) (any, error) {
			return c.KeepPaths(ctx, []nix.Path{pathB, pathA})
		}, []nix.Path{pathB}},
		{"AddIndirectRoots", 34, step{
			u(12) + s("/home/me/result") + u(12) + s("/home/me/other"), last + u(1) + last + u(1),
		}, func(ctx context.Context, c *Conn) (any, error) {
			return nil, c.AddIndirectRoots(ctx, "/home/me/result", "/home/me/other")
		}, nil},
		{"BuildPathsWithResults 1.34", 34, step{build, last + fmt.Sprintf(resultHead, "", "")}, doBuild, results},
		{"BuildPathsWithResults 1.37", 37, step{
			build, last + fmt.Sprintf(resultHead, u(1)+u(1500)+u(0), u(0)+u(0)),
		}, doBuild, results},
		{"BuildPathsWithResults check", 38, step{u(46) + list(s(pathDrv+"!out")) + u(2), last + list()},
			func(ctx context.Context, c *Conn) (any, error) {
				rs, err := c.BuildPathsWithResults(ctx, []DerivedPath{{pathDrv, []string{"out"}}}, BuildCheck)
				return len(rs), err
			}, 0},
		{"AddMultipleToStore 1.38", 38, step{
			u(44) + u(0) + u(0) + frame(u(2)+wireInfoA("nar one")+"nar one"+wireInfoA("nar two")+"nar two") + u(0), last,
		}, addTwo, nil},
		{"AddMultipleToStore 1.34", 34, step{
			u(39) + wireInfoA("nar one") + u(0) + u(0) + frame("nar one") + u(0) +
				u(39) + wireInfoA("nar two") + u(0) + u(0) + frame("nar two") + u(0), last + last,
		}, addTwo, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// The second round shows that the first one left nothing behind.
			c := dialFake(t, tt.minor, tt.step, tt.step)
			for range 2 {
				got, err := tt.do(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(got, tt.want) {
					t.Errorf("got  %+v\nwant %+v", got, tt.want)
				}
			}
			if err := c.Err(); err != nil {
				t.Errorf("the connection is dead: %v", err)
			}
		})
	}
}

func frame(p string) string { return u(uint64(len(p))) + p }

func addTwo(ctx context.Context, c *Conn) (any, error) {
	nars := []string{"nar one", "nar two"}
	return nil, c.AddMultipleToStore(ctx, 2, func() (nix.PathInfo, io.Reader, error) {
		nar := nars[0]
		nars = nars[1:]
		return infoA(nar), strings.NewReader(nar), nil
	})
}

func TestRefusedArguments(t *testing.T) {
	c := dialFake(t, 34) // nothing of this reaches the daemon
	for name, err := range map[string]error{
		"repair":       second(c.BuildPathsWithResults(t.Context(), nil, buildRepair)),
		"output":       second(c.BuildPathsWithResults(t.Context(), []DerivedPath{{pathDrv, []string{"a,b"}}}, 0)),
		"star":         second(c.QueryMissing(t.Context(), []DerivedPath{{pathDrv, []string{"*", "out"}}})),
		"not a drv":    second(c.QueryMissing(t.Context(), []DerivedPath{{pathA, []string{"out"}}})),
		"bad path":     second(c.QueryMissing(t.Context(), []DerivedPath{{Path: "/nix/store/../x"}})),
		"relative":     c.AddIndirectRoots(t.Context(), "result"),
		"no Nix path!": second(ParseDerivedPath("/nix/store!x")),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestProbeTrust(t *testing.T) {
	probe := u(46) + u(0) + u(1)
	for _, tt := range []struct {
		name  string
		minor uint64
		steps []step
		want  Trust
		fails bool
	}{
		{"told", 35, nil, NotTrusted, false},
		{"trusted", 34, []step{{probe, last + u(0)}}, Trusted, false},
		{"not trusted", 34, []step{{probe, errorMsg("repairing is not allowed because you are not in 'trusted-users'")}}, NotTrusted, false},
		{"other error", 34, []step{{probe, errorMsg("out of memory")}}, TrustUnknown, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ProbeTrust(t.Context(), Config{Dial: fake(t, append(greeting(tt.minor), tt.steps...)...)})
			if got != tt.want || (err != nil) != tt.fails {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestStatusNames(t *testing.T) {
	if got := fmt.Sprint(Built, TimedOut, NoSubstituters, Status(15)); got != "Built TimedOut NoSubstituters Status(15)" {
		t.Error(got)
	}
	if !ResolvesToAlreadyValid.Success() || OutputRejected.Success() || Status(99).Success() {
		t.Error("wrong idea of success")
	}
}
