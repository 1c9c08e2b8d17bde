# `make` alone lists the targets. Everything is a plain cargo command with a name; GNU make, POSIX sh.

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
ETCD_NAMES ?=
# More options for a target's program: make run ARGS="--log-level debug", make bench ARGS=--quick
ARGS ?=
# How long each fuzz target runs, in seconds.
FUZZ_SECONDS ?= 60
# The seeds of `make chaos`, both ends included.
SEEDS ?= 1..500

# The simulator has a target directory of its own: its flags would rebuild everything in target/ back and forth.
SIM_TARGET = $(CURDIR)/target/sim
SIM = $(SIM_TARGET)/release/lockstep-sim
# The commit is printed with every run. Where there is no git, it is left out.
SIM_COMMIT = $(shell git -C "$(CURDIR)" rev-parse --short=12 HEAD 2>/dev/null)

BIN = $(DESTDIR)$(PREFIX)/bin

.DEFAULT_GOAL := help
.PHONY: help run build test conformance fmt bench bench-streams bench-ops sim-build sim-path sim-test chaos mutants install proto fuzz clean

help: ## list the targets
	@echo "make TARGET"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'

run: build ## build the release server and start a single member on 127.0.0.1:2379, data in default.etcd
	$(CARGO) run --release --bin lockstepd -- $(ARGS)

build: ## build lockstepd and lockstepctl (release)
	$(CARGO) build --release --bin lockstepd --bin lockstepctl

test: ## formatting, clippy and every test: what CI runs
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(MAKE) sim-test
	$(CARGO) test --workspace

# Builds as `make test` does, so that nothing is built twice; libraries and their tool chains come from tests/clients/run.py.
conformance: ## other people's client libraries, and what Kubernetes does, on lockstepd and etcd 3.5.1 (ARGS="--only aetcd")
	$(CARGO) build --workspace --bin lockstepd
	python3 tests/clients/run.py --server target/debug/lockstepd $(ARGS)

fmt: ## format the code
	$(CARGO) fmt --all

bench: build ## compare with etcd 3.5.1 on this disk, about 40 minutes (ARGS=--quick: one; ARGS="--only put,100,1")
	$(CARGO) build --release -p lockstep-bench
	target/release/lockstep-bench compare $(ARGS)

bench-streams: build ## the same for watches, leases, long ranges, restarts, about ten minutes (ARGS="--only grant --rounds 1")
	$(CARGO) build --release -p lockstep-bench
	target/release/lockstep-bench streams $(ARGS)

bench-ops: build ## the same for snapshots, restarts, defragmentation, space, about 40 minutes (ARGS=--quick: three)
	$(CARGO) build --release -p lockstep-bench
	target/release/lockstep-bench ops $(ARGS)

# rustflags of a user's cargo configuration are kept: --config adds to them. RUSTFLAGS, when set, would hide both.
sim-build: ## build the simulator (release, inside of madsim, deliberate bugs compiled in and off)
	$${RUSTFLAGS:+env "RUSTFLAGS=$$RUSTFLAGS --cfg madsim"} env LOCKSTEP_COMMIT="$(SIM_COMMIT)" \
		$(CARGO) --config 'build.rustflags=["--cfg","madsim"]' \
		build --release -p lockstep-sim --bin lockstep-sim --features simulation --target-dir "$(SIM_TARGET)"

sim-path: ## print where sim-build puts the simulator
	@echo "$(SIM)"

# Fresh seeds every commit, so that what is tested grows; the same seeds for everyone who looks at that commit.
sim-test: sim-build ## what CI runs of the simulator: fixed and fresh seeds, determinism, some deliberate bugs
	$(CARGO) build --workspace --bin lockstep-sim
	$(SIM) check --seeds 1..6 --until 30s --other target/debug/lockstep-sim
	$(SIM) swarm --seeds 1..60
	first=$$(printf '%d' "0x$$(git rev-parse --short=7 HEAD 2>/dev/null || echo 1000)") && \
		$(SIM) swarm --seeds $$first..$$((first + 59))
	$(SIM) replay sim/scenarios/etcd-20418.scenario | grep 'expected .*: it does$$'
	$(SIM) mutants --id ack-before-fsync,lease-reads,torn-tail-refused,epoch-reused --budget 90s

chaos: sim-build ## run a swarm: make chaos SEEDS=1..500 (ARGS="--save failures")
	$(SIM) swarm --seeds $(SEEDS) $(ARGS)

mutants: sim-build ## show that every deliberate bug is found, about 15 minutes (ARGS="--id ack-before-fsync")
	$(SIM) mutants $(ARGS)

install: build ## install into PREFIX (/usr/local); ETCD_NAMES=1 also links etcd, etcdctl and etcdutl
	install -d "$(BIN)"
	install -m 755 target/release/lockstepd target/release/lockstepctl "$(BIN)"
	if [ "$(ETCD_NAMES)" = 1 ]; then \
		ln -sf lockstepd "$(BIN)/etcd" && ln -sf lockstepctl "$(BIN)/etcdctl" && ln -sf lockstepctl "$(BIN)/etcdutl"; \
	fi

proto: ## write proto/src/generated again from proto/protos
	$(CARGO) run --release --manifest-path proto/gen/Cargo.toml --target-dir target/proto-gen

fuzz: ## run every fuzz target for FUZZ_SECONDS each (needs cargo-fuzz and a nightly toolchain)
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { \
		echo "cargo-fuzz is missing: cargo install cargo-fuzz, and rustup toolchain install nightly" >&2; exit 1; }
	@test -f fuzz/Cargo.toml || { echo "there are no fuzz targets: fuzz/Cargo.toml is missing" >&2; exit 1; }
	set -e; for target in $$($(CARGO) +nightly fuzz list); do \
		$(CARGO) +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -timeout=20 -max_len=65536; \
	done

clean: ## remove what builds and benchmarks made
	$(CARGO) clean
