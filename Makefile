# make demo | test | test-slow | lint | docs | reproduce-smoke | lock. Needs Python 3.11 or later, make and git; everything else goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Trust what the machine trusts, as pip does.
export UV_SYSTEM_CERTS := 1

# Compile a module once and not in every process, of which the tests start hundreds.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-slow lint docs reproduce-smoke lock clean

demo: $(INSTALLED)
	$(BIN)/ggl demo

# The whole product, and then what takes long: clusters, processes that are killed, large networks.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow"

test-slow: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Two minutes of `ggl reproduce --all`: too short to claim anything, long enough to break.
reproduce-smoke: $(INSTALLED)
	rm -rf runs/reproduce-smoke
	$(BIN)/ggl reproduce --all --images 1 --budget 50 --ceiling-budget 20 --rounds 2 --out runs/reproduce-smoke

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

# The site, into site/: every page, the Python reference, and two pages as the tool makes them.
docs: $(INSTALLED)
	test -s runs/demo/report.html || $(BIN)/ggl demo
	rm -rf docs/shown
	mkdir -p docs/shown/benchmarks docs/shown/generators
	cp -r runs/demo docs/shown/audit
	cp benchmarks/results/cpu/report.html docs/shown/benchmark.html
	cp -r benchmarks/results docs/shown/benchmarks
	cp -r generators/assets docs/shown/generators
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Exact versions and hashes of everything, without any index address.
lock: $(INSTALLED)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-annotate --extra dev --extra docs --extra bench --extra report --extra lpips --extra biggan --extra ray --extra flower \
		--output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) build dist site docs/shown ggl_audit.egg-info
