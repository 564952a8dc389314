VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS   := -s -w -X github.com/hallpass-ssh/hallpass/internal/version.Version=$(VERSION)
FUZZTIME  ?= 10s
ROUNDS    ?= soak
FAULT     ?= F
# Whatever compiles does it as build does, so that packages are compiled once and not for each tool anew; but for the race detector.
SHARED    := CGO_ENABLED=0 GOFLAGS="$$(go env GOFLAGS) -trimpath"
BUF       := $(SHARED) go tool -modfile=tools-buf.mod buf
LINT      := $(SHARED) go tool -modfile=tools-lint.mod golangci-lint
PROMCHECK := $(SHARED) go run -modfile=tools-promql.mod scripts/promcheck.go

.PHONY: all build test race fuzz e2e soak lint vet generate bench demo
all: build lint test

build: # the same commit gives the same bytes
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

# The race detector needs cgo; the programs never do. At its end each would sleep for a second, which only make race lets it. What
# vet finds is for make vet.
test:
	scripts/install-deps test
	GORACE=atexit_sleep_ms=0 CGO_ENABLED=1 go test -race -vet=off -timeout 15m ./...

race: # test has looked for races once: look again, in other orders and on other numbers of threads
	CGO_ENABLED=1 go test -race -count=1 -shuffle=on -cpu=1,8 -timeout 30m ./...

fuzz: # every fuzz target, FUZZTIME each
	scripts/fuzz $(FUZZTIME)

e2e: # the scenarios, with more rounds of each fault, more random policies, more damage, and more kills of what keeps the log; each small benchmark once
	scripts/install-deps test
	HALLPASS_LONG=1 go test -count=1 -timeout 60m -v ./e2e/... ./internal/cli ./policy ./store/bolt
	go test -run '^$$' -bench . -benchtime 1x $$(go list ./... | grep -v /e2e/bench)

soak: # every fault as often as before a release, or ROUNDS times; FAULT=F03 for some of them. Prints what each came to
	scripts/install-deps test
	HALLPASS_ROUNDS=$(ROUNDS) go test -count=1 -timeout 24h -v -run 'TestFaults/^$(FAULT)' ./e2e/faults

lint:
	$(BUF) lint && $(BUF) format --diff --exit-code
	$(LINT) run
	$(PROMCHECK)

vet: # for each system that the programs are for; on Windows that is the tool. What is compiled for others is never run: in a hurry
	GOOS=linux $(SHARED) go vet ./...
	GOOS=darwin $(SHARED) go vet -gcflags=all='-N -l' ./...
	GOOS=windows $(SHARED) go vet -gcflags=all='-N -l' ./cmd/hallpass

generate:
	$(BUF) generate

bench: # docs/benchmarks.md says how to read the end-to-end one
	go test -run '^$$' -bench . -benchmem -timeout 30m ./...

demo:
	scripts/install-deps demo
	scripts/demo
