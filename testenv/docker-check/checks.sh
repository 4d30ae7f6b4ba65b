# What the image must do, beside a fake Marathon and servers on its host. To be sourced; uses $work and $image.

status_port=9090 marathon_port=8080
grace=10 # seconds until docker stop kills
many=100

# host_services starts what a container with net=host finds on its host. The namespace is ours alone, so ports are free.
host_services() {
	local bin=$work/bin kind n
	"$bin/fakemarathon" -listen "127.0.0.1:$marathon_port" >>"$work/fakes.log" 2>&1 &
	for kind in http tcp udp; do
		for n in 1 2; do
			"$bin/backend" -kind "$kind" -listen "127.0.0.1:$(server_port "$kind" "$n")" -name "$kind$n" >>"$work/fakes.log" 2>&1 &
		done
	done
	await "the fake Marathon" curl -fsS -o /dev/null "http://127.0.0.1:$marathon_port/v2/apps"
	for kind in http tcp udp; do
		put_app "$kind" "$(service_port "$kind")" "$kind"
	done
}

service_port() { case $1 in http) echo 8301 ;; tcp) echo 8302 ;; udp) echo 8303 ;; esac; }
server_port() { echo $(($(service_port "$1") + 10000 + $2 * 100)); }

# put_app NAME PORT KIND makes an app with one task: the first server of this kind.
put_app() {
	marathon PUT apps "{\"id\":\"/$1\",\"ports\":[{\"servicePort\":$2,\"protocol\":\"$([ "$3" = udp ] && echo udp || echo tcp)\"}]}"
	marathon POST "apps/$1/tasks" "{\"id\":\"$1-1\",\"ports\":[$(server_port "$3" 1)]}"
}

# run_image NAME ARGUMENTS... and those of docker run in the array options.
run_image() {
	local name=$1
	shift
	docker run -d --name "$name" --net=host -e "MARATHON_URL=http://127.0.0.1:$marathon_port" "${options[@]}" "$image" "$@" >/dev/null
}

mode_flag() { [ "$mode" = pen ] || echo --haproxy; }

check_mode() {
	local mode=$1 start options=()
	start=$(now)
	run_image "$@"
	await "$mode: first answer" answered http 8301
	say "$mode: first answer on the host's port $(elapsed "$start") s after docker run"
	await "$mode: TCP" answered tcp 8302 tcp1
	await "$mode: UDP" answered udp 8303 udp1
	check_tasks "$mode"
	if [ "$mode" = haproxy ]; then
		check_reloads "$mode"
	else
		for ((n = 0; n < many; n++)); do put_app "many$n" $((8400 + n)) http; done
		for ((n = 0; n < many; n++)); do await "service $n" answered http $((8400 + n)) http1; done
	fi
	say "$mode: memory with $((many + 3)) services: $(memory "$mode")"
	for ((n = 0; n < many; n++)); do marathon DELETE "apps/many$n"; done
	await "$mode: HEALTHCHECK" healthy "$mode"
	check_hup "$mode"
	check_stop "$mode"
}

# check_tasks has each service's task replaced by another, and back.
check_tasks() {
	local mode=$1 before kind after
	await "$mode: /status says OK" ready
	before="$(reloads) reloads, processes $(proxies "$mode")"
	for kind in http tcp udp; do
		marathon POST "apps/$kind/tasks" "{\"id\":\"$kind-2\",\"ports\":[$(server_port $kind 2)]}"
		await "$mode: the second task of $kind" answered $kind "$(service_port $kind)" "${kind}2"
		marathon DELETE "tasks/$kind-1"
		await "$mode: only the second task of $kind" only $kind "$(service_port $kind)" "${kind}2"
		marathon POST "apps/$kind/tasks" "{\"id\":\"$kind-1\",\"ports\":[$(server_port $kind 1)]}"
		marathon DELETE "tasks/$kind-2"
		await "$mode: only the first task of $kind" only $kind "$(service_port $kind)" "${kind}1"
	done
	after="$(reloads) reloads, processes $(proxies "$mode")"
	[ "$before" = "$after" ] || fail "$mode: tasks changed, and: $before before, $after after"
	say "$mode: tasks came and went over TCP, HTTP and UDP: $after, as before"
}

