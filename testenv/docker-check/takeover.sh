# Containers that share a run directory. To be sourced, after checks.sh.

check_takeover() {
	local mode holder options=(-v shared:/run/proxymatic)
	for mode in haproxy pen; do
		holder=first-$mode
		run_image "$holder" $(mode_flag)
		await "$mode: the holder of the run directory" answered http 8301
		run_image second $(mode_flag)
		[ "$(docker wait second)" = 1 ] || fail "$mode: a second container with the same run directory runs"
		logged second 'another proxymatic' || fail "the second container does not say who holds the run directory"
		docker rm -v second >/dev/null
		upgrade "$holder" "second-$mode"
		upgrade "second-$mode" "third-$mode"
		docker rm -f -v "third-$mode" >/dev/null
		docker volume rm shared >/dev/null
	done
	say "a second container with the same run directory ends, and names the first"
}

# upgrade has one container take over from another, as the README says, under load.
upgrade() {
	local old=$1 new=$2 load
	"$work/bin/load" -ports 8301 -rate 500 >"$work/load.log" & load=$!
	sleep 1
	run_image "$new" --take-over $(mode_flag)
	[ "$(docker wait "$old")" = 0 ] || fail "$mode: the container that was taken over from ends with another code than 0"
	await "$mode: it has taken over" logged "$new" "taken over"
	check_tasks "$new"
	kill "$load"
	wait "$load" || [ "$mode" = pen ] || fail "$mode: a take-over fails requests: $(cat "$work/load.log")"
	say "$mode: $new took over from $old: $(head -1 "$work/load.log")"
	docker rm -v "$old" >/dev/null
}
