# Every command of the project. `make` alone lists them.
VENV ?= .venv
BIN = $(VENV)/bin
PYTHON ?= python3
PYTEST_ARGS ?=
REQUIRE ?=
WORKERS ?= 4
RUNS ?= 200
SEED ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test chaos check provision image bench lock clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 14

setup: $(VENV)/.ready ## make .venv with everything in it, .venv/bin/flow too

$(VENV)/.ready: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Flow needs Python 3.11 or newer; set PYTHON=python3.12, say.")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing what Flow needs into $(VENV); the first time this takes some minutes."
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## the bot in a local Slack workspace, with a page to type into
	$(BIN)/flow demo

# Tests, and the programs that they start by the hundred, are compiled once, not each time.
test: export PYTHONDONTWRITEBYTECODE =
test: setup ## the whole suite; REQUIRE=all makes a missing real part a failure; WORKERS=0 runs it in one process
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
		$(if $(REQUIRE),--require=$(REQUIRE)) $(PYTEST_ARGS)

chaos: setup ## RUNS=200: kill the bot so often, then all else; SEED=1 decides when (docs/chaos.md)
	$(BIN)/python -m pytest tests/chaos --chaos-runs=$(RUNS) --chaos-answers=500 --chaos-seed=$(SEED) $(PYTEST_ARGS)
	$(BIN)/python -m pytest --hypothesis-profile=chaos --timeout=3600 \
		tests/unit/sessions/test_sessions_stateful.py tests/unit/sessions/test_sessions_rounds.py
	$(BIN)/python -m pytest --hypothesis-profile=chaos --timeout=3600 tests/unit/bot/test_bot_anymarkdown.py
	$(BIN)/python -m pytest tests/integration/test_kv_kill.py --chaos-runs=$(RUNS) --chaos-seed=$(SEED) $(PYTEST_ARGS)
	$(BIN)/python -m pytest --hypothesis-profile=chaos --timeout=3600 tests/contracts/test_kv_model.py \
	  tests/integration/test_kv_isolation.py tests/unit/kvstore/test_kvstore_sqlite_stateful.py

check: setup ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

provision: ## Debian: a Docker engine with its base image and gVisor, PostgreSQL, Redis, Chromium, Node.js (root)
	scripts/provision

image: setup ## build the worklet image
	$(BIN)/flow image build

bench: setup ## figures: acknowledgement, first message, staleness, CPU, restart, memory, the reaper, the key-value store
	$(BIN)/python -m benchmarks

lock: ## pin the dependencies of pyproject.toml anew, with hashes (needs uv and npm)
	uv pip compile pyproject.toml --generate-hashes --no-emit-index-url --quiet -o requirements.lock
	uv pip compile pyproject.toml --extra dev -c requirements.lock --generate-hashes --no-emit-index-url --quiet -o requirements-dev.lock
	cd worklets/image/mcp && uv pip compile fetch.in --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet -o fetch.txt
	for image in mcp browser; do (cd worklets/image/$$image && npm install --package-lock-only --omit=dev \
	  --ignore-scripts --omit-lockfile-registry-resolved --no-audit --no-fund) || exit; done

clean: ## remove what make and the demo made; a real Flow's data stays
	rm -rf $(VENV) build kvstore/build data/demo .mypy_cache .ruff_cache .pytest_cache *.egg-info kvstore/*.egg-info
