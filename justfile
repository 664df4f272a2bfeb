# Each of these works without just, too: it is one command.

# list the recipes
_default:
    @just --list

# a ticket builds on another machine, shown on this one (root)
demo:
    e2e/demo

# every check there is; the last line counts them (root)
test:
    e2e/test

# unit tests: no root, no Nix, no FUSE
unit:
    GORACE=atexit_sleep_ms=10 go test -race ./...

# the scenarios on real Nix (root); just e2e -run TestName -v
e2e *flags:
    e2e/test e2e {{flags}}

# what imports cost, as multiples of nix copy on the same machine (root)
bench *flags:
    e2e/test bench {{flags}}

# formatting, vet and staticcheck
lint:
    test -z "$(gofmt -l .)"
    go vet -tags e2e ./...
    go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 -tags e2e ./...

# core for browsers and WASI, and its unit tests in Node (root)
wasm:
    e2e/test wasm

# everything that a release has, into dist: packages, archives, image, SBOMs, checksums
release *flags:
    go -C cmd/packaging run . {{flags}}

# the release twice, from clean clones without caches, and that the bytes are the same
reproduce *dir:
    e2e/release {{dir}}

# docs/build.svg from docs/build.dot, with the hash that a test compares (graphviz)
picture:
    dot -Tsvg docs/build.dot >docs/build.svg
    echo "<!-- docs/build.dot: sha256 $(sha256sum <docs/build.dot | cut -d' ' -f1) -->" >>docs/build.svg

# format
fmt:
    gofmt -w .
