# SPDX-License-Identifier: GPL-3.0-or-later
# A machine with python3 (3.11 or newer), git and make is enough: `make demo`, `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

VENV := .venv
BIN  := $(VENV)/bin
ARGS ?=

# ansible and molecule start one another by bare name: the project's own must be found first.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Nothing of the caller's own Ansible configuration may change what is tested.
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export ANSIBLE_NOCOWS := 1

# Tests mostly wait for pods, leases and deadlines, so one process more than there are cores; ARGS='-n 0' for one.
WORKERS ?= $(shell cores=$$(nproc); echo $$(( cores < 3 ? cores + 1 : 4 )))
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist worksteal

.PHONY: help deps demo test lint fmt unit drills refusals faults bench lab lab-down lab-programs clean

help: ## say what can be typed here
	@echo "make TARGET   (ARGS='...' is handed on to pytest and to the demo)"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | column -t -s '|' 2>/dev/null \
	  || sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1: \2/p' $(firstword $(MAKEFILE_LIST))

deps: ## make .venv from uv.lock, and install missing system packages (as root)
	@tools/deps

demo: deps ## break a sample service, put it back, show the proof
	@$(BIN)/python lab/demo.py $(ARGS)

test: deps lint lab-programs ## everything: lint, then every test and drill in one run
	@$(PYTEST) tests --durations=15 $(ARGS)

lint: deps ## formatting, types, YAML, Ansible's production profile, changelog
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/yamllint --strict .
	@$(BIN)/ansible-lint --offline --strict
	@$(BIN)/antsibull-changelog lint

fmt: deps ## put Python files into the one format, fix what ruff can fix
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

unit: deps lab-programs ## the fast tests: units and contracts
	@$(PYTEST) tests/unit tests/contract $(ARGS)

drills: deps lab-programs ## real breaks, the shipped playbooks, proof from outside (molecule)
	@$(PYTEST) tests/drills --durations=0 $(ARGS)

refusals: deps lab-programs ## runs that must be refused with nothing changed
	@$(PYTEST) tests/refusals $(ARGS)

faults: deps lab-programs ## kill it at every failpoint, 1,000 times at random, fill the disk; the long way, prints the table
	@FAULTS_THOROUGH=1 FAULTS_KILLS=1000 $(PYTEST) tests/faults $(ARGS)

bench: deps lab-programs ## measure; ratios are against the baseline in the same run
	@$(BIN)/python tests/benchmarks/run.py $(ARGS)

# The first build takes minutes, and is kept outside of the clone: lab/kubernetes/build.py.
lab-programs: deps
	@$(BIN)/python lab/kubernetes/build.py

lab: deps ## start a real Kubernetes cluster on this machine, say how to use it (as root)
	@$(BIN)/python lab/kubernetes/cluster.py up

lab-down: deps ## stop it, and remove all that it left (as root)
	@$(BIN)/python lab/kubernetes/cluster.py down

clean: ## remove what make made (not what a drill left running)
	@rm -rf .uv $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .ansible build dist
