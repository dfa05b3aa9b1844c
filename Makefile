# One verb per thing, the same for people and for CI. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH := $(VENV)/.bench
# Files of the tests of whole processes that run at once: they wait for most of their time.
AT_ONCE ?= 4

.DEFAULT_GOAL := help
.PHONY: help install up demo test test-all check format faults bench bench-gpu clean

help: ## list these verbs
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

install: $(INSTALLED) ## make the environment and install everything into it

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e ".[worker,postgres,demo,dev]"
	@touch $@

up: $(INSTALLED) ## start everything on this machine, until Ctrl-C
	$(BIN)/corpusmill up

demo: $(INSTALLED) ## three corpora through the whole system, with a table of their metrics
	$(BIN)/corpusmill demo

# The last tier's files as they stand: those of few and long tests first, so that none of them is left alone at the end.
test: $(INSTALLED) ## every test tier that this machine can run, except the slow ones
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" tests/unit
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" tests/engines tests/gpu
	$(BIN)/python -m pytest -n $(AT_ONCE) --dist loadfile --no-loadscope-reorder -m "not slow" tests/faults tests/acceptance tests/integration

test-all: $(INSTALLED) ## the slow tests too; run again, it goes on with those that have not passed
	$(BIN)/python -m pytest --resume

check: $(INSTALLED) ## format, lint, types, import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/lint-imports

format: $(INSTALLED) ## put the code into the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

faults: $(INSTALLED) ## every fault on both databases; run again, it goes on; writes docs/reliability.md
	$(BIN)/python -m tests.faults -n 2

$(BENCH): $(INSTALLED)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e ".[bench]"
	@touch $@

bench: $(BENCH) ## the engines on the CPU beside what else there is: docs/performance.md, in minutes
	$(BIN)/python -m bench

bench-gpu: $(INSTALLED) ## the same on one CUDA device, in less than 20 minutes
	$(BIN)/python -m bench gpu

clean: ## remove the environment and what the tests left
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
