# shellcheck shell=bash
#
# Sourced by the entry points of this folder: where things are, how to become
# root, how to find or install Go. POSIX utilities and bash only.

set -euo pipefail

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
LAB_DIR=${DRV_THRU_LAB_DIR:-/var/lib/drv-thru-lab}
export DRV_THRU_LAB_DIR=$LAB_DIR

say() { printf '%s\n' "$*" >&2; }
die() {
	say "error: $*"
	exit 1
}

# Namespaces, mounts and build users need root, so the entry points start over
# under sudo. Under sudo the caches belong to root, never to the caller's home.
become_root() {
	if [ "$(id -u)" != 0 ]; then
		command -v sudo >/dev/null || die "this needs root: run it as root, or install sudo"
		local keep=DRV_THRU_LAB_DIR,DRV_THRU_LAB_MIRROR,NO_COLOR,http_proxy,https_proxy,no_proxy,GOPROXY,GOSUMDB,GONOSUMDB,SSL_CERT_FILE,PIP_CERT,NODE_EXTRA_CA_CERTS
		exec sudo --preserve-env="$keep" -- "$(readlink -f "$0")" "$@"
	fi
	if [ -n "${SUDO_UID:-}" ] || [ -z "${HOME:-}" ]; then
		HOME=$(getent passwd 0 | cut -d: -f6)
		export HOME
	fi
	case ":$PATH:" in
	*:/usr/sbin:*) ;;
	*) export PATH=$PATH:/usr/sbin:/sbin ;;
	esac
	leave_plain_chroot "$@"
}

# The root of a plain chroot is no mount point, and then a mount namespace cannot
# be made private. Bound onto another directory, in a namespace of this run, it
# is one; the script starts again there.
leave_plain_chroot() {
	[ -r /proc/self/mountinfo ] || die "there is no /proc: mount -t proc proc /proc"
	if [ -n "${DRV_THRU_LAB_BOUND:-}" ] || awk '$5 == "/" { found = 1 } END { exit !found }' /proc/self/mountinfo; then
		return
	fi
	local bound=$LAB_DIR/chroot
	mkdir -p "$bound"
	export DRV_THRU_LAB_BOUND=1
	exec unshare --mount --propagation unchanged -- sh -c \
		'mount --rbind / "$0" && exec chroot "$0" "$@"' "$bound" "$(readlink -f "$0")" "$@"
}

# apt-get that never asks; output is shown only when it fails.
apt_quiet() {
	local log
	log=$(mktemp)
	if ! DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1; then
		cat "$log" >&2
		rm -f "$log"
		return 1
	fi
	rm -f "$log"
}

# Installs the Debian packages named, those that are not there yet.
apt_need() {
	local missing=() p
	for p in "$@"; do
		dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	say "installing: ${missing[*]}"
	if ! apt_quiet install --no-install-recommends "${missing[@]}" 2>/dev/null; then
		apt_quiet update
		apt_quiet install --no-install-recommends "${missing[@]}"
	fi
}

# True when version $1 is at least version $2.
version_ge() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# Prints the version of a go command, or nothing. GOTOOLCHAIN=local keeps it
# from fetching another toolchain merely to tell its version.
go_version() { (cd / && GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) | sed -n 's/^go\([0-9.]*\).*/\1/p'; }

# Puts a Go on PATH that is 1.21 or newer (the first to fetch toolchains by
# itself) and lets it fetch the one of go.mod when it is older than that.
find_go() {
	local go v want
	want=$(sed -n 's/^go \([0-9.]*\)$/\1/p' "$REPO/go.mod")
	for go in "$(command -v go || true)" /usr/local/go/bin/go /usr/lib/go-1.*/bin/go; do
		[ -n "$go" ] && [ -x "$go" ] || continue
		v=$(go_version "$go")
		[ -n "$v" ] && version_ge "$v" 1.21 || continue
		PATH=$(dirname "$go"):$PATH
		version_ge "$v" "$want" || export GOTOOLCHAIN=auto
		export PATH GOFLAGS=-buildvcs=false
		return 0
	done
	return 1
}

# Debian 13 has a Go that is new enough, Debian 12 has it in its backports.
install_go() {
	find_go && return 0
	apt_quiet update
	local candidate
	candidate=$(apt-cache policy golang-go | sed -n 's/^  Candidate: 2:\([0-9.]*\).*/\1/p')
	if [ -n "$candidate" ] && version_ge "$candidate" 1.21; then
		apt_need golang-go
	else
		local codename
		codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
		[ "$codename" = bookworm ] || die "no Go 1.21 or newer here: install one (https://go.dev/dl) and run this again"
		if [ -z "$(apt-cache policy | grep -F bookworm-backports || true)" ]; then
			say "adding bookworm-backports to apt's sources, for Go"
			printf 'deb %s bookworm-backports main\n' "$(debian_mirror)" >/etc/apt/sources.list.d/drv-thru-backports.list
			apt_quiet update
		fi
		say "installing: golang-go (bookworm-backports)"
		apt_quiet install --no-install-recommends -t bookworm-backports golang-go
	fi
	find_go || die "installed Go, but cannot find it"
}

# Sets NODE to a Node.js that is 20.10 or newer: the machine's, or the one that
# e2e/roots unpacks.
find_node() {
	local v
	v=$(node --version 2>/dev/null || true)
	if [ -n "$v" ] && version_ge "${v#v}" 20.10; then
		NODE=node
	elif [ -e "$LAB_DIR/roots/node.made" ]; then
		NODE=$REPO/e2e/node
	else
		return 1
	fi
	export NODE
}

# The Debian mirror that this machine's apt uses.
debian_mirror() {
	local uri=${DRV_THRU_LAB_MIRROR:-}
	if [ -z "$uri" ]; then
		uri=$(apt-get indextargets --format '$(LABEL)|$(ORIGIN)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
			sed -n 's/^Debian|Debian|//p' | head -n 1 || true)
	fi
	uri=${uri:-http://deb.debian.org/debian}
	printf '%s' "${uri%/}"
}

# Runs a command in a PID and a mount namespace that end with it, with this
# script, or when either is interrupted or killed, and everything in them too.
# TMPDIR is a directory that goes as well. Ends the script.
contained() {
	local status=0 child dir
	mkdir -p "$LAB_DIR"
	# What runs that were killed outright have left: nothing holds its lock.
	for dir in "$LAB_DIR"/tmp.*; do
		[ ! -d "$dir" ] || flock -n "$dir" rm -rf --one-file-system "$dir" || true
	done
	TMPDIR=$(mktemp -d "$LAB_DIR/tmp.XXXXXX")
	export TMPDIR DRV_THRU_LAB_RUN=$TMPDIR
	exec 8<"$TMPDIR"
	flock 8
	# bash as process 1 collects orphans, which is why it must not exec.
	setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc -- \
		bash -c '"$@"; exit $?' bash "$@" </dev/null &
	child=$!
	# unshare ignores gentler signals.
	trap 'kill -KILL "$child" 2>/dev/null || true; wait "$child" 2>/dev/null || true
		rm -rf --one-file-system "$TMPDIR" || { sleep 1; rm -rf --one-file-system "$TMPDIR"; }' EXIT
	trap 'exit 130' INT TERM HUP
	wait "$child" || status=$?
	exit "$status"
}
