//go:build linux

package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// An Expr is the text of a Nix expression that evaluates to a derivation. There
// is no nixpkgs in the lab: every builder is the sandbox's /bin/sh, a busybox
// that has its applets built in. PATH is for a host without the sandbox.
//
// The salt that most makers take becomes part of the derivation's environment,
// so that another salt is another derivation with the same behaviour.
type Expr string

// drv is a derivation whose builder runs script; attrs are further attributes.
func drv(name, salt, script string, attrs ...string) Expr {
	return Expr(fmt.Sprintf(
		`derivation { name = %s; system = %s; builder = "/bin/sh"; args = [ "-euc" %s ]; PATH = "/usr/bin:/bin"; salt = %s; %s }`,
		nixString(name), nixString(System), nixString(script), nixString(salt), strings.Join(attrs, " ")))
}

// nixString quotes text as a Nix string without interpolation.
func nixString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `${`, `\${`, "\n", `\n`).Replace(s) + `"`
}

// Hello makes a program, bin/hello, that prints "hello SALT".
func Hello(salt string) Expr {
	return drv("hello", salt, `
		mkdir -p $out/bin
		printf '#!/bin/sh\necho hello %s\n' "$salt" > $out/bin/hello
		chmod +x $out/bin/hello
		echo built hello`)
}

// Random makes the file random, which is another one each time, and the file
// same, which is not.
func Random(salt string) Expr {
	return drv("random", salt, `
		mkdir -p $out/share
		echo same > $out/share/same
		read -r uuid < /proc/sys/kernel/random/uuid
		echo $uuid > $out/share/random`)
}

// HelloFlake is a flake.nix whose packages.<system>.hello and default are
// [Hello].
func HelloFlake(salt string) string {
	return Flake(map[string]Expr{"hello": Hello(salt), "default": Hello(salt)})
}

// Flake is a flake.nix without inputs that offers packages.
func Flake(packages map[string]Expr) string {
	var b strings.Builder
	b.WriteString("{\n  outputs = { self }: {\n")
	for name, expr := range packages {
		fmt.Fprintf(&b, "    packages.%s.%s = %s;\n", System, name, expr)
	}
	b.WriteString("  };\n}\n")
	return b.String()
}

// Attrs is an attribute set of derivations: for -f and --expr with several
// attribute paths.
func Attrs(members map[string]Expr) string {
	var b strings.Builder
	b.WriteString("{\n")
	for name, expr := range members {
		fmt.Fprintf(&b, "  %s = %s;\n", name, expr)
	}
	b.WriteString("}\n")
	return b.String()
}

// MultiOutput has the outputs out, dev and doc; dev refers to out.
func MultiOutput(salt string) Expr {
	return drv("multi", salt, `
		mkdir $out $dev $doc
		echo library > $out/lib
		echo "include $out" > $dev/include
		echo manual > $doc/manual`, `outputs = [ "out" "dev" "doc" ];`)
}

// FixedOutput is a fixed-output derivation that prints contents.
func FixedOutput(contents string) Expr {
	sum := sha256.Sum256([]byte(contents))
	return drv("fixed", "", `printf %s "$contents" > $out`,
		`outputHashMode = "flat";`, `outputHashAlgo = "sha256";`,
		`outputHash = "`+hex.EncodeToString(sum[:])+`";`,
		`contents = `+nixString(contents)+`;`)
}

// FetchURL is a fixed-output derivation of Nix's own builtin:fetchurl. contents
// is what the URL gives.
func FetchURL(url, contents string) Expr {
	sum := sha256.Sum256([]byte(contents))
	return Expr(fmt.Sprintf(`derivation {
		name = "fetched"; system = "builtin"; builder = "builtin:fetchurl"; url = %s; urls = [ %[1]s ];
		outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = %[2]q;
		executable = false; unpack = false; preferLocalBuild = true; }`,
		nixString(url), hex.EncodeToString(sum[:])))
}

