# $1 is "configure" for dpkg, and how many of this package there are for rpm.
# $2 is the version that dpkg had before.
case "$1" in
configure | [1-9]*) ;;
*) exit 0 ;;
esac
if [ -e "/usr/lib/sysusers.d/$package.conf" ] && command -v systemd-sysusers >/dev/null; then
	systemd-sysusers "$package.conf"
fi
# In a container or an image that is being made nothing runs.
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
# An upgrade restarts what runs. A new installation starts nothing. What does not
# come up, systemd says and tries again; the package is installed all the same.
if [ "$1" != 1 ] && [ "$1${2:-}" != configure ]; then
	for unit in $units; do
		case $unit in
		*.socket) ;;
		*@.*) systemctl try-restart "${unit%@.*}@*.${unit##*.}" || true ;;
		*) systemctl try-restart "$unit" || true ;;
		esac
	done
fi
