# Two containers that share a run directory. To be sourced, after checks.sh.

check_takeover() {
	local options=(-v shared:/run/proxymatic)
	run_image holder --haproxy
	await "the holder of the run directory" answered http 8301
	run_image second --haproxy
	[ "$(docker wait second)" = 1 ] || fail "a second container with the same run directory runs"
	docker logs second 2>&1 | grep -q 'another proxymatic' || fail "the second container does not say who holds the run directory"
	answered http 8301 || fail "the second container has ended the service"
	docker rm -f -v holder second >/dev/null
	docker volume rm shared >/dev/null
	say "a second container with the same run directory ends, and names the first"
}
