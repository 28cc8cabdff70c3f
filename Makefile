.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test lint bench clean

# One thread a process: two busy torch threads on two cores slow each other down many times over.
export OMP_NUM_THREADS := 1

BIN := .venv/bin
STAMP := .venv/installed
# The first that will do makes .venv.
PYTHON := python3.11 python3.12 python3.13 python3

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv with everything that tests and examples need

# Written last: an install that was interrupted is taken up again. pip's index, proxy and so on are the user's.
$(STAMP): pyproject.toml constraints.txt requirements-examples.txt
	@rm -f $@
	@for python in $(PYTHON); do \
	    if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	        exec $$python -m venv .venv; \
	    fi; \
	done; \
	echo 'error: none of "$(PYTHON)" is Python 3.11 or newer with its venv module;' \
	    'install one, or name it: make install PYTHON=/path/to/python' >&2; \
	exit 2
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip setuptools
	$(BIN)/python -m pip install --constraint constraints.txt --no-build-isolation --editable '.[dev,examples,exact,genetic,ray,tune]'
	$(BIN)/python -m pip install --no-deps --requirement requirements-examples.txt
	@touch $@

demo: install ## train, compare with baselines, then run a real workflow with the learned policy
	$(BIN)/rlsched demo

test: install ## run the test suite
	$(BIN)/python -m pytest

lint: install ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install ## measure how fast everything is (about an hour; BENCH=--quick: a few minutes)
	$(BIN)/python -m rlsched.experiments.speed $(BENCH)

clean: ## remove .venv and everything else that is built
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
