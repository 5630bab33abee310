# Every target makes .venv first if it is missing or older than the lock.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-smoke test-slow lint bench lock clean

install: .venv/.installed

.venv/.installed: requirements.txt setup.cfg setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not (3, 10) <= v[:2] <= (3, 13) and \
	    f"tfseg needs Python 3.10-3.13, {sys.executable} is {v[0]}.{v[1]}. Try: make $(MAKECMDGOALS) PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install
	$(BIN)/tfseg demo --out runs/demo

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-smoke: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "smoke and not slow"

test-slow: install
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/python tools/benchmark.py read
	$(BIN)/python tools/benchmark.py segment
	$(BIN)/python tools/benchmark.py instances

# Renews requirements.txt: exact versions for Python 3.10 to 3.13 on every platform.
lock: install
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --extra fast --extra dev \
	    --no-emit-index-url --no-annotate --no-header --output-file requirements.txt setup.cfg

clean:
	rm -rf .venv runs build *.egg-info
