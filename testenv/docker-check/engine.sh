# A Docker engine of our own, base images, and our image. To be sourced; uses $work and $cgroup.

suite=trixie
image=proxymatic:check

# join_network waits for the way out. What the engine and its helpers write below /run, /etc and /opt stays in our namespace, and
# nothing there is of the host's engine.
join_network() {
	local dir
	ip link set lo up
	await "network" grep -q tap0 /proc/net/route
	mount -t tmpfs tmpfs /run
	for dir in /etc /opt; do
		mkdir -p "$work/over$dir/new" "$work/over$dir/work"
		mount -t overlay -o "lowerdir=$dir,upperdir=$work/over$dir/new,workdir=$work/over$dir/work" overlay "$dir"
	done
	rm -rf /etc/docker /opt/containerd /etc/resolv.conf
	echo "nameserver 10.0.2.3" >/etc/resolv.conf # slirp4netns asks whom the host asks
	mountpoint -q /sys/fs/cgroup || cgroupfs-mount
}

start_engine() {
	export DOCKER_HOST=unix://$work/docker.sock DOCKER_SOCKET=$work/docker.sock DOCKER_CONFIG=$work/config
	dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/docker.pid" --host "$DOCKER_HOST" \
		--exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$cgroup" >"$work/dockerd.log" 2>&1 &
	await "the engine" docker version >/dev/null 2>&1
}

# stop_engine takes containers and engine away; what is left of the mounts goes with the namespace.
stop_engine() {
	docker ps -aq 2>/dev/null | xargs -r docker rm -f >/dev/null 2>&1 || true
	local pid
	pid=$(cat "$work/docker.pid" 2>/dev/null) || return 0
	kill "$pid"
	while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
}

show_logs() {
	local container
	tail -n 20 "$work/network.log" "$work/dockerd.log"
	for container in $(docker ps -aq); do
		docker inspect -f '---- {{.Name}}: {{.State.Status}}, exit code {{.State.ExitCode}}' "$container"
		docker logs --tail 30 "$container"
	done
}

# base_images gets the images that ours are built from: the registry's, or else, where it gives none in time, stand-ins that are
# made from the same Debian packages.
base_images() {
	if timeout 60 docker pull -q "debian:$suite-slim" && timeout 300 docker pull -q "golang:1.26-$suite"; then
		say "base images are the registry's"
		return
	fi 2>"$work/pull.log"
	debian_stand_in
	golang_stand_in
	say "no image came from a registry: base images are stand-ins, made by debootstrap and of $GOROOT"
}

debian_stand_in() {
	unpack_debian "$suite" "$work/root"
	rm -rf "$work"/root/{var/cache/apt/*,var/lib/apt/lists/*,usr/share/{doc,man,locale}/*}
	tar -C "$work/root" -c . | docker import - "debian:$suite-slim" >/dev/null
}

# golang_stand_in is the same with Go. It trusts whom this machine trusts, so that modules can be fetched.
golang_stand_in() {
	mkdir -p "$work/root/usr/local/go"
	mount --bind "$GOROOT" "$work/root/usr/local/go"
	cp --parents -L /etc/ssl/certs/ca-certificates.crt "$work/root"
	tar -C "$work/root" --exclude '*_test.go' --exclude testdata --exclude usr/local/go/test --exclude usr/local/go/api -c . |
		docker import -c 'ENV PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
			-c 'ENV GOPATH=/go GOTOOLCHAIN=local' - "golang:1.26-$suite" >/dev/null
	umount "$work/root/usr/local/go"
	rm -rf "$work/root"
}

build_image() {
	DOCKER_BUILDKIT=1 docker build --progress plain --build-arg VERSION="$VERSION" -t "$image" . >"$work/build.log" 2>&1 ||
		{ tail -n 60 "$work/build.log" >&2; fail "docker build"; }
	say "the Dockerfile is built: $(docker image inspect -f '{{.Size}}' "$image" | awk '{ printf "%.0f MB", $1 / 1e6 }')," \
		"of which the base is $(docker image inspect -f '{{.Size}}' "debian:$suite-slim" | awk '{ printf "%.0f MB", $1 / 1e6 }')"
	docker run --rm --net=none "$image" version
}
