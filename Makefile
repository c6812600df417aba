# Every target sets itself up: a virtual environment in VENV, made anew when pyproject.toml changes.
VENV ?= .venv
EXTRAS ?= dev
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STORE ?= stores/quick
PAPER ?= stores/paper
KILLS ?= 200
DOMINOES := random_digit/worst_group_accuracy,random_digit/accuracy,test/accuracy

.PHONY: help run test gpu gpu-check test-slurm chaos chaos-slurm paper results docs perf lint clean

help:
	@echo "make run    every method on small budgets, ending in a leaderboard (minutes)"
	@echo "make test   the tests"
	@echo "make gpu    is training on this machine's GPU right, and how fast? eight minutes; see docs/gpu.md"
	@echo "make gpu-check  every method, network and precision on a simulated GPU (hours; none is needed)"
	@echo "make test-slurm  the tests that need a real SLURM, on a cluster started here (Debian: slurm-wlm; as root)"
	@echo "make chaos  KILLS (200) random SIGKILLs and other trouble; nothing may be lost or done twice (half an hour)"
	@echo "make chaos-slurm  the same between a store and a real SLURM started here (ten minutes, as root)"
	@echo "make paper  what results/paper/ lacks of the grid 'paper', at full budget (hours on a CPU), then make results"
	@echo "make results  leaderboards, figures and the tables of the docs from the committed records"
	@echo "make docs   what of docs/ is made from the code: the reference, the methods, the list of modules"
	@echo "make perf   speed measurements, written to results/perf/; a part of them: see tests/perf/measure.py --help"
	@echo "make lint   ruff and mypy --strict"
	@echo "make clean  remove $(VENV) and caches"

run: $(STAMP)
	$(BIN)/spurbench run quick --store $(STORE)
	$(BIN)/spurbench leaderboard $(STORE) --format html --out $(STORE)/leaderboard.html
	$(BIN)/spurbench leaderboard $(STORE)

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2

gpu: $(STAMP)
	$(BIN)/python tests/perf/gpu.py

gpu-check: $(STAMP)
	SPURBENCH_GPU_ALL=1 $(BIN)/python -m pytest --numprocesses 2 tests/test_gpu.py

test-slurm: $(STAMP)
	SPURBENCH_SLURM=1 $(BIN)/python -m pytest -m slurm --durations=0 tests/test_slurm.py

chaos: $(STAMP)
	$(BIN)/python tests/chaos.py --kills $(KILLS)

chaos-slurm: $(STAMP)
	$(BIN)/python tests/chaos_slurm.py

paper: $(STAMP)
	$(BIN)/spurbench merge $(PAPER) results/paper/records.jsonl.gz
	$(BIN)/spurbench run paper --store $(PAPER)
	$(BIN)/spurbench pack $(PAPER) results/paper/records.jsonl.gz --drawings
	$(MAKE) results

results: $(STAMP)
	for grid in paper cifar2 celeba_twin celeba_twin_methods colored_mnist adult corrupted_cifar10_features \
	    dominoes dominoes_features; do \
	  case $$grid in dominoes*) columns="--columns $(DOMINOES)";; *) columns=;; esac; \
	  records=results/$$grid/records.jsonl.gz; [ -e $$records ] || records=results/paper/records.jsonl.gz; \
	  for form in table:txt markdown:md latex:tex csv:csv json:json html:html; do \
	    $(BIN)/spurbench leaderboard $$records --grid $$grid --format $${form%%:*} $$columns \
	      --out results/$$grid/leaderboard.$${form##*:} || exit 1; done; done
	$(BIN)/spurbench figure paper results/paper/records.jsonl.gz --partial --out results/paper/figures
	$(BIN)/spurbench figure twin results/paper/records.jsonl.gz --partial --out results/celeba_twin
	$(BIN)/python tests/readme.py

docs: $(STAMP)
	$(BIN)/python tests/reference.py

perf: $(STAMP)
	$(BIN)/python tests/perf/measure.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "spurbench needs Python 3.11 or newer; this is $$($(PYTHON) -V): make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "torch==2.14.1" || $(BIN)/python -m pip install --quiet torch
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]"
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
