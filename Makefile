# Everything starts here: `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PARAMS ?=
UV     := $(shell command -v uv 2>/dev/null)
NBS    := $(sort $(wildcard nbs/*.ipynb nbs/*/*.ipynb))

.DEFAULT_GOAL := help
.PHONY: help env constraints report test test-slow test-portable test-notebooks test-python lint lab notebooks export readme site clean $(NBS:%=%.test)

# `make env` installs the versions that the tests passed with; `make env LATEST=1` takes the newest that settings.ini allows.
LATEST ?=
PINNED := $(if $(LATEST),,-c constraints.txt)
JOBS   ?= 2
FAILED := build/failed
# Notes how to run just this again.
failed  = { mkdir -p build; echo "$(1)" >> $(FAILED); exit 1; }

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | awk -F'|' '{printf "%-24s %s\n", $$1, $$2}'

env: $(STAMP)  ## make the environment in .venv (uv when present, pip otherwise); LATEST=1: newest versions, not the tested ones

ifneq ($(LATEST),)
.PHONY: $(STAMP)
endif
$(STAMP): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is older than 3.10: name a newer one, as in \`make PYTHON=python3.12 env\`."; exit 1; }
ifneq ($(UV),)
	@echo "== environment: uv installs into $(VENV) (PyTorch is large: minutes)"
	test -x $(BIN)/python || $(UV) venv --python $(PYTHON) $(VENV)
	$(UV) pip install --python $(BIN)/python $(if $(LATEST),--upgrade) $(PINNED) -e '.[dev]'
else
	@echo "== environment: pip installs into $(VENV) (PyTorch is large: minutes)"
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(if $(LATEST),--upgrade --upgrade-strategy eager) $(PINNED) -e '.[dev]'
endif
	@touch $@
	@echo "== environment ready: $(VENV)"

constraints: $(STAMP)  ## renew constraints.txt: the newest versions for every system and Python; `make test` with them before you commit
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version $(shell sed -n 's/^min_python = //p' settings.ini) --all-extras --no-annotate --no-header setup.py -o constraints.txt

report: $(STAMP)  ## make the data, train on it and write the report; PARAMS="-p epochs 3" reaches it
	$(BIN)/frcnn_report train $(PARAMS)

test: $(STAMP)  ## every check: ruff, every notebook, every test; all run, also when one fails; JOBS=2 at a time
	@mkdir -p build && rm -f $(FAILED)
	@for part in lint test-notebooks test-python; do \
	  $(MAKE) --no-print-directory --keep-going LATEST= $$part || test -e $(FAILED) || echo "make $$part" >> $(FAILED); done
	@if test -e $(FAILED); then echo "== FAILED; run just these again:"; sed 's/^/==   /' $(FAILED); exit 1; fi
	@echo "== all tests passed; the tested library is $(CURDIR)/frcnn_nbdev"

lint: $(STAMP)
	@echo "== ruff: modules and tests"
	@$(BIN)/ruff check frcnn_nbdev tests setup.py || $(call failed,make $@)

# One process a notebook: what a notebook took is given back when it ends.
test-notebooks: $(STAMP)  ## run the notebooks with nbdev_test; one of them: make nbs/09_rpn.ipynb.test
	@echo "== nbdev_test: $(words $(NBS)) notebooks, $(JOBS) at a time"
	@$(MAKE) --no-print-directory --keep-going -j$(JOBS) LATEST= $(NBS:%=%.test)

$(NBS:%=%.test): $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/nbdev_test --path $(@:%.test=%) --do_print --timing || $(call failed,make $@)

test-python: $(STAMP)  ## run the tests that cross stages
	@echo "== pytest: tests/, $(JOBS) at a time"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile || $(call failed,$(BIN)/python -m pytest --last-failed)

test-slow: $(STAMP)  ## the cells and tests that take minutes
	$(BIN)/nbdev_test --flags slow --do_print
	$(BIN)/python -m pytest -m slow || test $$? -eq 5    # 5: no test is marked

test-portable: $(STAMP)  ## what trains, under the roundings of three machines (an hour); ONLY="tuning test_sweeps" runs parts
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

readme: $(STAMP)  ## the table of contents into nbs/index.ipynb, and README.md from it
	$(BIN)/python docs/contents.py
	$(BIN)/jupyter nbconvert --log-level WARN --to markdown --output-dir . --output README nbs/index.ipynb
	sed -i.bak -e 's|](\([a-z0-9_/]*\.ipynb\))|](nbs/\1)|g' -e 's|](\.\./|](|g' README.md && rm README.md.bak

$(VENV)/.site: $(STAMP)
	@echo "== environment: what the site is built with"
	$(if $(UV),$(UV) pip install --python $(BIN)/python,$(BIN)/python -m pip install) $(PINNED) -e '.[docs]'
	@touch $@

build/examples/%: $(STAMP)
	$(BIN)/frcnn_report $* --name $@

site: $(VENV)/.site build/examples/dataset build/examples/train  ## the course as web pages in _docs/, with two example reports (minutes the first time)
	$(BIN)/python docs/build.py --reports build/examples/dataset build/examples/train
	@echo "== site: $(CURDIR)/_docs/index.html"

clean:  ## remove what was built, not the environment nor the runs
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache _docs _proc
