# make repro: the whole default grid. make test: the test suite. Both set up everything first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test test-slow lint clean

repro: $(VENV)/installed
	dvc repro

test: $(VENV)/installed
	python -m pytest --cov --cov-report=term

test-slow: $(VENV)/installed
	python -m pytest -m slow

lint: $(VENV)/installed
	ruff check .
	ruff format --check .

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) scratch
