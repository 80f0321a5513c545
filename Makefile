# make demo: set up, score the demo, print the table.  make test: set up, check, test.
# make test-servers: install programs of others apart, and hold the engines against them.
# make fuzz: the readers under random input.  make audit, make sbom: the packages.
PYTHON ?= python3
BIN := .venv/bin
FUZZ_S ?= 300

.PHONY: setup demo test test-servers check fuzz audit sbom clean

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
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m 'not gpu and not tensorrt_llm and not servers'

test-servers: setup
	$(BIN)/python -m tests.servers.environment infinity truss mxbai-rerank
	OMP_NUM_THREADS=1 $(BIN)/pytest -m servers tests/servers
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/test_deploy.py

# The readers under inputs that coverage guides, FUZZ_S seconds each; make test has the short run.
fuzz: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'atheris==3.0.0'
	$(BIN)/python -m tests.fuzz $(FUZZ_S)

.venv-audit/installed: Makefile
	test -x .venv-audit/bin/python || $(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit==2.10.1' 'cyclonedx-bom==7.5.0'
	touch $@

# Known vulnerabilities of the pinned versions. --strict: a package that cannot be looked up is a failure, not a clean result.
audit: .venv-audit/installed
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt || { \
	  echo 'make audit: NOT CLEAN: a package above is vulnerable, or the advisories of the index could not be read' >&2; exit 1; }

sbom: setup .venv-audit/installed
	mkdir -p build
	.venv-audit/bin/cyclonedx-py environment --output-format JSON --output-file build/sbom.json $(BIN)/python

clean:
	rm -rf .venv
