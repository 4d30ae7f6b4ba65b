# What developers and .ci/run call. Each target installs the Debian packages that it lacks where it may (root, or sudo
# without a password), and says so; where it may not, it says what to install.

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
export PATH := $(PATH):/usr/local/sbin:/usr/sbin

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
NFPM        := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.44.0
SLOW        := /testenv/(e2e|bench)$$
# STORIES are the tests that tell their seed and what happened; they are run so that one sees it, and without the race
# detector, which takes five times as long, as often as they should be.
STORIES     := Converge
BRIEF       := grep -Ev '^=== |^ +--- PASS'
# FUZZTIME counts executions: where it is a time, go test can fail with nothing but "context deadline exceeded".
FUZZTIME    ?= 10000x
TIME        ?= 20m
SEED        ?= 1
SOAK        ?= 1h
SERVICES    ?= 100
SUITES      ?= bullseye bookworm trixie sid
TESTFLAGS   ?=
DIST        ?= dist
# VERSION is that of the packages: the tag, with +COMMITS.gCOMMIT after it where there are more.
VERSION     ?= $(shell { git describe --tags --match 'v*' --dirty 2>/dev/null || \
	echo "0.0.0-$$(git rev-list --count HEAD)-g$$(git rev-parse --short HEAD)"; } | sed -E 's/^v//; s/-([0-9]+)-g/+\1.g/; s/-dirty$$/.dirty/')

.DEFAULT_GOAL := help
.PHONY: help demo build image test e2e chaos soak matrix bench fuzz docker-check packages packages-check lint clean go haproxy pen etcd procps gcc debootstrap engine

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build haproxy pen etcd ## show it at work: a fake Marathon and registrator, a real HAProxy, services that come, scale and go
	go run ./testenv/demo --binary bin/proxymatic

build: go ## build bin/proxymatic
	CGO_ENABLED=0 go build -buildvcs=auto -trimpath -o bin/proxymatic ./cmd/proxymatic

image: ## build the container image meltwater/proxymatic (with Docker's BuildKit)
	DOCKER_BUILDKIT=1 docker build --build-arg VERSION=$$(git describe --tags --always --dirty) --build-arg REVISION=$$(git rev-parse HEAD) -t meltwater/proxymatic .

test: go gcc haproxy pen etcd ## unit tests, and those with real HAProxy, pen and etcd, with the race detector
	go test -race $(TESTFLAGS) -skip '$(STORIES)Real' $$(go list ./... | grep -Ev '$(SLOW)')
	go test $(TESTFLAGS) -p 1 -v -run '$(STORIES)' ./runtime/haproxy ./pen | $(BRIEF)

e2e: go haproxy pen etcd procps ## end-to-end tests: the real binary with real HAProxy, pen and etcd under load
	go test -v -timeout 20m $(TESTFLAGS) ./testenv/e2e | $(BRIEF)

chaos: go haproxy pen etcd procps ## faults of all kinds under load for TIME (20m), in the order of SEED (1)
	go test -v -count=1 -timeout 3h -run 'TestChaos$$' $(TESTFLAGS) ./testenv/e2e -chaos.time $(TIME) -chaos.seed $(SEED) | $(BRIEF)

soak: go haproxy ## 1,000 services that change five times a second for SOAK (1h)
	go test -v -count=1 -timeout 5h -run 'TestSoak$$' $(TESTFLAGS) ./testenv/e2e -soak.time $(SOAK) | $(BRIEF)

matrix: go haproxy etcd debootstrap ## end-to-end tests with the HAProxy of other Debian releases: SUITES (all four), tests that match RUN; needs root
	testenv/matrix $(SUITES)

bench: go haproxy pen etcd ## measure how fast changes are served, with SERVICES (100, or 1000) services, and one among 5,000
	go test -run '^$$' -bench . $(TESTFLAGS) -p 1 ./runtime/haproxy ./pen ./sources/registrator
	go test -run '^$$' -bench './services=$(SERVICES)$$' -benchtime 1x -timeout 60m $(TESTFLAGS) ./testenv/bench
	go test -run '^$$' -bench 'Change/services=5000$$' -benchtime 1x -timeout 60m $(TESTFLAGS) ./testenv/bench
	go test -run '^$$' -bench Pen -benchtime 1x -timeout 60m $(TESTFLAGS) ./testenv/bench

