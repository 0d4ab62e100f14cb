# `make demo` and `make test` need only Python 3.11 or newer: each prepares .venv by itself, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# An unpinned torch brings gigabytes of CUDA libraries along: always install under the constraints.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint types pytest format docs clean
.DEFAULT_GOAL := test

demo: $(VENV)/.installed
	$(BIN)/ditmesh generate demo --parallel ulysses2 --verify --save-path demo.png
	@echo "The picture: $(CURDIR)/demo.png"

test: lint types pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.installed-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

pytest: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The pages: $(CURDIR)/build/site/index.html"

clean:
	rm -rf $(VENV) build dist

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP_INSTALL) -e '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP_INSTALL) -e '.[docs]'
	touch $@
