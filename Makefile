# Each target sets up what it needs: a fresh machine with git, make and python3 (3.11 or newer) is enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST_WORKERS ?= 2

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo test check sweep format docs lint types floors clean
.DEFAULT_GOAL := help

help:  ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: $(READY)  ## Tune a small model on the shipped data and compare it with its base
	@$(BIN)/metier demo

test: $(READY)  ## The quick truth (under 15 minutes on 2 cores)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

check: lint types floors test  ## Style, strict types, the floors of the house, tests

sweep: $(READY)  ## The long proofs: runs killed, stopped and damaged at random
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m sweep $(PYTEST_ARGS)

lint: $(READY)  ## Style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY)  ## Strict types
	@$(BIN)/mypy

floors: $(READY)  ## Who may import whom
	@$(BIN)/lint-imports

format: $(READY)  ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(READY)  ## Write docs/recipe.md and docs/cli.md from the code
	@$(BIN)/python scripts/docs.py

clean:  ## Remove the environment and the caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# The stamp is touched last: an install that was broken off is done again, a complete one is reused.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Metier needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (first call only; some minutes) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=24'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
