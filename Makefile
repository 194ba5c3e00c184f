# Everything a developer or a first-time user types.  `make help` lists it.

PYTHON ?= python3
VENV   ?= .venv
# The torch build is yours to choose, options included: `make demo TORCH="torch==2.13.0 --index-url URL"` for a CPU or
# CUDA index of your organisation.  It is installed first, so that nothing later pulls another build over it.
TORCH  ?= torch==2.13.0
# Where published data lies, for benchmarks; `commonroot download` says where it puts it.
DATA   ?= ../shared/data
# Tests at once.  Many start processes of their own, so this is not the number of cores.
JOBS   ?= 2
# Seeds of the acceptance table.
SEEDS  ?= 5

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN   := $(VENV)/bin
STAMP := $(VENV)/.commonroot-ready
ROOMS := client common server simulations strategies

# Set before flwr is imported: no telemetry, no update check, no installing packages at run time.
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1

.PHONY: help setup demo test fuzz static check wheel-test bench bench-transfer typing docs clean

help: ## this list
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'
	@echo; echo "  variables: PYTHON=$(PYTHON)  VENV=$(VENV)  TORCH=$(TORCH)"

setup: $(STAMP) ## the virtual environment with everything in it

$(STAMP): pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "Commonroot needs Python 3.11 or newer, and '$(PYTHON)' was not found." >&2; \
	  echo "Debian and Ubuntu: apt-get install python3 python3-venv   (or: make PYTHON=/path/to/python)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Commonroot needs Python 3.11 or newer; '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: its ensurepip or venv module is missing." >&2; \
	  echo "Debian and Ubuntu: apt-get install python3-venv   (for a second Python: pythonX.Y-venv)" >&2; exit 1; }
	"$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --quiet $(TORCH)
	"$(BIN)/python" -m pip install --quiet --editable '.[dev]'
	@touch "$@"

demo: $(STAMP) ## a federation of departments on this machine, with real processes
	"$(BIN)/commonroot" demo

test: $(STAMP) ## every test, the README's transcripts included
	@.ci/postgres
	@.ci/chromium
	OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -n $(JOBS) --dist worksteal

fuzz: $(STAMP) ## ten times what `make test` tries: decoders of a peer's bytes, orders of events in secure sums
	COMMONROOT_FUZZ=100000 "$(BIN)/python" -m pytest tests/proofs/test_fuzz_decoders.py tests/proofs/test_stateful.py

static: $(STAMP) typing ## the part of `check` that runs nothing: ruff and mypy
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"

check: static test wheel-test ## everything: lint, types, tests, transcripts, the installed wheel

wheel-test: $(STAMP) ## build the wheel, install it elsewhere, test it away from the checkout
	.ci/wheel-test "$(BIN)/python"

bench: $(STAMP) ## every benchmark; `make bench-NAME` for one
	"$(BIN)/commonroot" bench $(if $(wildcard $(DATA)),--data "$(DATA)")

bench-transfer: $(STAMP) ## does transfer help, does it harm?  The acceptance table over SEEDS seeds; can be killed and goes on
	"$(BIN)/commonroot" bench transfer --seeds $(SEEDS) $(if $(wildcard $(DATA)),--data "$(DATA)")

bench-%: $(STAMP)
	"$(BIN)/commonroot" bench $* $(if $(wildcard $(DATA)),--data "$(DATA)")

# mypy knows nothing of the path rule "root folder x is commonroot.x", so it reads a folder of links that says it.
typing:
	@mkdir -p .typing/commonroot
	@find .typing/commonroot -xtype l -delete
	@for entry in commonroot/*.py commonroot/py.typed $(ROOMS); do \
	  ln -sfn "../../$$entry" ".typing/commonroot/$${entry##*/}"; done

docs: $(STAMP) ## write what is made from the code: docs/errors.md, docs/commands.md, parts of other pages
	"$(BIN)/python" tests/test_errors.py
	"$(BIN)/python" tests/test_everything_is_documented.py
	"$(BIN)/python" tests/protocol_page.py
	"$(BIN)/python" tests/proofs/threats.py
	"$(BIN)/python" tests/crashes_page.py

clean: ## what was built and cached; the virtual environment too
	rm -rf build dist *.egg-info .typing .mypy_cache .ruff_cache .pytest_cache .hypothesis "$(VENV)"
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
