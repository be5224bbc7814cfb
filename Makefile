# Two commands matter: `make demo` and `make test`. Both set up what they need; nothing by hand.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
LOCKED := $(VENV)/.locked
STAMP := $(VENV)/.installed
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
SOAK_ARGS ?=

.PHONY: help setup demo test lint format docs verify crash chaos soak conformance bench bench-api bench-chaos bench-downtime lock clean

help: ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv from the hash-pinned lock (free when it is already there)

# The stamps are written last, so an interrupted set-up is done again rather than believed. A new lock makes a new
# environment; another pyproject.toml only installs the command again.
$(LOCKED): requirements.lock tools/find-python
	@py=$$(bash tools/find-python); echo "setting up $(VENV) with $$($$py --version) ..."; \
	rm -rf $(VENV); \
	$$py -m venv $(VENV) || { rm -rf $(VENV); echo "make setup: $$py cannot make a virtual environment." \
	  "On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock
	@touch $(LOCKED)

$(STAMP): $(LOCKED) pyproject.toml
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-index --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: setup ## run every story on the embedded stack and print the verdicts (DEMO_ARGS="--only NAME")
	@$(BIN)/blackstart demo $(DEMO_ARGS)

test: setup ## run the test suite (PYTEST_ARGS="-k NAME")
	@$(BIN)/python -m pytest -n 2 --dist loadgroup $(PYTEST_ARGS)
	@bash tools/core-coverage

lint: setup ## formatter, rules, strict types, import contracts, the purity bans
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -p no:cacheprovider tests/architecture

format: setup ## let the formatter and the safe fixes change files
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

docs: setup ## write what in docs/ is made from the code: rights.md, openapi.json, scenarios/schema.json ...
	@$(BIN)/python -m tools.documents

verify: setup ## what is too long for every push: the demo with other seeds, any number of cuts, a million seeds
	@for seed in 1 2 3 4 5; do $(BIN)/blackstart demo --seed $$seed; done
	@HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest -n 2 tests/core
	@bash tools/oci-conformance --auth token --version dev
	@$(BIN)/blackstart crash enumerate
	@$(BIN)/blackstart crash enumerate --unbounded
	@$(BIN)/blackstart crash search --seeds 1000000
	@$(BIN)/blackstart crash mutants
	@BLACKSTART_THOROUGH=1 $(BIN)/python -m pytest -n 2 tests/agreement
	@$(BIN)/blackstart crash cut --runtime process --cuts 2000
	@for seed in 2 3 4 5; do $(BIN)/blackstart chaos run --seed $$seed; done
	@$(BIN)/blackstart chaos soak --minutes 60 --seed 2

crash: setup ## every crash point, random orders, the mutants, and 60 real cuts (root): what CI runs
	@$(BIN)/blackstart crash enumerate
	@$(BIN)/blackstart crash search --seeds 10000
	@$(BIN)/blackstart crash mutants
	@$(BIN)/blackstart crash cut --runtime process --cuts 60

chaos: setup ## play every scenario on real parts, reports in report/chaos (CHAOS_ARGS="--jobs 1 --seed 7")
	@$(BIN)/blackstart chaos run --report report/chaos $(CHAOS_ARGS)

soak: setup ## ten minutes of random faults against 20 devices under updates (SOAK_ARGS="--minutes 60 --seed 7")
	@$(BIN)/blackstart chaos soak --minutes 10 --seed 1 $(SOAK_ARGS)

conformance: setup ## OCI's own conformance suite against our registry (needs Go, or fetches one)
	@bash tools/oci-conformance --auth token

bench: setup ## measure, against a floor measured in the same run
	@$(BIN)/python -m tools.bench
	@$(BIN)/python -m tools.bench_crash

bench-api: setup ## measure the API, the way to the devices and the registry, against floors in the same run
	@$(BIN)/python -m tools.bench_api

bench-chaos: setup ## measure what the chaos harness costs, and whether a seed says the same again (BENCH_ARGS="--quick")
	@$(BIN)/python -m tools.bench_chaos $(BENCH_ARGS)

bench-downtime: setup ## measure for how long an update keeps the client down (BENCH_ARGS="--quick"; Docker: root, docker.io)
	@$(BIN)/python -m tools.bench_downtime $(BENCH_ARGS)

lock: ## pin the dependencies again, with hashes and without addresses
	@bash tools/lock

clean: ## remove what the other targets made
	rm -rf $(VENV) .blackstart report report.json report.html .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
