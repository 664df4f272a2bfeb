# $1 is "remove" for dpkg, and 0 for rpm, unless another version follows.
case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac
command -v systemctl >/dev/null || exit 0
# --quiet: what only a socket starts cannot be disabled, which is no news.
for unit in $units; do
	case $unit in
	*@.*)
		for link in /etc/systemd/system/*.wants/"${unit%@.*}"@*; do
			[ ! -L "$link" ] || systemctl --quiet --no-reload disable "${link##*/}"
		done
		[ ! -d /run/systemd/system ] || systemctl stop "${unit%@.*}@*.${unit##*.}"
		;;
	*)
		systemctl --quiet --no-reload disable "$unit"
		[ ! -d /run/systemd/system ] || systemctl stop "$unit"
		;;
	esac
done
