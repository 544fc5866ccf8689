# walproxy: every command a contributor needs. `make run` and `make test` are
# the two that matter; the others are their parts and longer forms.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

GO       ?= go
TOOL     := $(GO) tool -modfile=$(CURDIR)/tools/go.mod
PKGS     ?= ./...
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS  := -X main.version=$(VERSION)
DATA_DIR ?= ./walproxy-data
FUZZTIME ?= 1000x
DURATION ?= 10m
BUDGET   ?= 6m
AT_ONCE  ?= $(shell expr 2 \* $$(nproc 2>/dev/null || echo 2))

.PHONY: run build test race short vet lint fuzz aerospike aerospike-short pgsuites crash mutants backlog soak bench peers demo generate check-generate vuln install-deps install-drivers package check-kubernetes check-systemd clean

## run: the proxy on the embedded store, in the foreground; data in DATA_DIR
run: build
	./bin/walproxy serve --data-dir $(DATA_DIR)

## build: bin/walproxy, without C as in packages: no compiler is needed, nor the minute that it takes
build:
	CGO_ENABLED=0 $(GO) build -ldflags '$(LDFLAGS)' -o bin/walproxy ./cmd/walproxy

## test: everything CI checks, on a fresh machine
test: install-deps vet check-generate race fuzz aerospike-short

## race: all tests under the race detector, in their short form, and those that
## it would disturb. A program with it sleeps before it ends, by default for 1 s,
## in case threads that nobody joined still have a race: here they are joined. Twice
## as many packages as processors run at once: many tests wait, for processes and disks.
## Without what only debuggers read (-w) a fifth less is spent on linking. The packages
## that take longest come first: they wait while others are compiled. What has to be
## compiled without the race detector is so as it is in packages: without C. With it Pebble
## has its zstd in Go as well (pebblegozstd): that in C takes a processor a minute to compile.
race: LONGEST = $(if $(filter ./...,$(PKGS)),./internal/crashtest ./cmd/walproxy ./sinks/postgres ./api/pgwire ./wal ./replay ./sinks/pebble)
race:
	GORACE="atexit_sleep_ms=50 $${GORACE-}" $(GO) test -vet=off -race -tags pebblegozstd -ldflags=-w -p $(AT_ONCE) -timeout 15m $(LONGEST) $(PKGS)
	CGO_ENABLED=0 WALPROXY_TEST_ENGINE=tidwall $(GO) test -vet=off -timeout 10m ./wal
	CGO_ENABLED=0 $(GO) test -vet=off -timeout 5m -run TestBacklogNeedsNoMemory ./wal
	CGO_ENABLED=0 $(GO) test -vet=off -timeout 5m -tags failpoint -run Failpoints ./wal ./replay

## short: all tests without the race detector, for a quick look
short:
	$(GO) test -timeout 10m $(PKGS)

## vet: formatting, vet and deploy/; of what race compiles, too. With more memory (GOGC) compilers
## take less time
vet:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	GOGC=200 $(GO) vet -race -tags pebblegozstd $(PKGS)
	CGO_ENABLED=0 $(GO) vet -tags failpoint ./internal/failpoint ./wal ./replay
	./scripts/check-deploy

## lint: vet and staticcheck, before a change lands: for CI's 20 minutes it takes too long
lint: vet
	$(TOOL) staticcheck $(PKGS)

## vuln: known vulnerabilities in what we use (needs the vulnerability database)
vuln:
	$(TOOL) govulncheck $(PKGS)

## fuzz: every fuzz target, FUZZTIME inputs or so long (make fuzz FUZZTIME=10m)
fuzz:
	CGO_ENABLED=0 ./scripts/fuzz $(FUZZTIME)

## aerospike: the official Go client's own test suite against the Aerospike endpoint
aerospike:
	$(GO) run ./internal/aerosuite

## aerospike-short: those of its specs that take a few seconds
aerospike-short:
	CGO_ENABLED=0 $(GO) run ./internal/aerosuite -short