# check_reloads has so many new services, each of which takes a reload.
check_reloads() {
	local mode=$1 before n zombies
	before=$(reloads)
	for ((n = 0; n < many; n++)); do
		put_app "many$n" $((8400 + n)) http
		await "service $n" answered http $((8400 + n)) http1
	done
	await "$many reloads" reloaded $((before + many))
	zombies=$(docker top "$mode" -eo pid,stat | awk '$2 ~ /^Z/' | wc -l)
	[ "$zombies" = 0 ] || fail "$mode: $zombies zombies: $(docker top "$mode" -eo pid,ppid,stat,comm)"
	say "$mode: $(($(reloads) - before)) reloads for $many new services, no zombie: $(proxies "$mode" | wc -w) processes of HAProxy and pen"
}

# check_hup has the configuration read again.
check_hup() {
	local mode=$1 before
	before=$(proxies "$mode")
	docker kill -s HUP "$mode" >/dev/null
	await "$mode: the configuration is read again" logged "$mode" "configuration read again"
	await "$mode: /status says OK after HUP" ready
	[ "$before" = "$(proxies "$mode")" ] || fail "$mode: HUP has changed the proxies: $before before, $(proxies "$mode") after"
}

logged() { docker logs "$1" 2>&1 | grep -F "$2" >/dev/null; }
reloaded() { [ "$(reloads)" -ge "$1" ]; }
healthy() { [ "$(docker inspect -f '{{.State.Health.Status}}' "$1")" = healthy ]; }

# memory tells what the processes of a container take, shared pages divided among them.
memory() {
	local pid
	for pid in $(docker top "$1" -eo pid | tail -n +2); do
		awk -v comm="$(cat "/proc/$pid/comm")" '/^Pss:/ { print comm, $2 }' "/proc/$pid/smaps_rollup"
	done | awk '{ n[$1]++; kb[$1] += $2; all += $2 }
		END { printf "%.0f MB PSS", all / 1024; for (c in n) printf ", %d %s %.0f MB", n[c], c, kb[c] / 1024; print "" }'
}

# check_stop stops one container that has a connection which does not end, and one that has none.
check_stop() {
	local mode=$1 fd seconds idle
	exec {fd}<>/dev/tcp/127.0.0.1/8302
	echo hello >&"$fd"
	read -r -t 2 _ <&"$fd" || fail "$mode: the connection has no answer"
	seconds=$(stop "$mode")
	exec {fd}>&-
	docker start "$mode" >/dev/null
	await "$mode: an answer after docker start" answered tcp 8302 tcp1
	await "$mode: UDP after docker start" answered udp 8303 udp1
	idle=$(stop "$mode") # not below: what fails in an argument fails nothing
	say "$mode: docker stop took $seconds s with a connection that stayed, $idle s without one; exit code 0"
	docker rm -v "$mode" >/dev/null
	refused 8301 || fail "$mode: its port is still open"
}

# stop prints how many seconds the container took to end by itself.
stop() {
	local start seconds code
	start=$(now)
	docker stop "$1" >/dev/null
	seconds=$(elapsed "$start")
	code=$(docker inspect -f '{{.State.ExitCode}}' "$1")
	[ "$code" = 0 ] || fail "$1: docker stop took $seconds s, exit code $code"
	awk -v s="$seconds" -v g="$grace" 'BEGIN { exit !(s < g) }' || fail "$1: docker stop took $seconds s"
	echo "$seconds"
}

# check_privileges runs it with no more than it needs, as the README says.
check_privileges() {
	local mode capability options=(--read-only --tmpfs /etc/haproxy --tmpfs /tmp --security-opt no-new-privileges --cap-drop ALL)
	for capability in NET_BIND_SERVICE SETUID SETGID KILL CHOWN FOWNER DAC_OVERRIDE; do
		options+=(--cap-add "$capability")
	done
	put_app low 80 http
	for mode in haproxy pen; do
		run_image "least-$mode" $(mode_flag)
		await "$mode with the least privileges: port 80" answered http 80 http1
		await "$mode with the least privileges: UDP" answered udp 8303 udp1
		check_tasks "least-$mode"
		docker exec "least-$mode" proxymatic validate $(mode_flag) >/dev/null || fail "$mode with the least privileges: validate"
		stop "least-$mode" >/dev/null
		docker rm -v "least-$mode" >/dev/null
	done
	marathon DELETE apps/low
	say "both with as little privilege as the README says: port 80, UDP, tasks that come and go"
}
