# The commands that people and CI use. Each does all its set-up.
SHELL := bash
SHOP ?= simulator
DATA ?=
TOUR ?= short
SHARD ?= 1/1
python := .venv/bin/python
evershelf := .venv/bin/evershelf

.PHONY: setup demo test check bench faults stack lock clean

setup:
	@scripts/setup.sh

demo: setup
	@$(evershelf) demo --shop $(SHOP) --tour $(TOUR) $(if $(DATA),--data $(DATA))

test: setup
	@$(python) -m pytest

check: setup
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .
	@$(python) -m mypy
	@.venv/bin/lint-imports --no-cache
	@$(python) scripts/check_docs.py
	@$(python) scripts/check_locks.py

bench: setup
	@$(evershelf) bench all --json

faults: setup
	@$(python) -m tests.faults.matrix --shard $(SHARD) --json
	@$(python) -m pytest -m faults --durations=0

stack: setup
	@$(evershelf) up --foreground

lock: setup
	@scripts/lock.sh

clean:
	rm -rf .evershelf .venv .setup deploy/*/target build
