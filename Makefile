# `make train` and `make test` need only Python 3.10 or later; the first of them makes the environment in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: train test test-deepspeed check docs benchmark clean help

help:
	@echo "make train           train a classifier on real data (examples/digits.py)"
	@echo "make test            run the tests"
	@echo "make test-deepspeed  install DeepSpeed and run the tests of leyden-deepspeed on its engine"
	@echo "make check           format, lint, types, layers"
	@echo "make docs            write the lists of hooks and interfaces in core/README.md from the code"
	@echo "make benchmark       measure the overhead per step beside a hand-written loop and pytorch-lightning"
	@echo "make clean           remove the environment, caches and logs"

# The model is so small that more threads only wait for one another, for minutes on a busy machine.
train: export OMP_NUM_THREADS = 1
train: $(VENV)/installed
	$(BIN)/python examples/digits.py

# A file's tests share what is made once for all of them, so that a file stays with one process.
test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

# DeepSpeed builds operators when they are first used, for which it looks for ninja on the path; that takes minutes, once.
test-deepspeed: export PATH := $(abspath $(BIN)):$(PATH)
test-deepspeed: export DS_ACCELERATOR = cpu
test-deepspeed: $(VENV)/installed
	$(INSTALL) $$(grep -v -e '^#' -e '^deepspeed' requirements-deepspeed.txt)
	$(INSTALL) --no-build-isolation -r requirements-deepspeed.txt
	$(BIN)/python -m pytest plugins/deepspeed/tests

check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/packaging/test_core_names.py

docs: $(VENV)/installed
	$(BIN)/python core/docs.py

benchmark: $(VENV)/installed
	$(BIN)/python tests/benchmarks/overhead.py
	$(BIN)/python tests/benchmarks/discovery.py

# hatchling is installed first: without build isolation, the packages build in a third of the time.
$(VENV)/installed: requirements.txt requirements-dev.txt constraints.txt pyproject.toml core/pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Leyden needs Python 3.10 or later, and $(PYTHON) is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); the first time takes a few minutes."
	$(INSTALL) hatchling editables
	$(INSTALL) --no-build-isolation -r requirements.txt -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache lightning_logs logs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
