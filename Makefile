# Everything a developer or a CI runs. `make help` lists it. Needs Go, Python 3 with pip, and nothing else; what else is
# used comes from the package registries, pinned, into .cache.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# Without cgo a build is the same on a machine with and without a C compiler.
export CGO_ENABLED ?= 0

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 2m
BENCHTIME ?= 1s
CHANGES ?= 300
CONFIG ?= examples/two-tenants
# Debian's client where there is one: another may come first in PATH.
DOCKER ?= $(firstword $(wildcard /usr/bin/docker) docker)
GOLANGCI := .cache/tools/golangci-lint
GREMLINS := .cache/tools/gremlins
COVERED := tenancy authz
MODULE := github.com/ringfence-mesh/ringfence

, := ,
say = echo "==> $(1)"
# Puts the path of an Envoy into the environment of the recipe's next lines.
envoy = ENVOY="$$(scripts/envoy.sh)"; export ENVOY

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Use it

.PHONY: demo
demo: build ## Run two tenants and a shared service on real Envoys (ARGS=--check: exit 1 unless all is as expected)
	@$(envoy); exec bin/ringfence demo --config $(CONFIG) $(ARGS)

.PHONY: build
build: ## Build bin/ringfence
	@$(call say,building bin/ringfence $(VERSION))
	@go build -trimpath -buildvcs=false -ldflags '-X main.version=$(VERSION)' -o bin/ringfence ./cmd/ringfence

.PHONY: man
man: build ## Write the manual pages into bin/man
	@rm -rf bin/man
	@bin/ringfence man bin/man

.PHONY: images
images: ## Build the images ringfence/ringfence:dev and ringfence/checker:dev (needs a Docker engine; docs/compose.md)
	@$(call say,building the images)
	@rm -rf bin/image
	@install -d -m 0755 bin/image/ringfence.d bin/image/checker.d
	@install -d -m 0700 bin/image/ringfence.d/var/lib/ringfence/trust bin/image/ringfence.d/var/lib/ringfence-agent
	@install -d -m 0700 bin/image/ringfence.d/run/ringfence-token bin/image/checker.d/keys/public bin/image/checker.d/keys/private
	@chmod 0700 bin/image/ringfence.d/var/lib/ringfence
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o bin/image/ringfence ./cmd/ringfence
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o bin/image/checker ./examples/compose/checker
	@$(DOCKER) build -q -t ringfence/ringfence:dev --target ringfence . >/dev/null
	@$(DOCKER) build -q -t ringfence/checker:dev --target checker . >/dev/null

.PHONY: envoy
envoy: ## Find or fetch Envoy, and print its path
	@scripts/envoy.sh

##@ Test it

.PHONY: test
test: check-generated unit cover-gate e2e fuzz-short ## All tests: unit, coverage, end to end on real Envoys, short fuzzing
	@$(call say,all tests passed)

.PHONY: check
check: test lint ## What CI runs: test and lint

.PHONY: unit
unit: ## Unit tests, with the coverage of each package
	@$(call say,unit tests; the first run compiles for some minutes)
	@mkdir -p coverage
	@$(envoy); go test -timeout 5m -coverprofile=coverage/unit.out $$(go list ./... | grep -v '^$(MODULE)/e2e')

.PHONY: e2e
e2e: ## End-to-end tests on real Envoys
	@$(call say,end-to-end tests on real Envoys)
	@$(envoy); go test -count=1 -timeout 10m -v ./e2e/...

.PHONY: test-tcp
test-tcp: ## A real PostgreSQL as a TCP service of a tenant, and as a shared one (installs Debian's package where this is root)
	@$(call say,a real PostgreSQL behind real Envoys)
	@$(envoy); scripts/tcp-test.sh

.PHONY: test-browser
test-browser: ## A real browser's pages at the example ingress (installs Debian's Chromium where this is root)
	@$(call say,pages of a real browser at an ingress)
	@$(envoy); scripts/browser-test.sh

.PHONY: test-compose
test-compose: ## The compose stack on a Docker engine, started where none runs (COMPOSE="docker compose": with that one)
	@$(call say,the compose stack$(,) its checker$(,) and attacks from within)
	@scripts/docker.sh run $(MAKE) compose-stack

.PHONY: compose-stack
compose-stack: images
	@scripts/docker.sh images
	@scripts/compose-test.sh

