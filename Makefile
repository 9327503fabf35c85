# One entry point for people and for the CI machine. `make` alone lists the targets.
SHELL := /bin/bash
# What `make up` and `make tour` run: built in half the time of `release` (see Cargo.toml).
PROFILE ?= up
TARGET := $(or $(CARGO_TARGET_DIR),target)
BUILT := $(TARGET)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
# Where `make setup` puts Envoy and Python's gRPC and WebSocket libraries.
export WEFT_VENV ?= $(CURDIR)/.venv
export WEFT_ENVOY ?= $(WEFT_VENV)/bin/envoy

.PHONY: help up tour test bench fuzz fmt lint clean setup
help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile

up: setup ## a whole mesh on this machine: control plane, sidecars, apps (DIR=examples/city)
	@python3 scripts/build.py $(PROFILE)
	@$(BUILT)/weft up $(or $(DIR),examples/city)

tour: setup ## the guided tour of examples/city, one line a step, then stop (PROFILE=release to run it optimised)
	@python3 scripts/build.py $(PROFILE)
	@$(BUILT)/weft up --once examples/city

test: setup ## format, lints, unit, property and end-to-end tests, the tour (FILTER=name for a part)
	@python3 scripts/test.py $(FILTER)

bench: ## side-by-side measurements against peers (CASES="chain authz identity" BASELINE=/path/of/an/older/weft)
	@scripts/setup bench
	cargo build --release -p weft -p weft-bench
	@$(if $(BASELINE),export WEFT_BASELINE=$(abspath $(BASELINE)); )for case in $(or $(CASES),chain); do \
	  WEFT_BIN=$(abspath $(TARGET))/release/weft $(TARGET)/release/weft-bench $$case $(BENCH_ARGS) || exit 1; done

fuzz: ## each fuzz target for a minute (FUZZ_SECONDS=60, TARGETS=name for some)
	@scripts/fuzz

fmt: ## format the code
	cargo fmt

lint: ## what the tests check without running anything
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	@python3 scripts/test.py deny

clean: ## remove everything that was built
	cargo clean
	rm -rf .venv

setup: ## install the peers that tests and benchmarks run against, if they are missing
	@scripts/setup
