# make            build bin/pgx
# make demo       show the main job on a throwaway cluster
# make test       everything that must hold before a change lands; needs root
# make bench      pgx and pgbackrest side by side; BENCH='-targets -size 500' for forty minutes
# make profile    flame graphs of each data path, into docs; needs root
# make soak       the tests that sample, in full
# make interop    every chain of backups that pgx and pgbackrest make in turn
# make fuzz       every fuzz target for FUZZTIME each
# make install    put pgx into PREFIX/bin

PREFIX   ?= /usr/local
FUZZTIME ?= 1m
PKG      ?= ./...

export CGO_ENABLED ?= 0
TEST_HOME := $(or $(PGX_TEST_HOME),/tmp/pgx-test)
STATICCHECK := $(TEST_HOME)/bin/staticcheck-v0.8.2

.PHONY: build
build:
	go build -trimpath -o bin/pgx ./cmd/pgx

.PHONY: install
install: build
	install -D -m 755 bin/pgx $(DESTDIR)$(PREFIX)/bin/pgx

.PHONY: setup
setup:
	test/setup.sh test lint

.PHONY: lint
lint:
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	go vet ./...
	$(STATICCHECK) ./...

# The race detector needs cgo and a C compiler; the product does not. Results are not
# cached: they depend on servers and programs that go knows nothing of. They wait for these, too: three
# at a time keep two cores busy.
.PHONY: test
test: setup build lint
	CGO_ENABLED=1 go test -race -count=1 -timeout 40m -p 2 -parallel 3 $(PKG)
	go test -count=1 -tags purego ./internal/cipher ./internal/lz4
	go test -count=1 -tags purego -run 'Fold|CheckPage|Guarded|PageChecksum' ./internal/postgres

.PHONY: short
short: build
	PGX_TEST_SHORT=1 go test -short ./...

.PHONY: demo
demo:
	test/setup.sh demo
	$(MAKE) build
	test/demo.sh

.PHONY: bench
bench: build
	test/setup.sh bench
	go test -run '^$$' -bench . -benchtime 3x ./internal/postgres ./internal/pipeline
	go run ./test/bench $(BENCH)

.PHONY: profile
profile:
	test/setup.sh test
	go run ./test/profile

.PHONY: soak
soak: setup build
	PGX_TEST_LONG=1 go test -count=1 -timeout 6h -p 1 ./test ./stanza/...

# The output of one package at a time comes as it is said, so -v shows how far it is. More tests
# than cores, as backups wait for the clock and for WAL.
.PHONY: interop
interop: setup build
	PGX_TEST_LONG=1 go test -count=1 -timeout 3h -p 1 -parallel 4 -v -run '^Test(Interop|Vectors|AsReference)|RestoredBy' ./stanza/restore ./test

.PHONY: fuzz
fuzz:
	test/fuzz.sh $(FUZZTIME)
