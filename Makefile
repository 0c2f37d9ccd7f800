# Every target sets up what it needs (tools/setup) and may be run again at any time.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

PYTHON := .venv/bin/python -P
PYTEST := .venv/bin/pytest
# Which boots `make vm-test` runs, as a pytest marker expression.
BOOTS := not unstable and not proof
# Containers set it; each worker would then compile the tests, and each start the program.
unexport PYTHONDONTWRITEBYTECODE
# Tests wait for programs and disks for a third of their time: more processes than processors.
SPREAD := --numprocesses 4 --dist worksteal
# Two workers run a machine each, the third builds what the next one needs.
MACHINES := --numprocesses 3 --dist worksteal
# Seconds for which `make vm-test` cuts the power between writes in random orders; 20 by default.
CRASH_SECONDS :=
# How often `make attack` lets the attacker try.
ROUNDS := 2000
# Where `make proof` counts what has passed, for docs/reliability.md.
FIGURES := $(CURDIR)/build/figures

# `make test` prints where its minutes went; within .ci/run that is printed once, at the end.
ifndef EPHEMEROOT_MINUTES
export EPHEMEROOT_MINUTES := $(shell mktemp -u)
PRINT_MINUTES := @tools/minutes print; rm -f $(EPHEMEROOT_MINUTES)
endif

.PHONY: help
help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo:  ## three boots on a throw-away btrfs image: what is wiped, what persists (root)
	@tools/setup demo
	@$(PYTHON) demo

.PHONY: recording
recording:  ## draw docs/demo.svg again, the picture of the demo in README.md (root)
	@tools/setup demo
	@$(PYTHON) demo/recording.py

.PHONY: docs
docs:  ## the documentation site with the manual, into build/site
	@tools/setup docs
	@PYTHONPATH=tools/site $(PYTHON) -m generate

.PHONY: test
test:  ## linters, types, layers, all tests without a machine, and the boots that test the main job
	@tools/minutes run 'set-up' tools/setup vm
	tools/minutes run 'linters, tests without a machine, and boots that guard the main job' \
	  env SPREAD='$(SPREAD)' MACHINES='$(MACHINES)' tools/side-by-side
	$(PRINT_MINUTES)

.PHONY: proof
proof:  ## all cases: whole tables, matrices, all systems; takes hours (root)
	@tools/setup vm
	@mkdir -p build && : >$(FIGURES)
	EPHEMEROOT_PROOF=1 EPHEMEROOT_FIGURES=$(FIGURES) $(PYTEST) tests $(SPREAD)
	EPHEMEROOT_FIGURES=$(FIGURES) $(MAKE) --no-print-directory attack fuzz
	EPHEMEROOT_PROOF=1 EPHEMEROOT_FIGURES=$(FIGURES) $(PYTEST) vm-tests $(MACHINES)
	@tools/figures $(FIGURES)

.PHONY: vm-test
vm-test:  ## boots in virtual machines; BOOTS='unstable' for those of Debian unstable
	@tools/setup vm
	EPHEMEROOT_CRASH_SECONDS=$(CRASH_SECONDS) $(PYTEST) vm-tests -m '$(BOOTS)' $(MACHINES)

.PHONY: attack
attack:  ## a user who exchanges files while root works on them, ROUNDS=2000 a verb; hostile stores too
	@tools/setup test
	EPHEMEROOT_ROUNDS=$(ROUNDS) $(PYTEST) tests/cli/every_verb/test_attack.py \
	  tests/hooks/test_attack_boot.py tests/hooks/store/test_hostile_store.py \
	  -k 'exchang or replacing_paths'

.PHONY: fuzz
fuzz:  ## a million coverage-guided inputs for each reader of a file that may be damaged
	@tools/setup test
	@.venv/bin/pip --quiet install --group fuzz
	@tools/fuzz

.PHONY: vm
vm:  ## a shell in a virtual machine; ARGS='--fresh' for a new disk, ARGS=--help for more
	@tools/setup vm
	@PYTHONPATH=vm-tests $(PYTHON) -m vm.shell $(ARGS)

.PHONY: lint
lint:  ## ruff, mypy, shellcheck and the layer contract
	@tools/setup test
	@tools/lint

.PHONY: bench
bench:  ## compare rotation, pruning and diff with shell scripts and C programs (root)
	@tools/setup test
	@for program in bench/*.py; do $(PYTHON) "$$program"; done

.PHONY: clean
clean:  ## remove the files that these targets made in this folder (not the machines' cache)
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	  .import_linter_cache vm-tests/logs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
