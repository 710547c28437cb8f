# Everything runs in .venv beside this file; nothing else on the machine is touched.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export MPLBACKEND ?= Agg
# Test processes side by side
WORKERS ?= 2

.PHONY: help env demo test test-all campaign lint benchmark notebooks verdicts clean

help:
	@echo "make demo       install the core and run the main job: out/stationary.png and a table"
	@echo "make test       install everything; check style and types; run the tests that take seconds"
	@echo "make test-all   the same with the slow tests and the notebooks: before a release"
	@echo "make env        install everything into .venv"
	@echo "make campaign   N=1000 random problems against independent referees: counts of right, warned, refused, silent"
	@echo "make benchmark  ratios against peers and the C reference, in one run"
	@echo "make notebooks  execute the notebooks in out/notebooks; FPSOLVE_NOTEBOOKS=full for the papers' data"
	@echo "make verdicts   write VERDICTS.md from the outputs of the notebooks"
	@echo "make lint       style and types alone"
	@echo "make clean      remove .venv and out"

.venv/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/all: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) --editable ".[all]"
	touch .venv/core $@

env: .venv/all

demo: .venv/core
	$(BIN)/fpsolve stationary --example valley --out out

lint: .venv/all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: .venv/all lint
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --durations 12 -m "not slow"

test-all: .venv/all lint
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --durations 12

N ?= 200
campaign: .venv/all
	$(BIN)/python -m tests.campaign $(N)

benchmark: .venv/all
	-$(PIP) --editable ".[benchmarks]"
	$(BIN)/python -m tests.benchmarks

# Copies: the notebooks hold outputs of the full setting, which a small run must not replace
notebooks: .venv/all
	mkdir -p out/notebooks
	cp notebooks/*.ipynb out/notebooks
	PYTHONPATH=$(CURDIR) $(BIN)/jupyter execute --inplace out/notebooks/*.ipynb

verdicts: .venv/core
	$(BIN)/fpsolve verdicts notebooks --out VERDICTS.md

clean:
	rm -rf .venv out
