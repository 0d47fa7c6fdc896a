# Everything happens in .venv, which the first target makes from the lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_ARGS ?=

.PHONY: help setup study test lint fast slow proof gpu lock clean

help:
	@echo "make study  install what is needed and run a small study on synthetic images"
	@echo "make test   lint, fast tests, slow tests"
	@echo "make proof  the tests that take minutes each"
	@echo "make gpu    the tests that need a CUDA device"
	@echo "make lock   write constraints.txt anew from the newest versions that fit"
	@echo "make clean  remove .venv"

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

setup: $(VENV)/.installed

study: setup
	$(BIN)/python study/run.py $(RUN_ARGS)

test: lint fast slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fast: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'slow and not proof and not gpu'

proof: setup
	$(BIN)/python -m pytest -m proof --timeout 3600

gpu: setup
	$(BIN)/python -m pytest -m gpu

lock:
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt
	touch $(VENV)/.installed

clean:
	rm -rf $(VENV)
