# Each target sets up what it needs, in .venv: a fresh machine needs Python (3.10 to 3.13), git and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
WORKERS ?= auto

VERSIONS ?= $(patsubst constraints/psyneulink-%.txt,%,$(wildcard constraints/psyneulink-*.txt))

.PHONY: help demo test test-slow test-psyneulink lint format figures clean

help:            ## what can be made
	@grep -E '^[a-z-]+: .*##' Makefile | sed 's/:[^#]*## /\t/'

demo: $(VENV)/core   ## train both models, climb the ladder, draw the figures: results/demo/report.html
	$(BIN)/eplstm demo $(ARGS)

test: $(VENV)/test   ## the tests (some minutes)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-slow: $(VENV)/test   ## the longer checks: dnd-lstm's behaviour over seeds, and further cases
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow $(ARGS)

test-psyneulink: $(VERSIONS:%=.venv-psyneulink-%/test)   ## the tests with older PsyNeuLinks: VERSIONS="0.19.1.0 0.20.2.0"
	for version in $(VERSIONS); do \
		.venv-psyneulink-$$version/bin/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS) || exit 1; \
	done

lint: $(VENV)/lint   ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/lint   ## put the code into the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

figures: demo   ## run the demo, and take the README's figures from it (needs Graphviz)
	cp results/demo/figures/graph.png results/demo/figures/accuracy.png comparisons/figures/

clean:           ## remove the environment and what tools leave behind
	rm -rf $(VENV) .venv-psyneulink-* build *.egg-info .pytest_cache .ruff_cache

$(VENV)/python:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/core: $(VENV)/python pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

$(VENV)/test: $(VENV)/core
	$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/lint: $(VENV)/core
	$(PIP) --editable '.[lint]'
	@touch $@

# An older PsyNeuLink caps some packages: its own constraints, and those of constraints.txt for all others.
.venv-psyneulink-%/test: constraints/psyneulink-%.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(@D)
	awk -F= 'NR == FNR { own[$$1]; print; next } !($$1 in own)' $< constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint $(@D)/constraints.txt --editable '.[test]'
	@touch $@
