# make demo: set up, score the demo, print the table.  make test: set up, check, test.
# make test-servers: install servers of others apart, and hold the engines against them.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-servers check clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "crispbench needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/crispbench run configs/demo.yaml

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not gpu and not tensorrt_llm and not servers'

test-servers: setup
	$(BIN)/python -m tests.servers.environment infinity truss
	OMP_NUM_THREADS=1 $(BIN)/pytest -m servers tests/servers
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/test_deploy.py

clean:
	rm -rf .venv
