# make repro: the whole default grid. make repro-all: every system of the paper on the digits, in a clone.
# make test: the test suite; make coverage: the same, and the lines and branches that it does not reach, in twice the time.
# make docs: the documentation as a site, in site/. All set up everything first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro repro-all test coverage test-slow lint docs clean

repro: $(VENV)/installed
	dvc repro

repro-all: $(VENV)/installed
	python -m ims3core run digits-all

test: $(VENV)/installed
	python -m pytest -n logical --maxprocesses 8 --dist loadfile

coverage: $(VENV)/installed
	python -m pytest -n logical --maxprocesses 8 --dist loadfile --cov --cov-report=term

test-slow: $(VENV)/installed
	python -m pytest -m slow

lint: $(VENV)/installed
	ruff check .
	ruff format --check .
	lint-imports
	mypy
	python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict

docs: $(VENV)/installed
	python docs/generate.py
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) scratch site