fuzz: go ## fuzz each parser, with FUZZTIME (10000x) inputs
	@grep -r --include='*_test.go' '^func Fuzz' . | sed -E 's/^(.*)\/[^/]*:func (Fuzz[A-Za-z0-9_]*).*/\1 \2/' | sort | \
	while read -r package name; do \
		echo "go test -run '^$$' -fuzz '^$$name$$' -fuzztime $(FUZZTIME) $$package"; \
		go test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
	done

docker-check: go engine ## build the image on a Docker engine of its own, run it and the compose environment, and remove every trace (root)
	testenv/docker-check/run

packages: build ## build the deb and the rpm into DIST (dist), as VERSION (from git describe)
	@mkdir -p $(DIST)
	for kind in deb rpm; do \
		VERSION=$(VERSION) ARCH=$$(go env GOARCH) SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) \
			env -u GOOS -u GOARCH go run $(NFPM) package --config deploy/nfpm.yaml --packager $$kind --target $(DIST)/ || exit 1; \
	done

packages-check: go debootstrap ## install, run, upgrade and remove the deb on a Debian with systemd of its own, under load
	bash testenv/packages-check

lint: go ## gofmt, go vet, staticcheck, and go.mod in order
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "gofmt -w these: $$unformatted"; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	go mod tidy -diff

clean: ## remove what was built
	rm -rf bin dist

go:
	@command -v go >/dev/null || { echo "Go is missing: install Go 1.26 or newer, see https://go.dev/doc/install"; exit 1; }

haproxy:
	@$(call need,haproxy,haproxy)

pen: # without the packages that it recommends: a GeoIP database would cost 10 MB of memory a process
	@$(call need,pen,pen)

etcd:
	@$(call need,etcd,etcd-server)

procps:
	@$(call need,pgrep,procps)

gcc: # for the race detector
	@$(call need,gcc,gcc libc6-dev)

debootstrap:
	@$(call need,debootstrap,debootstrap)
	@$(call need,ip,iproute2)
	@$(call need,curl,curl)

# engine is for docker-check: an engine, compose, and a network of its own. Debian's client goes with Debian's engine; others may
# stand before it in the path. From Debian 13 on it has a package of its own, and wants another to build.
engine: export PATH := /usr/sbin:/usr/bin:/sbin:/bin:$(PATH)
engine: debootstrap procps
	@$(call need,dockerd,docker.io)
	@$(call need,docker,docker-cli)
	@$(call ensure,DOCKER_BUILDKIT=1 docker build --help,docker-buildx)
	@$(call ensure,docker compose version || command -v docker-compose,docker-compose)
	@$(call need,iptables,iptables)
	@$(call need,slirp4netns,slirp4netns)
	@$(call ensure,mountpoint /sys/fs/cgroup || command -v cgroupfs-mount,cgroupfs-mount)

# need installs the packages $(2) where the program $(1) is missing.
need = $(call ensure,command -v $(1),$(2))

# ensure installs the packages $(2) where the command $(1) fails. Package lists are only fetched when the old ones, or none, do not
# do. Services that come with the packages are not started: to SYSTEMD_OFFLINE, systemctl does as in a chroot.
ensure = { $(1); } >/dev/null 2>&1 || { \
	sudo=; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
	if ! command -v apt-get >/dev/null || ! $$sudo true 2>/dev/null; then \
		echo "missing: install $(2) with your package manager (Debian, Ubuntu: sudo apt-get install $(2))"; exit 1; \
	fi; \
	echo "missing: apt-get install $(2)"; \
	get="$$sudo env DEBIAN_FRONTEND=noninteractive SYSTEMD_OFFLINE=1 apt-get -qq -o Dpkg::Use-Pty=0"; \
	$$get install -y --no-install-recommends $(2) </dev/null || \
		{ $$get update </dev/null && $$get install -y --no-install-recommends $(2) </dev/null; } || exit 1; \
	{ $(1); } >/dev/null 2>&1 || { echo "after apt-get install $(2) this still fails: $(1)"; exit 1; }; }
