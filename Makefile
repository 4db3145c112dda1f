# Hearth: two commands do everything. `make demo` runs the main job, `make test` passes the tests.
# Both install what the build needs first, through the system's package manager, and say so.

export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hearth/target
export PATH := $(HOME)/.cargo/bin:$(PATH)

# One profile for tests, demo and production: RocksDB is compiled once.
CARGO_FLAGS := --release --locked
JOBS ?= 2
DEMO_FLAGS ?=

.PHONY: help setup build demo lint test fuzz mutants

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile
	@echo "make demo    three nodes, an agent workload, every byte checked (TRACE=path replays a trace file)"
	@echo "make test    formatting, clippy, every test"
	@echo "make mutants known bugs of the cluster, each found by its simulation"
	@echo "make fuzz    feeds what decodes frames and what lies on the disk with whatever breaks it (nightly and cargo-fuzz)"
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
	for crate in proto store; do \
		cargo check --locked -j$(JOBS) --manifest-path $$crate/fuzz/Cargo.toml --target-dir "$(CARGO_TARGET_DIR)/fuzz" || exit 1; \
	done

# Needs a nightly compiler and cargo-fuzz; FUZZ_SECONDS=n says how long each target runs.
fuzz:
	for target in proto/header proto/body store/footer store/superblock store/entry store/decode; do \
		( cd $${target%/*} && cargo +nightly fuzz run --target-dir "$(CARGO_TARGET_DIR)/fuzz-nightly" $${target#*/} \
			-- -max_total_time=$(or $(FUZZ_SECONDS),60) ) || exit 1; \
	done

test: lint build
	cargo test $(CARGO_FLAGS) -j$(JOBS) --workspace
	cargo test $(CARGO_FLAGS) -j$(JOBS) -p hearth-store --features mutants --test mutants
	$(MAKE) mutants

# Known bugs of the cluster that its simulation has to find, one process for each seed.
mutants: setup
	cargo test $(CARGO_FLAGS) -j$(JOBS) -p hearth-chaos --features mutants --test mutants
