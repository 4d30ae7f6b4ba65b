# What the scripts share that need root, and clean Debian roots. To be sourced.
#
# DEBIAN_MIRROR is where packages come from. Without it: where this Debian has its own from, or deb.debian.org.

# fail says WHY in the name of the script and ends it.
fail() { echo "${0##*/}: $*" >&2; exit 1; }

# require TARGET PROGRAM... ends the script where one is missing, which make TARGET would have installed.
require() {
	local target=$1 program
	shift
	for program; do
		command -v "$program" >/dev/null || fail "$program is missing; make $target installs what Debian has"
	done
}

# become_root SCRIPT [ARGUMENT...] goes on as root with a script, by sudo where that takes no password. root has a home of
# its own there: what it writes to a user's caches would be in the user's way.
become_root() {
	[ "$(id -u)" != 0 ] || exec bash "$@"
	local name keep=()
	for name in PATH CI DEBIAN_MIRROR DEBIAN_SECURITY SUITE RATE RUN SKIP GOROOT VERSION; do
		[ -z "${!name:-}" ] || keep+=("$name=${!name}")
	done
	sudo -n true 2>/dev/null || fail "needs root, or sudo without a password"
	exec sudo -n env "${keep[@]}" bash "$@"
}

debian_mirror() {
	local mirror=${DEBIAN_MIRROR:-}
	if [ -z "$mirror" ] && command -v apt-get >/dev/null; then
		mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/*$' | sed -n '1s|/*$||p' || true)
	fi
	echo "${mirror:-http://deb.debian.org/debian}"
}

# unpack_debian SUITE DIRECTORY fills it with a minimal Debian. debootstrap makes one where none of the last month is kept.
unpack_debian() {
	local tar=${XDG_CACHE_HOME:-$HOME/.cache}/proxymatic/rootfs-$1.tar log
	mkdir -p "$2" "${tar%/*}"
	if [ -n "$(find "$tar" -mtime -30 2>/dev/null || true)" ]; then
		tar -C "$2" --numeric-owner -xf "$tar"
	else
		echo "debootstrap makes $tar"
		log=$(unshare --mount --pid --fork --kill-child debootstrap --variant=minbase "$1" "$2" "$(debian_mirror)" 2>&1) ||
			{ tail -n 20 <<<"$log" >&2; fail "debootstrap"; }
		tar -C "$2" --numeric-owner -cf "$tar.$$" .
		mv "$tar.$$" "$tar"
	fi
	echo "deb $(debian_mirror) $1 main" >"$2/etc/apt/sources.list"
}
