# Two commands on a fresh machine: `make demo` and `make test`. Both do all their own set-up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RIVALS := .venv-bench
READY := $(VENV)/.ready
RIVALS_READY := $(RIVALS)/.ready

.PHONY: help demo test lint unit e2e up bench faults clean programs

help:
	@echo "make demo   submit, vote, close, produce: a whole series on this machine"
	@echo "make test   linters, types, import rules and all tests"
	@echo "make up     the operator's UI on embedded services"
	@echo "make lint   ruff, mypy and import-linter alone"
	@echo "make unit   all tests but the end-to-end ones"
	@echo "make bench  everything that has a target, against its peer or floor, in about a quarter of an hour"
	@echo "make faults break a studio at twenty random moments (SEED=… ROUNDS=…) and look for what is lost or made twice"
	@echo "make clean  remove the virtual environment (the data in .moltpipe stays)"

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "moltpipe needs Python 3.11 or later; set PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		if [ "$$(id -u)" = 0 ]; then apt-get update -q && apt-get install -qy python3-venv; \
		else echo "the venv module is missing: install the Debian package python3-venv" >&2; exit 1; fi; }
	@echo "installing moltpipe into $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY)
	@$(BIN)/moltpipe demo

up: $(READY)
	@$(BIN)/moltpipe up

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Debian's programs that tests need: the broker of Celery, of which each test starts one of its own, and what reads Prometheus'
# rules. RUNLEVEL=1 keeps Debian from starting them as services.
PROGRAMS := redis-server:redis-server promtool:prometheus

programs:
	@for one in $(PROGRAMS); do command -v $${one%%:*} >/dev/null || missing="$$missing $${one##*:}"; done; \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ]; then \
			apt-get update -q && RUNLEVEL=1 apt-get install -qy --no-install-recommends $$missing; \
		else echo "tests are skipped: install the Debian packages$$missing" >&2; fi; fi

unit: $(READY) programs
	$(BIN)/pytest -n 2 --dist loadfile -m "not e2e"

e2e: $(READY) programs
	$(BIN)/pytest -m e2e

# In the order of collection (`moltpipe_tests/conftest.py`): by itself, xdist begins files of few tests last, and those
# take the longest.
test: lint programs
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# MoviePy's pins would take the Pillow of $(VENV) back by two versions, so it gets an environment of its own.
$(RIVALS_READY): requirements-bench.txt $(READY)
	@echo "installing MoviePy into $(RIVALS) …"
	@$(PYTHON) -m venv $(RIVALS)
	@$(RIVALS)/bin/pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	@touch $(RIVALS_READY)

bench: $(READY) $(RIVALS_READY)
	@$(BIN)/python -m moltpipe_tests.bench

faults: $(READY)
	@$(BIN)/python -m moltpipe_tests.faults $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED))

clean:
	rm -rf $(VENV) $(RIVALS)
