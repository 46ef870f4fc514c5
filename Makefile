# Every target makes what it needs: the virtual environment, pinned dependencies, a broker of its own.
.DEFAULT_GOAL := help
.PHONY: help install demo test test-unit test-adapters test-e2e test-containers test-field chaos acceptance lint format types check schemas lock load clean

BIN := .venv/bin
PYTEST := $(BIN)/pytest

help: ## show this
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.installed: deploy/requirements/dev.txt pyproject.toml deploy/local/setup
	@deploy/local/setup $(if $(YES),--yes)

install: .venv/.installed ## make .venv with the pinned requirements

demo: install ## see the main job work, on this machine, with nothing of yours
	@$(BIN)/postlane demo $(if $(YES),--yes)

test: install ## all tests but those that need a Docker engine or minutes of faults
	$(PYTEST) -m "not container and not chaos and not field" -n 2 --dist loadgroup

test-unit: install ## pure decisions only: no broker, no sockets
	$(PYTEST) tests/unit -n 2

test-adapters: install ## one edge at a time, against real neighbours
	$(PYTEST) tests/adapters -m "not container" -n 2 --dist loadgroup

test-e2e: install ## whole workers, as an operator runs them
	$(PYTEST) tests/e2e -m "not container"

test-containers: install ## the worker image and RabbitMQ 4 in containers (needs a Docker engine; starts one if it may)
	deploy/images/with-engine $(PYTEST) tests/containers tests/adapters -m container

test-field: install ## against servers by other people: Postfix, Dovecot, Exim, … (as root it installs what is missing; minutes)
	tests/field/install
	$(PYTEST) tests/field -m field

chaos: install ## break everything on purpose, a thousand times, and count what was lost or doubled (half an hour)
	$(BIN)/python -m tests.chaos.run
	$(PYTEST) tests/chaos -m chaos

acceptance: install ## the acceptance rows of the five products; writes docs/acceptance.md
	$(PYTEST) -m row -n 2 --dist loadgroup --acceptance-table=docs/acceptance.md tests

lint: install ## ruff and the layers
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

format: install ## let ruff put it in order
	$(BIN)/ruff check --fix-only . ; $(BIN)/ruff format .

types: install ## mypy, strict
	$(BIN)/mypy

check: lint types test ## what a commit must pass

schemas: install ## write what is generated: JSON Schemas, RabbitMQ definitions, the environment example, the table of verdicts
	$(BIN)/python -m contracts.schemas
	$(BIN)/python deploy/local/generate.py

lock: install ## pin the newest allowed requirements, with hashes
	for extras in "worker --extra emulator --extra postgres --extra speed" "dev --group dev --extra emulator --extra postgres --extra speed"; do \
	  set -- $$extras; name=$$1; shift; \
	  $(BIN)/uv pip compile -q pyproject.toml "$$@" --universal --python-version 3.11 --generate-hashes --upgrade \
	    --no-header -o deploy/requirements/$$name.txt; done

load: install ## 10,000 notifications through two workers, once with the broker crashing on the way
	$(BIN)/python -m tests.load.ten_thousand

clean: ## remove everything that was made
	rm -rf .venv .field tests/field/node/node_modules build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