## pgsuites: PostgreSQL's regression tests, the suites of its drivers, and every driver
## tried as somebody new would, through the PostgreSQL endpoint and directly (minutes).
## That of node-postgres is in no package: NODE_POSTGRES names a checkout of it.
pgsuites: install-deps install-drivers
	WALPROXY_LONG=1 WALPROXY_NODE_POSTGRES=$(NODE_POSTGRES) $(GO) test -timeout 1h -count 1 -v ./internal/pgsuite
	WALPROXY_LONG=1 $(GO) test -timeout 30m -count 1 -v -run 'TestDriver' ./api/pgwire

## crash: the long form of every crash, power-cut and fault test (root, /dev/fuse)
crash: install-deps
	WALPROXY_LONG=1 $(GO) test -timeout 2h -count 1 -v ./internal/crashtest/... ./internal/powerfs/...
	WALPROXY_LONG=1 $(GO) test -timeout 2h -count 1 -v -run 'AtEveryCall|PowerCut|FailureIn' ./wal

## backlog: 10 GiB of backlog, memory below 300 MiB (takes minutes and the disk)
backlog:
	WALPROXY_LONG=1 $(GO) test -timeout 1h -count 1 -v -run TestBacklogMemory ./internal/crashtest

## mutants: what durability rests on is taken out, one by one: a named test fails (minutes)
mutants:
	$(GO) run ./internal/mutants

## soak: property and model tests with many more seeds, then for DURATION a server and an
## embedded proxy to which whatever chance says is done (root, /dev/fuse)
soak:
	WALPROXY_LONG=1 WALPROXY_TEST_ENGINE=tidwall $(GO) test -race -timeout 2h -count 1 ./wal
	WALPROXY_LONG=1 $(GO) test -race -timeout 2h -count 1 ./wal/... ./replay/... ./sinks/... ./internal/accept/...
	WALPROXY_SOAK=$(DURATION) $(GO) test -timeout 24h -count 1 -v -run '^TestSoak$$' ./internal/crashtest

## bench: the log beside a raw append + fdatasync loop, and the whole path
bench:
	./scripts/bench

## peers: the log beside others that make records durable; writes docs/benchmarks.md
## and its plots (make peers BUDGET=1h; on a quiet machine)
peers:
	cd bench/peers && $(GO) test -count 1 -run TestPeers -timeout 5h -v -budget $(BUDGET) -docs ../../docs -results ../results

## demo: 200,000 writes, the server killed in mid-drain, the ledger compared
demo: build
	./bin/walproxy demo

## generate: the code made from api/proto
generate:
	cd api/proto && $(TOOL) buf lint && $(TOOL) buf generate && \
	  find . -type f ! -name generated.sha256 | sort | xargs sha256sum > generated.sha256

## check-generate: the generated code is what make generate made of these sources. Sums, for buf
## takes longer to compile than most of walproxy's tests take
check-generate:
	@cd api/proto && sha256sum --check --quiet generated.sha256 || { echo "run make generate and commit what it changes"; exit 1; }

## install-deps: what the tests run beside Go: strace, mkfs.ext4, PostgreSQL, pgbouncer, npm's aerospike
install-deps:
	./scripts/install-deps

## install-drivers: what pgsuites runs beside that: Node.js' drivers, psycopg, JDBC, pg_regress
install-drivers:
	./scripts/install-drivers

## package: a Debian package and an RPM in dist/, both checked, and Kubernetes' manifests
## (make package MAINTAINER='Name <address>' for those that are given to others)
package: check-kubernetes
	VERSION=$(VERSION) GO=$(GO) MAINTAINER='$(MAINTAINER)' ./scripts/package

## check-systemd: the Debian package's unit under a real systemd (root, a Debian mirror)
check-systemd: package
	./scripts/check-systemd

## check-kubernetes: the manifests, read as Kubernetes' own types
check-kubernetes:
	cd deploy/kubernetes/check && $(GO) test ./...

clean:
	rm -rf bin dist
