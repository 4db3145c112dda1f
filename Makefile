# Hearth: two commands do everything. `make demo` runs the main job, `make test` passes the tests.
# Both install what the build needs first, through the system's package manager, and say so.

export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hearth/target
export PATH := $(HOME)/.cargo/bin:$(PATH)

# One profile for tests, demo and production: RocksDB is compiled once.
CARGO_FLAGS := --release --locked
JOBS ?= 2
DEMO_FLAGS ?=

.PHONY: setup build demo test lint fuzz-check clean-demo help

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile
	@echo "make demo    three nodes, an agent workload, every byte checked (TRACE=path replays a trace file)"
	@echo "make test    formatting, clippy, every test"
	@echo "make build   the binaries hearthd, hearth and hearth-bench"

setup:
	@scripts/setup.sh

build: setup
	cargo build $(CARGO_FLAGS) -j$(JOBS) --workspace --bins

demo: build
	"$(CARGO_TARGET_DIR)/release/hearth-bench" demo $(if $(TRACE),--trace "$(TRACE)") $(DEMO_FLAGS)

lint: setup
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) -j$(JOBS) --workspace --all-targets -- -D warnings

test: lint build
	cargo test $(CARGO_FLAGS) -j$(JOBS) --workspace
