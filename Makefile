# What a person runs. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/mirrord-go/mirrord/internal/version.version=$(VERSION)
export CGO_ENABLED ?= 0
# The same for every build, so that checks, tests and binaries share what was compiled once.
export GOFLAGS ?= -trimpath

GO_MAIN := ./...
CLUSTER := cd test/cluster && go run ./cmd/cluster

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n",$$1,$$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the binaries into bin/
	@mkdir -p bin
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

# The demo needs no operator, whose libraries take longer to compile than all the rest.
.PHONY: build-cli
build-cli:
	@mkdir -p bin
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/mirrord ./cmd/mirrord-agent

.PHONY: images
images: ## Make the container images, into bin/images; or send them: PUSH=registry.example.com/tools
	cd hack/images && go run . -source ../.. -version '$(VERSION)' $(if $(PUSH),-push '$(PUSH)',-out ../../bin/images)

.PHONY: demo
demo: build-cli ## Show the seven adjustments on this machine, without a cluster
	bin/mirrord demo

.PHONY: test
test: deps check test-root test-e2e ## Everything: checks, unit, integration, and the real cluster

.PHONY: deps
deps: ## Install the programs that the tests use (Debian or Ubuntu, as root or with sudo)
	hack/deps.sh

.PHONY: test-unit
test-unit: ## Unit tests; needs no root
	hack/test.sh unit

.PHONY: test-root
test-root: ## Tests in network namespaces of their own; needs root
	hack/test.sh root

.PHONY: test-e2e
test-e2e: build ## End-to-end tests on a real cluster; needs root
	hack/test.sh e2e

.PHONY: cluster-up
cluster-up: ## Start the test cluster (about 10 minutes the first time, then seconds)
	$(CLUSTER) up

.PHONY: cluster-down
cluster-down: ## Stop the test cluster
	$(CLUSTER) down

.PHONY: bench
bench: build-cli ## Print ratios of a session to kubectl port-forward and to direct connections
	hack/bench.sh

.PHONY: check
check: ## Format, vet, lint, generated code, cross-builds
	hack/check.sh

.PHONY: generate
generate: ## Regenerate code, CRDs and reference documentation
	hack/generate.sh

.PHONY: fmt
fmt: ## Format the code
	gofmt -w $$(git ls-files '*.go')
