# What the scripts around Docker share: asking services on this host, and waiting for what should come. To be sourced.

say() { printf '%6.1f s  %s\n' "$(elapsed "$began")" "$*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }

now() { date +%s%N; }
elapsed() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", (b - a) / 1e9 }'; } # seconds since now gave $1
began=$(now)

# ask_http, ask_tcp and ask_udp PORT print the name of the server that answers.
ask_http() { curl -fsS --max-time 2 "http://127.0.0.1:$1/" 2>/dev/null; }

ask_tcp() {
	local fd answer
	{ exec {fd}<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
	echo hello >&"$fd"
	read -r -t 2 answer <&"$fd" || answer=
	exec {fd}>&-
	echo "$answer"
}

ask_udp() { # from a new port, so that it is a flow of its own
	local fd answer
	exec {fd}<>"/dev/udp/127.0.0.1/$1"
	echo hello >&"$fd"
	answer=$(timeout 1 dd bs=100 count=1 <&"$fd" 2>/dev/null || true) # a datagram is read at once, or cut
	exec {fd}>&-
	echo "${answer% hello}"
}

# await WHAT COMMAND... waits until the command succeeds.
await() {
	local what=$1 deadline=$((SECONDS + 30))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$deadline" ] || fail "$what: not within 30 s"
		sleep 0.02
	done
}

# answered KIND PORT NAME: is it this server that answers? Any, where no name is given.
answered() {
	local answer
	answer=$("ask_$1" "$2") && [ -n "$answer" ] && [[ $answer == "${3:-$answer}" ]]
}

# only KIND PORT NAME...: do 20 questions in a row get their answer, and only from servers of these names?
only() {
	local kind=$1 port=$2 answer
	shift 2
	for _ in {1..20}; do
		answer=$("ask_$kind" "$port") && [[ " $* " == *" $answer "* ]] || return 1
	done
}

refused() { ! { : <>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null; }

# status_of PATH asks the status endpoint.
status_of() { curl -fsS --max-time 2 "http://127.0.0.1:$status_port$1" 2>/dev/null; }

ready() { [ "$(status_of /status)" = OK ]; }

# reloads counts those of HAProxy.
reloads() { status_of /metrics | awk '/^proxymatic_reloads_total/ { n += $2 } END { print n + 0 }'; }

# marathon METHOD PATH [BODY] tells the fake Marathon what is so.
marathon() { curl -fsS -o /dev/null -X "$1" "http://127.0.0.1:$marathon_port/fake/$2" -d "${3:-}"; }

# proxies CONTAINER lists the processes that serve: none may be another while only tasks change.
proxies() { docker top "$1" -eo pid,comm | awk '$2 == "haproxy" || $2 == "pen" { print $1 }' | sort | xargs; }
