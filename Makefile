# tagstore. `make help` lists the targets; CONTRIBUTING.md says how they fit together.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X main.version=$(VERSION)
TOOLS   := $(CURDIR)/.tools/bin
export PATH := $(TOOLS):$(PATH)

# Tools, by exact version. protoc-gen-go has the version of the protobuf
# runtime in core/go.mod; a change here rebuilds the tool.
BUF_VERSION         := v1.75.0
PROTOC_GEN_GO       := $(shell sed -n 's/^\tgoogle.golang.org\/protobuf \(v[^ ]*\).*/\1/p' core/go.mod)
PROTOC_GEN_GO_GRPC  := v1.6.2
GOLANGCI_VERSION    := v2.15.0
GOVULNCHECK_VERSION := v1.9.0

BUF         := $(TOOLS)/buf-$(BUF_VERSION)
PBGO        := $(TOOLS)/protoc-gen-go-$(PROTOC_GEN_GO)
PBGRPC      := $(TOOLS)/protoc-gen-go-grpc-$(PROTOC_GEN_GO_GRPC)
GOLANGCI    := $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION)
GOVULNCHECK := $(TOOLS)/govulncheck-$(GOVULNCHECK_VERSION)

MODULES = $(shell go list -m -f '{{.Dir}}')
comma := ,
# foreach-module runs $(1) in every module's folder and stops at the first failure.
define foreach-module
	@for dir in $(MODULES); do (cd $$dir && echo "-- $${dir#$(CURDIR)/}: $(1)" && $(1)) || exit 1; done
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
	go build -ldflags '$(LDFLAGS)' -o bin/plugins/tagstore-plugin-local ./plugins/local
	go build -ldflags '$(LDFLAGS)' -o bin/plugins/tagstore-plugin-dynamodb ./plugins/dynamodb
	go build -ldflags '$(LDFLAGS)' -o bin/plugins/tagstore-plugin-ssm ./plugins/ssm
	go build -ldflags '$(LDFLAGS)' -o bin/plugins/tagstore-plugin-s3 ./plugins/s3
	go build -ldflags '$(LDFLAGS)' -o bin/plugins/tagstore-plugin-secretsmanager ./plugins/secretsmanager

.PHONY: lambda
lambda: ## bin/lambda/{arm64,amd64}/bootstrap, to be packaged for Lambda's provided.al2023
	@for arch in arm64 amd64; do \
	  echo "-- bin/lambda/$$arch/bootstrap"; \
	  CGO_ENABLED=0 GOOS=linux GOARCH=$$arch go build -trimpath -ldflags '$(LDFLAGS) -s -w' -tags lambda.norpc -o bin/lambda/$$arch/bootstrap ./refresh-lambda || exit 1; \
	done

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
race: ## all tests with -race (part of test)
	$(call foreach-module,go test -race -count=1 ./...)

.PHONY: fuzz
fuzz: ## each fuzz target for a few seconds (FUZZTIME=3s)
	@scripts/fuzz

.PHONY: conformance
conformance: ## hold every store to the driver contract and print the counts (STORES="ssm s3")
	@scripts/conformance $(STORES)

.PHONY: bench
bench: build ## the latency suites, and bench/RESULTS.md from what they print
	@scripts/bench

.PHONY: check-consistency
check-consistency: ## is any answer older than what was acknowledged? (SECONDS=60 SEED= REPLICAS=1,3)
	cd bench && go run ./check/consistency -seconds $(or $(SECONDS),60) -seed $(or $(SEED),0) -replicas $(or $(REPLICAS),1$(comma)3)

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
lint: $(GOLANGCI) $(BUF) ## golangci-lint in every module, buf lint
	$(call foreach-module,$(GOLANGCI) run ./...)
	$(BUF) lint

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
tools: $(BUF) $(PBGO) $(PBGRPC) $(GOLANGCI) $(GOVULNCHECK) ## install the pinned tools into .tools/bin

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

.PHONY: clean
clean: ## remove what was built, not the tools nor the data of make run
	rm -rf bin
