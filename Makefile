# Every target sets up what it needs: Python >= 3.11 with pip is all that must be there.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
JOBS   ?= 2

export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.2

.PHONY: demo test lint format bench notebooks lock clean help

help:            ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

# The TPU compiler, where there is one for this platform: without it the tests that ask it are skipped and say so.
$(VENV)/.plan: $(READY)
	-$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.txt "jax[tpu]"
	@touch $@

demo: $(READY)   ## train, forget, show: about a minute on two cores after set-up
	$(BIN)/clujax run configs/unlearning/demo.py --workdir runs/demo

test: $(READY) $(VENV)/.plan lint  ## what CI runs: lint, run-time shape checks, tests, doctests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: $(READY)   ## ruff, format included
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## time the hot paths beside their baselines
	$(BIN)/python benchmarks/products.py
	$(BIN)/python benchmarks/unlearning_cycle.py
	$(BIN)/python benchmarks/attacks.py
	$(BIN)/python benchmarks/ensembles.py
	$(BIN)/python benchmarks/relabel.py
	$(BIN)/python benchmarks/continual.py
	$(BIN)/python benchmarks/lab_rbf.py
	$(BIN)/python benchmarks/weight_space.py

notebooks: $(READY) ## execute the notebooks in place
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace notebooks/*.ipynb

lock: $(READY)   ## pin requirements.txt anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --fork-strategy fewest --python-version 3.11 \
	  --no-header --no-annotate --no-emit-index-url --quiet -o requirements.txt

clean:           ## remove what the targets made
	rm -rf $(VENV) .cache runs .pytest_cache .ruff_cache
