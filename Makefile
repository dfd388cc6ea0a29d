# The commands of everyday work. `make help` lists them.

.DEFAULT_GOAL := help
.PHONY: help demo test lint truth bench deny detect instructions fingerprints kernels

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## See calltap at work: an order API, clients that misbehave, a record for every call
	@scripts/bootstrap
	cargo run --profile quick -p calltap -- demo

test: ## Run every test; those that need privileges say so where they are skipped
	@scripts/bootstrap --test
	cargo test --workspace --no-fail-fast

lint: ## Check formatting and lints
	@scripts/bootstrap
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

truth: ## Hold every record against packet captures, in all scenarios; writes docs/truth.md (about an hour)
	@scripts/bootstrap --test
	cargo build --profile quick -p calltap
	cargo run --profile quick -p calltap-loadtest -- truth --write docs/truth.md

bench: ## Measure what a call costs in calltap, nginx, HAProxy and Envoy, logs off and on (about half an hour)
	@scripts/bootstrap --bench
	cargo build --release -p calltap
	cargo run --profile quick -p calltap-loadtest -- compare --calltap $${CARGO_TARGET_DIR:-target}/release/calltap --write docs/performance.md --summary README.md

deny: ## Exchange a deny-list of 50,000 networks under load, and deny a flood (two minutes)
	@scripts/bootstrap --test
	cargo build --profile quick -p calltap
	cargo run --profile quick -p calltap-loadtest -- deny

instructions: ## Count the instructions of a call, which a busy machine does not change
	@scripts/bootstrap --bench
	scripts/instructions

fingerprints: ## Compare the fingerprints in records with those that p0f and a capture give
	@scripts/bootstrap --test --fingerprints
	cargo build -p calltap
	cargo run -p calltap-loadtest -- fingerprints $(if $(JA4),--ja4 $(JA4))

detect: ## Attack calltap with real tools among many who mean well and score its alerts; writes docs/detection.md (about an hour; KPI=DIR NAB=DIR score labelled series, too)
	@scripts/bootstrap --test --detect
	cargo build --profile quick -p calltap -p calltap-loadtest
	failed=0; \
	cargo run --profile quick -p calltap-loadtest -- detect tools --write docs/detection.md || failed=1; \
	$(if $(and $(KPI),$(NAB)),cargo run --profile quick -p calltap-loadtest -- detect series --kpi $(KPI) --nab $(NAB) || failed=1;) \
	exit $$failed

kernels: ## Run the tap's tests and checked calls on Linux 6.1, 6.12, this one and one too old; writes docs/truth.md
	@scripts/bootstrap --test --kernels
	scripts/kernels --write docs/truth.md
