# make            build bin/pgx
# make demo       show the main job on a throwaway cluster
# make test       everything that must hold before a change lands; needs root
# make bench      pgx and pgbackrest side by side on one cluster
# make soak       the tests that sample, in full
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
# cached: they depend on servers and programs that go knows nothing of.
.PHONY: test
test: setup build lint
	CGO_ENABLED=1 go test -race -count=1 -timeout 30m -p 2 $(PKG)

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
	go test -run '^$$' -bench . -benchtime 3x ./repo/format/manifest ./internal/postgres ./internal/pipeline
	go run ./test/bench

.PHONY: soak
soak: setup build
	PGX_TEST_LONG=1 go test -count=1 -timeout 6h -p 1 ./test ./stanza/...

.PHONY: fuzz
fuzz:
	test/fuzz.sh $(FUZZTIME)
