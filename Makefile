# What can be made. Works with CARGO_TARGET_DIR set.

PREFIX ?= /usr/local
BUILD := $(or $(CARGO_TARGET_DIR),target)
# `make setup` may have installed it a moment ago.
export PATH := $(PATH):$(HOME)/.cargo/bin

.PHONY: all setup test soak fuzz test-vm vm-budget vm-setup vm-down demo bench bench-setup bench-full bench-bulk bench-tls bench-compare lint fmt clean install help

all: setup ## Build protocg, optimised (the default)
	cargo build --locked --release

help: ## List what can be made
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

setup: ## Install what a fresh Debian or Ubuntu lacks
	@scripts/setup.sh

test: setup ## Every test, as root where that is needed; in the machine of `vagrant up` if it is running
	@scripts/test.sh

soak: setup ## Load and faults for long, as root: SECONDS=600 at full speed, the other scenes a part of that
	cargo build --locked --workspace --bins
	PROTOCG_SOAK_SECONDS=$(if $(filter-out file default undefined,$(origin SECONDS)),$(SECONDS),600) cargo test --locked --test soak -- --nocapture --test-threads=1

fuzz: setup ## Fuzz the engine with sanitizers: SECONDS=60 in all, TARGET="raw http2 ..."
	@scripts/fuzz.sh $(or $(SECONDS),60) $(TARGET)

vm-setup: setup
	@scripts/setup.sh vm

test-vm: vm-setup ## Tests on a matrix of kernels, in QEMU: KERNEL="6.1 6.12 6.18 7", FULL=1 for all tests, ONLY="guard tls" for all of these
	@tests/vm/matrix.py $(if $(FULL),--full) $(foreach program,$(ONLY),--only $(program)) $(KERNEL)

vm-budget: vm-setup ## Write down what the verifier looks at, by program and kernel, as the new budget
	@tests/vm/matrix.py --write-budget $(KERNEL)

vm-down: ## End the machine of `vagrant up`, whatever state it is in
	@vagrant/down.sh

demo: setup ## Enforce a policy on a small gRPC server, and show what its callers get
	@scripts/demo.sh

bench-setup: setup
	@scripts/setup.sh bench

bench: bench-setup ## protocg beside Envoy, HAProxy and checks in the application (docs/benchmarks.md): under 10 minutes, as root
	@scripts/bench.sh

bench-full: bench-setup ## The same with every load, and longer: about an hour
	@scripts/bench.sh --full --command 'make bench-full'

bench-bulk: setup ## Bulk throughput through the filter, as ratios to the unenforced path (needs root)
	cargo build --locked --release --workspace --bins
	cargo bench --locked --bench bulk

bench-tls: setup ## What hooks in TLS libraries cost, by stack, written into docs/tls.md (needs root): ROUNDS=7
	cargo build --locked --release --workspace --bins
	@tests/peers/js/setup.sh $(BUILD)/peers-js >/dev/null
	@tests/peers/go/setup.sh $(BUILD)/peers-go >/dev/null
	@tests/peers/python/setup.sh >/dev/null
	@scripts/bench-tls.py $(BUILD)/release $(ROUNDS)

bench-compare: setup ## The engine beside an older revision's, in turn: BASE=HEAD^; fails if it is slower by a tenth
	@scripts/bench-compare.sh $(BASE)

lint: setup ## Check formats, lints and generated files
	@scripts/lint.sh

fmt: ## Format all Rust and C
	cargo fmt --all
	find bpf fuzz/engine \( -name '*.c' -o -name '*.h' \) ! -name huffman_table.h -exec clang-format -i {} +

clean: ## Remove what was built
	cargo clean

install: ## Install protocg to PREFIX (default /usr/local); `make` first
	install -D -m 755 $(BUILD)/release/protocg $(DESTDIR)$(PREFIX)/bin/protocg
	install -D -m 644 policies/demo/demo.toml $(DESTDIR)$(PREFIX)/share/doc/protocg/demo.toml
	install -D -m 644 docs/cli.md $(DESTDIR)$(PREFIX)/share/doc/protocg/cli.md
