# Everything that a reader needs; `make` alone lists it. Works with `make -C "/some where/else"` too.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PROFILE ?= toy
MODEL ?= toy-sd15
PYTHON3 ?= python3
PROBE ?= 2
export ELBO_IMAGES := $(IMAGES)
FORECAST = "$(PYTHON)" -m elbo_core.experiments.forecast "$(PROFILE)"
ALONE = "$(PYTHON)" -m elbo_core.experiments.alone "build/$(PROFILE)/lock"

# The active conda environment, if there is one that is not `base`; else .venv, made on first use from PYTHON3 (3.11 or
# later). The stamp of a conda environment names its place and inode, so that another one is noticed.
ifeq ($(filter-out base,$(or $(CONDA_DEFAULT_ENV),$(notdir $(CONDA_PREFIX)))),)
ENV := .venv/installed
PYTHON := .venv/bin/python
else
ENV := build/conda-$(shell (echo "$(CONDA_PREFIX)"; ls -di "$(CONDA_PREFIX)") | cksum | cut -d' ' -f1).installed
PYTHON := $(CONDA_PREFIX)/bin/python
endif
INSTALL = -m pip install --quiet --disable-pip-version-check

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM := false
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.PHONY: help env tables plan measure notebooks report test browser-test lab models data bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14
	@echo "Options: PROFILE=smoke|toy|paper (now $(PROFILE)), IMAGES=so many of each set, MODEL (now $(MODEL)),"
	@echo "MEASURE=all, CHECK='--seed 7 --items 40' (what make tables measures again), PYTHON3=a Python for .venv"

env: $(ENV) ## build the environment (.venv, or the active conda one)

# A .venv that another Python or an interrupted start has left half-made is made anew.
.venv/installed: requirements.lock pyproject.toml
	@"$(PYTHON3)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON3) is no Python 3.11 or later; name one: make PYTHON3=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@.venv/bin/python -m pip --version > /dev/null 2>&1 || { rm -rf .venv; "$(PYTHON3)" -m venv .venv; }
	@echo "Installing the packages of requirements.lock into .venv: about two minutes, the first time only"
	.venv/bin/python $(INSTALL) -r requirements.lock
	.venv/bin/python $(INSTALL) --no-deps --editable .
	touch $@

build/conda-%.installed: requirements.lock pyproject.toml
	mkdir -p build
	@echo "Installing the packages of requirements.lock into $(CONDA_PREFIX)"
	"$(PYTHON)" $(INSTALL) -r requirements.lock
	"$(PYTHON)" $(INSTALL) --no-deps --editable .
	touch $@

# MEASURE=all measures everything anew, into a store of its own that resumes, and compares it with what is shipped.
ifeq ($(MEASURE),all)
export ELBO_RUNS := $(CURDIR)/build/$(PROFILE)/measured-anew
endif

tables: | $(ENV) ## regenerate figures/<profile>: tables, figures, claims (MEASURE=all: measure everything anew)
	$(ALONE) env ELBO_FIGURES=figures "$(PYTHON)" -m elbo_core.experiments.all_tables "$(PROFILE)" $(CHECK)
	mkdir -p "figures/$(PROFILE)"
	"$(PYTHON)" -m elbo_core.reports.provenance "$(PROFILE)" "build/$(PROFILE)" "figures/$(PROFILE)/provenance.json"
	@$(MAKE) --no-print-directory report

plan: | $(ENV) ## a dry run: what is there, what is missing, and the cost, measured on two images a set
	$(FORECAST) --probe "$(PROBE)"

notebooks: | $(ENV) ## run all notebooks as `toy` and refresh their committed outputs
	$(MAKE) PROFILE=toy tables
	"$(PYTHON)" -m elbo_core.reports.notebooks refresh build/toy/[0-9]*.ipynb

report: | $(ENV) ## build/report/index.html: all results and notebooks of PROFILE as pages to read offline
	@"$(PYTHON)" -m elbo_core.reports.site "$(PROFILE)" build/report

test: | $(ENV) ## lint, types, pytest, then every notebook as `smoke`
	"$(PYTHON)" -m ruff format --check .
	"$(PYTHON)" -m ruff check .
	"$(PYTHON)" -m mypy
	OMP_NUM_THREADS=1 "$(PYTHON)" -m pytest tests --numprocesses auto --dist loadscope
	ELBO_PROFILE=smoke TQDM_DISABLE=1 OMP_NUM_THREADS=1 "$(PYTHON)" -m pytest --nbval-lax \
		--nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 300 --nbval-kernel-name python3 \
		-p no:cacheprovider --numprocesses 2 --dist loadfile notebooks

measure: | $(ENV) ## measure all that the profile lacks, of every kind, and nothing else
	"$(PYTHON)" -m elbo_core.experiments.measure --profile "$(PROFILE)"

browser-test: | $(ENV) ## read the report and run notebooks 00 and 03 in a real browser (Chromium of the system)
	"$(PYTHON)" -m pytest -q -rs tests/browser/check_report.py tests/browser/check_lab.py

lab: | $(ENV) ## open JupyterLab on the first notebook
	"$(PYTHON)" -m jupyterlab notebooks/00_start_here.ipynb

models: | $(ENV) ## train the embedded world's models from scratch (hours on a CPU; resumes)
	"$(PYTHON)" -m elbo_core.training.train

data: | $(ENV) ## check the real data sets in ELBO_DATA (default data/sets), get or say how to get what is missing
	"$(PYTHON)" -m elbo_core.datasets check || "$(PYTHON)" -m elbo_core.datasets download || true

bench: | $(ENV) ## MODEL: milliseconds per image (encode, losses, attention, readout) and peak memory
	PYTHONPATH=tests "$(PYTHON)" tests/benchmarks/bench_segment.py --model "$(MODEL)"

clean: ## remove executed notebooks, caches and checkpoints (not the environment, not the results)
	rm -rf build .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