// FloatingCA is a content-addressed derivation whose output path is known only
// once it is built. Both hosts need [CADerivations].
func FloatingCA(salt string) Expr {
	return drv("floating", salt, `mkdir $out; echo "$salt" > $out/file`,
		`__contentAddressed = true;`, `outputHashMode = "recursive";`, `outputHashAlgo = "sha256";`)
}

// CADerivations is the nix.conf line that [FloatingCA] needs.
const CADerivations = "extra-experimental-features = ca-derivations"

// WithSource depends on the directory ./src beside the file it is written to,
// and copies it.
func WithSource(salt string) Expr {
	return drv("with-source", salt, `cp -r $src $out`, `src = builtins.path { path = ./src; name = "source"; };`)
}

// Chain is n derivations in a row, each of which builds on the one before.
func Chain(n int, salt string) Expr {
	return chain(n, salt, `prev`)
}

// Deep builds at once, yet its derivation has n others in its closure: it needs
// their .drv files, but none of their outputs.
func Deep(n int, salt string) Expr {
	return chain(n, salt, `derivation {
		name = "deep"; system = "`+System+`"; builder = "/bin/sh";
		args = [ "-euc" "echo $drv > $out" ];
		drv = builtins.unsafeDiscardOutputDependency prev.drvPath; }`)
}

// chain evaluates top with prev bound to the last of n derivations in a row.
// seq keeps the evaluation from nesting n deep.
func chain(n int, salt, top string) Expr {
	link := drv("link-${toString i}", salt, `echo "$salt $i" > $out; [ -z "$prev" ] || cat $prev >> $out`, `inherit prev; i = toString i;`)
	// The name is an interpolated string, not a literal one.
	text := strings.Replace(string(link), `"link-\${toString i}"`, `"link-${toString i}"`, 1)
	return Expr(fmt.Sprintf(`(let
		link = prev: i: let d = %s; in builtins.seq d.drvPath d;
		prev = builtins.foldl' link "" (builtins.genList (i: i) %d);
	in %s)`, text, n, top))
}

// Wide is one derivation whose closure is n small paths that refer to each
// other: its output out refers to the last of the others, each of which refers
// to up to three before it.
func Wide(n int, salt string) Expr {
	return drv("wide", salt, `
		i=1
		a= b= c=
		while [ $i -lt $count ]; do
			eval "o=\$o$i"
			mkdir -p $o/share
			echo "$salt $i" > $o/share/number
			echo "$a $b $c" > $o/refs
			a=$b b=$c c=$o
			i=$((i + 1))
		done
		mkdir $out
		env | grep '^o[0-9]*=' > $out/refs`,
		fmt.Sprintf(`count = toString %d;`, n),
		fmt.Sprintf(`outputs = [ "out" ] ++ builtins.genList (i: "o${toString (i + 1)}") %d;`, n-1))
}

// Blobs is n outputs of the given number of KiB: random ones, and as many that are the same.
func Blobs(n, kib int, salt string) Expr {
	return drv("blobs", salt, fmt.Sprintf(`
		for o in $outputs; do
			eval "p=\$$o"
			case $o in
			r*) dd if=/dev/urandom of=$p bs=1024 count=%[1]d 2>/dev/null ;;
			*) dd if=/dev/zero of=$p bs=1024 count=%[1]d 2>/dev/null ;;
			esac
		done
		echo made blobs`, kib),
		fmt.Sprintf(`outputs = [ "out" ] ++ builtins.genList (i: (if builtins.bitAnd i 1 == 0 then "r" else "z") + toString i) %d;`, n-1))
}

// Blob is one file of the given number of MiB of random bytes.
func Blob(mib int, salt string) Expr {
	// Nix takes a builder that has closed its log for one that has ended, and
	// dd closes both ends of it here; the shell that waits for it does not.
	return drv("blob", salt, fmt.Sprintf(`
		dd if=/dev/urandom of=$out bs=1M count=%d 2>/dev/null
		echo made a blob`, mib))
}