.PHONY: test-softhsm
test-softhsm: ## Root keys in a PKCS #11 token, on SoftHSM (needs a C compiler; installs Debian's softhsm2 where it is missing)
	@$(call say,root keys in a PKCS 11 token)
	@scripts/softhsm-test.sh

.PHONY: test-spire
test-spire: ## Tenants whose SVIDs a real SPIRE gives (builds SPIRE the first time, which takes ten minutes and a C compiler)
	@$(call say,a real SPIRE)
	@$(envoy); scripts/spire-test.sh

.PHONY: cover
cover: unit cover-gate ## Unit tests, then fail where less than 97 % of the statements of identity, or 95 % of tenancy or authz, are covered

.PHONY: cover-gate
cover-gate:
	@$(call say,coverage of identity $(COVERED))
	@scripts/cover.sh coverage/unit.out 97 $(MODULE)/identity
	@scripts/cover.sh coverage/unit.out 95 $(addprefix $(MODULE)/,$(COVERED))

.PHONY: mutation
mutation: $(GREMLINS) ## Change identity, authz and the relay in small ways, and fail where no test notices (half an hour or more; FOLDER=authz)
	@$(call say,mutation score of what keeps tenants apart; half an hour or more)
	@scripts/mutation.sh $(FOLDER)

$(GREMLINS): tools/gremlins.mod tools/gremlins.sum
	@go build -modfile tools/gremlins.mod -buildvcs=false -o $@ github.com/go-gremlins/gremlins/cmd/gremlins
	@touch $@

.PHONY: fuzz-short
fuzz-short: ## Fuzz every target for a few seconds
	@$(call say,fuzzing every target for 3s)
	@go run ./internal/fuzzrun -time 3s

.PHONY: fuzz
fuzz: ## Fuzz every target for FUZZTIME (2m); fails where a target or a seed is missing
	@$(call say,fuzzing every target for $(FUZZTIME))
	@go run ./internal/fuzzrun -time $(FUZZTIME)

.PHONY: test-long
test-long: ## The tests with the race detector (needs a C compiler) and many more random cases, then a minute for each fuzz target
	@$(call say,all tests with the race detector and RINGFENCE_LONG=1)
	@$(envoy); RINGFENCE_LONG=1 CGO_ENABLED=1 go test -race -count=1 -timeout 60m ./...
	@go run ./internal/fuzzrun -time 1m

.PHONY: test-faults
test-faults: ## Kill agents, Envoys and the control plane 100 times under load, and fill their disks (about 5 minutes)
	@$(call say,100 deaths under load$(,) and full disks)
	@$(envoy); RINGFENCE_FAULTS=$${RINGFENCE_FAULTS:-100} go test -count=1 -timeout 40m -v -run 'TestKilledUnderLoad|TestFullDisks' ./e2e

.PHONY: bench
bench: ## Benchmarks (BENCHTIME=1s); docs/performance.md says what they mean
	@$(call say,a Check beside a decision point that does nothing; four minutes)
	@go run ./internal/authzbench -window $(BENCHTIME)
	@$(call say,benchmarks)
	@$(envoy); go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) -timeout 60m \
	  $$(grep -rl --include='*_test.go' '^func Benchmark' . | xargs -r dirname | sort -u | grep -v '^./e2e')
	@$(call say,benchmarks on real Envoys)
	@$(envoy); go test -run '^$$' -bench Change -benchtime $(CHANGES)x -timeout 60m ./e2e
	@$(envoy); go test -run '^$$' -bench Idle -benchtime 4x -timeout 60m ./e2e

##@ Write it

.PHONY: fmt
fmt: $(GOLANGCI) ## Format the Go code
	@$(GOLANGCI) fmt

.PHONY: lint
lint: $(GOLANGCI) ## Lint the Go code and check go.mod
	@$(call say,checking that go.mod is tidy)
	@go mod tidy -diff
	@$(call say,linting)
	@$(GOLANGCI) run --allow-serial-runners

$(GOLANGCI): tools/go.mod tools/go.sum
	@$(call say,building golangci-lint from tools/go.mod: once$(,) two or three minutes)
	@go build -modfile tools/go.mod -buildvcs=false -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

.PHONY: generate
generate: ## Generate the protobuf code
	@scripts/generate.sh

.PHONY: check-generated
check-generated: ## Fail where generated code is not what its source gives
	@$(call say,checking generated code)
	@scripts/generate.sh --check

.PHONY: clean
clean: ## Remove what was built; what was downloaded stays in .cache
	@rm -rf bin coverage .cache/fuzz .cache/tools
