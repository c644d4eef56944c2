# Every target makes .venv by itself and uses it again until pyproject.toml changes.

VENV := .venv
BIN := $(VENV)/bin
# The name says for what the set-up was made: this content in this folder, whose path is in the
# scripts of .venv.
STAMP := $(VENV)/.set-up-$(shell { pwd; cat pyproject.toml; } | cksum | tr -d ' ')

# Tests start processes by the thousand. Without bytecode each compiles the package anew, which is a
# third of its start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-unit test-long test-docker test-flaky test-matrix test-tools test-suites soak endurance fleet lint format docs bench \
	mutants \
	coverage house clean

help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

demo: $(STAMP) ## Three beats and a worker: kill the leader, watch the takeover; ARGS=--web: on a page
	$(BIN)/python -m demo --pictures .demo $(ARGS)

# Most tests wait for processes, so four share the cores. Those that play several scenes of many
# processes at once, and compare the moments of all of them, come after, one file at a time.
ORDINARY = not long and not docker
test: $(STAMP) ## The tests, except the long ones and those that need Docker
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	$(BIN)/python -m pytest -q -n 4 --dist worksteal -m "$(ORDINARY) and not quiet"
	$(BIN)/python -m pytest -q -m "$(ORDINARY) and quiet"
endif

test-unit: $(STAMP) ## The unit tests and what may import what: seconds
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "$(ORDINARY)" tests/unit tests/test_layering.py $(ARGS)

test-long: $(STAMP) ## The tests that take minutes
	$(BIN)/python -m pytest -m long $(ARGS)

setup-long: ## What the long tests need besides Python: Prometheus with its promtool, and Chromium
	apt-get install --yes --no-install-recommends prometheus chromium chromium-driver

test-docker: $(STAMP) ## The tests that need a Docker engine
	$(BIN)/python -m pytest -m docker $(ARGS)

COUNT = 20
test-flaky: $(STAMP) ## Each test that depends on time, COUNT=20 times, with all cores busy
	$(BIN)/python -m tests.flaky --count $(COUNT) $(ARGS)

test-matrix: $(STAMP) ## A choice of the tests on other releases of Celery, redis-py, Django and Python
	$(BIN)/python -m tests.matrix $(ARGS)

test-tools: $(STAMP) ## Sentry, OpenTelemetry, Datadog and others, beside stock beat, in an environment of their own
	$(BIN)/python -m tests.tools $(ARGS)

test-suites: $(STAMP) ## Test suites of Celery and of other schedulers over our classes, beside a table of what comes of each test
	$(BIN)/python -m tests.suites $(ARGS)

SECONDS =
SEED =
WAY =
soak: $(STAMP) ## Ten minutes of faults, counted at the broker: SEED= SECONDS=600 WAY=transactional
	$(BIN)/python -m tests.soak $(addprefix --seed ,$(SEED)) $(addprefix --seconds ,$(SECONDS)) \
		$(addprefix --way ,$(WAY)) $(ARGS)

endurance: $(STAMP) ## An hour of 100 runs a second, with entries that come and go: what grows
	$(BIN)/python -m tests.soak.endurance $(addprefix --seconds ,$(SECONDS))

fleet: $(STAMP) ## An hour of 4 workers and 3 beats under faults of all kinds: SEED= SECONDS=3600
	$(BIN)/python -m tests.soak.fleet $(addprefix --seed ,$(SEED)) $(addprefix --seconds ,$(SECONDS)) $(ARGS)

lint: $(STAMP) ## Format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p celery_safe_leader
	$(BIN)/mypy tests benchmarks demo example_project tools
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP) ## Build the documentation into site/; a broken link fails
	DISABLE_MKDOCS_2_WARNING=true NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(STAMP) ## Measure, against stock Celery and the other schedulers
	$(BIN)/python -m benchmarks $(ARGS)

mutants: $(STAMP) ## Break the election in each known way, and see which test notices
	$(BIN)/python -m tests.mutants $(ARGS)

coverage: $(STAMP) ## Branch coverage of the ordinary tests, by room of the package
	$(BIN)/python tools/coverage_by_room.py $(ARGS)

house: $(STAMP) ## Rooms, names and lines of the package, and the files that one run enters
	$(BIN)/python tools/house.py
	$(BIN)/python tools/files_entered.py

clean: ## Remove what was built; .venv stays
	rm -rf build dist site .demo .flaky .soak .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The stamp comes last: a set-up that failed is done again.
$(STAMP):
	@rm -f $(VENV)/.set-up-*
	@if ! $(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
		for python in python3.11 python3.12 python3.13 python3.10 python3; do \
			if $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; \
			then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "Python 3.10 or later with venv is needed, and none was found on PATH" >&2; exit 1; \
		fi; \
		echo "Making $(VENV) with $$($$found --version)"; \
		$$found -m venv --clear $(VENV); \
	fi
	@echo "Installing into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
