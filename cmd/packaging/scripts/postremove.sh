[ ! -d /run/systemd/system ] || systemctl daemon-reload
# What the services have made goes when the administrator says so to dpkg. rpm
# has no such command: there it stays. The users stay as well, so that nobody
# else gets what is still theirs.
if [ "$1" = purge ]; then
	for dir in $state; do
		rm -rf "$dir"
	done
fi
