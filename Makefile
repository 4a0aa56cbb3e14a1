# Each target sets up what it needs: a fresh machine with git, make and python3 (3.11 or newer) is enough; Debian and
# Ubuntu keep a part of Python in a package of its own, python3-venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready
PYTEST_WORKERS ?= 2
# Where PyTorch comes from on Linux, whose wheel on PyPI brings gigabytes of CUDA. For a GPU, say, …/whl/cu130; with
# `make TORCH_INDEX=` it comes from PyPI, as it does elsewhere.
ifeq ($(shell uname -s),Linux)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
endif

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo test check sweep format docs lint types floors clean
.DEFAULT_GOAL := help

help:  ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: $(READY)  ## Tune a small model on the shipped data and compare it with its base
	@$(BIN)/metier demo

test: $(READY)  ## The quick truth (under 15 minutes on 2 cores)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: lint types floors test  ## Style, strict types, the floors of the house, tests

sweep: $(READY)  ## The long proofs: damaged runs, compiled families, hostile strings
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

docs: $(READY)  ## Write docs/recipe.md, docs/cli.md and tables of docs/privacy.md from the code
	@$(BIN)/python scripts/docs.py

clean:  ## Remove the environment and the caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# First from where pip looks anyway: a machine without a network may have the wheel in a folder. The build is the last
# part of the index's address: torch==2.13.0+cpu. No other package comes from that index.
define install_torch
torch="$$(grep '^torch==' constraints.txt)+$(notdir $(TORCH_INDEX))"; \
	$(PIP) install --quiet --no-deps "$$torch" 2>/dev/null \
	|| $(PIP) install --quiet --no-deps --timeout 20 --retries 1 --index-url $(TORCH_INDEX) "$$torch" \
	|| echo "$$torch is not to be had; going on with the build that pip finds, which may bring CUDA (gigabytes)" >&2
endef

# The stamp is touched last: an install that was broken off is done again, a complete one is reused. An environment
# without pip is one that `venv` could not finish.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Metier needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make an environment with pip. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV) (first call only; some minutes) …"
	@$(PIP) install --quiet --upgrade 'pip>=24'
	@$(if $(TORCH_INDEX),$(install_torch))
	@$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@