// Big is a tree of files of equal size, about the given number of MiB in all, of
// random text.
func Big(mib, files int, salt string) Expr {
	const (
		perDir = 500
		line   = 77 // what base64 prints, newline included
	)
	lines := max(1, (mib<<20)/files/line)
	return drv("big", salt, fmt.Sprintf(`
		mkdir -p $out
		cd $out
		mkdir $(seq 0 %d)
		head -c %d /dev/urandom | base64 | awk '
			{ text = text $0 "\n" }
			NR %% %d == 0 { f = int(k / %d) "/file" k; k++; printf "%%s", text > f; close(f); text = "" }'
		echo made $(find . -type f | wc -l) files`,
		(files-1)/perDir, files*lines*57, lines, perDir))
}

// BigExpr and its like are the closures that the benchmarks import.
var (
	BlobExpr = Blob(512, "bench")
	BigExpr  = Big(160, 15000, "bench")
	WideExpr = Wide(300, "bench")
)

// Failing prints thirty numbered lines and fails with exit status 7.
func Failing(salt string) Expr {
	return drv("failing", salt, `
		i=1
		while [ $i -le 30 ]; do echo "line $i of the log"; i=$((i + 1)); done
		echo "this build fails" >&2
		exit 7`)
}

// FailingDependency needs [Failing], and so is never built itself.
func FailingDependency(salt string) Expr {
	return drv("dependent", salt, `cat $dep > $out`, `dep = `+string(Failing(salt))+`;`)
}

// MissingFeature needs a machine that can do more.
func MissingFeature(salt string) Expr {
	return drv("quantum", salt, `echo > $out`, `requiredSystemFeatures = [ "quantum" ];`)
}

// OutputCycle has two outputs that refer to each other, which Nix refuses.
func OutputCycle(salt string) Expr {
	return drv("cycle", salt, `echo $dev > $out; echo $out > $dev`, `outputs = [ "out" "dev" ];`)
}

// OutputFIFO makes what no store path can be.
func OutputFIFO(salt string) Expr {
	return drv("fifo", salt, `mkfifo $out`)
}

// Log prints script's output as its build log. The script is run by busybox's
// sh; see [LogEveryByte] and its like.
func Log(salt, script string) Expr {
	return drv("log", salt, script+"\n"+`echo done > $out`)
}

// Scripts for [Log].
const (
	// LogEveryByte prints a line with every byte value but newline, in
	// order.
	LogEveryByte = `
		i=0
		while [ $i -lt 256 ]; do
			[ $i = 10 ] || printf "\\$(printf %03o $i)"
			i=$((i + 1))
		done
		echo`
	// LogLongLine prints a line of 8 MiB of the letter x.
	LogLongLine = `head -c 8388608 /dev/zero | tr '\0' x; echo`
	// LogHuge prints 250,000,000 bytes: 250,000 numbered lines of 1,000 bytes.
	LogHuge = `
		pad=$(head -c 992 /dev/zero | tr '\0' .)
		seq 1000000 1249999 | sed "s/\$/$pad/"`
)

// Waiting prints "waiting at NAME", then waits for [Gate.Open], then builds.
func Waiting(gate *Gate, salt string) Expr {
	return drv("waiting", salt, fmt.Sprintf(`
		echo waiting at %[1]s
		read line < /gate/%[1]s
		echo passed %[1]s
		echo done > $out`, gate.name))
}

// Concat needs all of deps.
func Concat(name, salt string, deps ...Expr) Expr {
	list := make([]string, len(deps))
	for i, d := range deps {
		list[i] = "(" + string(d) + ")"
	}
	return drv(name, salt, `for d in $deps; do echo $d; done > $out`, `deps = [ `+strings.Join(list, " ")+` ];`)
}
