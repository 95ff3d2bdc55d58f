# Needs Python 3.11 or later with venv and pip, and make; `make help` lists what
# there is. Another interpreter: `make test PYTHON=python3.12`.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed

RUN_TRAIN = $(VENV)/bin/l2l-train --problem=quadratic \
  --save_path=tensorboard_logs/quadratic --trace_graph
RUN_EVALUATE = $(VENV)/bin/l2l-evaluate --problem=quadratic \
  --path=tensorboard_logs/quadratic/optimizer.l2l.npz
PYTEST_FLAGS ?= -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install run test docs lint clean

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED)  ## make .venv with the package in it, at locked versions

run: $(INSTALLED)  ## train an optimizer on quadratics, compare it with baselines
	$(RUN_TRAIN)
	$(RUN_EVALUATE)
	@echo "Curves: $(VENV)/bin/tensorboard --logdir=tensorboard_logs"

test: $(INSTALLED)  ## run the whole test suite
	$(VENV)/bin/python -m pytest $(PYTEST_FLAGS)

docs: $(INSTALLED)  ## build the documentation, to be read at site/index.html
	NO_MKDOCS_2_WARNING=1 TF_CPP_MIN_LOG_LEVEL=3 $(VENV)/bin/mkdocs build --strict

lint: $(INSTALLED)  ## check style and formatting
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:  ## remove .venv and caches; logs and trained optimizers stay
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
	find l2l_tf tests benchmarks -name __pycache__ -exec rm -rf {} +

# Installing without dependencies makes the lock complete or `pip check` fail.
# Without build isolation, setuptools is the locked one for source distributions
# and for the package itself.
$(INSTALLED): setup.py requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "l2l_tf needs Python 3.11 or later; name one: make PYTHON=python3.11"; \
	  exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make a virtual environment;" \
	    "install it first: apt install python3-venv"; \
	  exit 1; } >&2
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --no-deps --constraint requirements.lock setuptools
	$(PIP) install --no-deps --no-build-isolation --use-pep517 \
	  --requirement requirements.lock --editable .
	$(PIP) check
	@touch $@
