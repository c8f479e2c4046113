# Everything starts here: `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PARAMS ?=
UV     := $(shell command -v uv 2>/dev/null)
NBS    := $(sort $(wildcard nbs/*.ipynb))

.DEFAULT_GOAL := help
.PHONY: help env report test test-slow test-portable test-notebooks test-python lint lab notebooks export readme site clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | awk -F'|' '{printf "%-24s %s\n", $$1, $$2}'

env: $(STAMP)  ## make the environment in .venv (uv when present, pip otherwise)

$(STAMP): settings.ini setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is older than 3.10: name a newer one, as in \`make PYTHON=python3.12 env\`."; exit 1; }
ifneq ($(UV),)
	@echo "== environment: uv installs into $(VENV) (PyTorch is large: minutes)"
	test -x $(BIN)/python || $(UV) venv --python $(PYTHON) $(VENV)
	$(UV) pip install --python $(BIN)/python -e '.[dev]'
else
	@echo "== environment: pip installs into $(VENV) (PyTorch is large: minutes)"
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[dev]'
endif
	@touch $@
	@echo "== environment ready: $(VENV)"

report: $(STAMP)  ## make the data, train on it and write the report; PARAMS="-p epochs 3" reaches it
	$(BIN)/frcnn_report train $(PARAMS)

test: lint test-notebooks test-python  ## every check: ruff, every notebook, every test
	@echo "== all tests passed; the tested library is $(CURDIR)/frcnn_nbdev"

lint: $(STAMP)
	@echo "== ruff: modules and tests"
	$(BIN)/ruff check frcnn_nbdev tests setup.py

test-notebooks: $(STAMP)  ## run the notebooks with nbdev_test
	@echo "== nbdev_test: $(words $(NBS)) notebooks"
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2 --do_print --timing

test-python: $(STAMP)  ## run the tests that cross stages
	@echo "== pytest: tests/"
	$(BIN)/python -m pytest

test-slow: $(STAMP)  ## the cells and tests that take minutes
	$(BIN)/nbdev_test --flags slow --do_print
	$(BIN)/python -m pytest -m slow || test $$? -eq 5    # 5: no test is marked

test-portable: $(STAMP)  ## what trains, under the roundings of three machines (an hour); ONLY="16d test_sweeps" runs parts
	$(BIN)/python tests/portable.py $(ONLY)

lab: $(STAMP)  ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=nbs

export: $(STAMP)  ## notebooks -> library, then clean them
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean --fname nbs
	$(BIN)/nbdev_clean --fname reports

notebooks: $(STAMP)  ## run every notebook in place, so that its outputs are fresh; then export
	@set -e; for nb in $(NBS); do echo "== $$nb"; OMP_NUM_THREADS=1 $(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute --inplace $$nb; done
	$(MAKE) export readme

readme: $(STAMP)  ## README.md from nbs/index.ipynb
	$(BIN)/jupyter nbconvert --log-level WARN --to markdown --output-dir . --output README nbs/index.ipynb
	sed -i.bak -e 's|](\([0-9][0-9][a-z]*_[a-z_]*\.ipynb\))|](nbs/\1)|g' -e 's|](\.\./|](|g' README.md && rm README.md.bak

$(VENV)/.site: $(STAMP)
	@echo "== environment: what the site is built with"
	$(if $(UV),$(UV) pip install --python $(BIN)/python,$(BIN)/python -m pip install) -e '.[docs]'
	@touch $@

build/examples/%: $(STAMP)
	$(BIN)/frcnn_report $* --name $@

site: $(VENV)/.site build/examples/dataset build/examples/train  ## the course as web pages in _docs/, with two example reports (minutes the first time)
	$(BIN)/python docs/build.py --reports build/examples/dataset build/examples/train
	@echo "== site: $(CURDIR)/_docs/index.html"

clean:  ## remove what was built, not the environment nor the runs
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache _docs _proc
