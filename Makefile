# `make table3` and `make test` do everything from a fresh clone, set-up included.
# PYTHON: any CPython >= 3.11. PIP_ARGS: further arguments of pip install, for example a CPU-only torch index (see README).

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
VLLM := .venv-vllm
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
SNAKEMAKE := snakemake --cores all
PYTEST := OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder
CHECK_PYTHON = $(PYTHON) -c 'import sys; sys.exit("Expert Tail needs Python 3.11 or newer; set PYTHON=…" if sys.version_info < (3, 11) else 0)'

.PHONY: table3 all test test-slow test-slurm test-vllm lint install install-vllm report snakemake-report clean

table3: install
	$(SNAKEMAKE) results/table3.csv
	@echo "results/table1.csv (by task: table3.csv; drawn: figure4.png):"; cut -d, -f1-3,7 results/table1.csv

all: install
	$(SNAKEMAKE)

report: install
	$(SNAKEMAKE) results/report.html

snakemake-report: all
	$(SNAKEMAKE) --report results/report.zip

test: install
	$(PYTEST) -m "not slow and not gpu and not slurm and not vllm"

# The longest tests, which are whole runs of the workflow, and every reference of the suite.
test-slow: install
	$(PYTEST) -m "slow and not gpu and not slurm and not vllm"

test-slurm: $(VENV)/.slurm
	pytest -m slurm tests/test_slurm.py

# Sampling with vLLM on a CPU, in an environment of its own.
test-vllm: install-vllm
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -m vllm tests/test_vllm.py

lint: install
	ruff check . && ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint
	mypy

install: $(VENV)/.installed

install-vllm: $(VLLM)/.installed

$(VENV)/.installed: envs/cpu.txt envs/dev.txt pyproject.toml
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -r envs/cpu.txt -r envs/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

$(VENV)/.slurm: $(VENV)/.installed envs/slurm.txt
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -r envs/slurm.txt
	touch $@

$(VLLM)/.installed: envs/vllm.txt pyproject.toml
	$(CHECK_PYTHON)
	$(PYTHON) -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' || { echo "vLLM needs libnuma: apt install libnuma1" >&2; exit 1; }
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet $(PIP_ARGS) --no-deps -r envs/vllm.txt
	$(VLLM)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf results $(addprefix artifacts/,adapt benchmarks evaluations headroom logprobs logprobs_base logs null_audit probes rlvr samples selections tasks)
