# `make` lists the targets. Nothing but make and Python 3.11 or newer need be there: the first target that runs
# makes .venv and installs the versions of constraints.txt into it.

VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet install
ARGS ?=
WORKERS ?= 2

# A Python is suitable when it runs (a version manager's shim may not), is new enough and can make environments.
SUITABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	if "$$python" -c '$(SUITABLE)' >/dev/null 2>&1; then echo "$$python"; break; fi; done)

# The workers of `make test` share the cores, so each gets one thread.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help demo test lint validate bench install clean distclean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  Options go into ARGS, as in: make validate ARGS="--quick"'

demo: $(VENV)/.installed  ## train a score network on handwritten digits, sample from it, evaluate it
	$(BIN)/python -m diffusion demo $(ARGS)

test: $(VENV)/.installed  ## run the tests
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: $(VENV)/.installed  ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

validate: $(VENV)/.installed  ## measure whether the mathematics is right (ARGS="--quick" for a short run)
	$(BIN)/python -m validation $(ARGS)

bench: $(VENV)/.installed-peers  ## measure side by side with the peers (installs them first)
	$(BIN)/python -m benchmarks $(ARGS)

install: $(VENV)/.installed  ## make .venv and install everything but the peers

clean:  ## remove caches and builds (results in out/ and runs/ stay)
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name $(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove .venv too
	rm -rf $(VENV)

# A stamp is written by the last line of its recipe, so an installation that stopped halfway is run again.
$(VENV)/.installed: pyproject.toml constraints.txt
	@rm -f $@ $(VENV)/.installed-peers
	@if ! $(BIN)/python -c 'import pip; $(SUITABLE)' >/dev/null 2>&1; then \
		if ! "$(PYTHON)" -c '$(SUITABLE)' >/dev/null 2>&1; then \
			echo 'No suitable Python found: sdesolve needs Python 3.11 or newer with its venv module.' >&2; \
			echo 'Install one (on Debian and Ubuntu also python3-venv), or name it: make PYTHON=/path/to/python3.11' >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$("$(PYTHON)" -c 'import sys; print("Python", sys.version.split()[0], "from", sys.executable)')"; \
		"$(PYTHON)" -m venv --clear $(VENV); \
	fi
	@echo 'Installing $(TORCH) (1 of 3; the large one, which may take some minutes)'
	@$(PIP) '$(TORCH)'
	@echo 'Installing what builds sdesolve (2 of 3)'
	@$(PIP) -c constraints.txt hatchling
	@echo 'Installing sdesolve with its diffusion, validation, oracles and dev extras (3 of 3)'
	@$(PIP) -c constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $@

$(VENV)/.installed-peers: $(VENV)/.installed
	@echo 'Installing the peers that the benchmarks run beside'
	@$(PIP) -c constraints.txt --no-build-isolation --editable '.[dev,peers]'
	@touch $@
