# On a fresh machine with Python 3.11 or later and make:
#   make quickstart   installs, trains a 1-bit net and its float twin, reports
#   make test         installs, lints and tests
# The second time both are quick: the environment and the runs are kept.

PYTHON ?= python3
VENV ?= .venv
SEED ?= 0
# Of the tests; each takes up to 6 GB, mostly compiled programs.
JOBS ?= 2
RUNS ?= runs/quickstart-seed$(SEED)

BIN := $(VENV)/bin
# The long tests compile as users do.
OPTIMIZED := JAX_DISABLE_MOST_OPTIMIZATIONS=0
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test test-slow soak lint format gallery clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.* ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

quickstart: $(VENV)/.installed ## train a 1-bit net on real digits, CPU, minutes
	$(BIN)/python -m jbin train --config=configs/quickstart.py \
	  --config.seed=$(SEED) --workdir=$(RUNS)/binary
	$(BIN)/python -m jbin train --config=configs/quickstart.py:float \
	  --config.seed=$(SEED) --workdir=$(RUNS)/float
	$(BIN)/python -m jbin report \
	  --workdirs=$(RUNS)/binary,$(RUNS)/float --out=$(RUNS)/report

test: $(VENV)/.installed-dev ## ruff and the quick tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-slow: $(VENV)/.installed-dev ## the tests of more than ten seconds each
	$(OPTIMIZED) $(BIN)/python -m pytest -m slow -n $(JOBS) --dist loadfile

soak: $(VENV)/.installed-dev ## kill a run two dozen times, and compare
	$(OPTIMIZED) $(BIN)/python -m pytest -m soak -s

lint: $(VENV)/.installed-dev ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-dev ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

gallery: $(VENV)/.installed ## a page of all estimators and quantizers
	$(BIN)/python docs/gallery.py --out=runs/gallery/index.html

clean: ## remove the environment, caches and build products; runs stay
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .hypothesis build dist \
	  *.egg-info

# Stamps, not .venv/bin/python, say what is there: a creation that failed half
# way leaves a python behind.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "jbin needs Python 3.11 or later; name one: make PYTHON=..."; \
	    exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "python3 -m venv does not work here; on Debian:" \
	    "apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/.created
	@echo "Installing into $(VENV) (once; it takes a minute or two)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: setup.cfg pyproject.toml | $(VENV)/.created
	@echo "Installing into $(VENV) (once; it takes a minute or two)"
	$(PIP) --editable '.[dev]'
	@touch $(VENV)/.installed $@
