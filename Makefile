# make demo | test | test-slow | lint | docs | reproduce-smoke | lock. Needs Python 3.11 or later, make and git; everything else goes into .venv.
# make demo CPU=1 takes torch without CUDA, and so 4 GB less; TORCH_INDEX=ADDRESS says from which index (docs/install.md).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# An index that has torch and torchvision built for the CPU alone; empty: as locked, with CUDA on Linux.
TORCH_INDEX ?= $(if $(CPU),https://download.pytorch.org/whl/cpu)

# What is locked of torch, and of CUDA for it: another build is another file, and needs no CUDA.
TORCH := torch|torchvision
CUDA := triton|nvidia-[^=]*|cuda-[^=]*

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
	@echo "installing into $(VENV): up to 6.8 GB, some minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
ifeq ($(TORCH_INDEX),)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
else
	@wanted="$$(sed -nE 's/^(($(TORCH))==[^ ]+).*/\1/p' requirements.lock | tr '\n' ' ')"; \
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --default-index "$(TORCH_INDEX)" $$wanted 2> $(VENV)/torch.log \
		|| { echo "expected $${wanted}for this machine in TORCH_INDEX=$(TORCH_INDEX), found none or no answer ($(VENV)/torch.log): name another index, or leave CPU and TORCH_INDEX out" >&2; exit 1; }
	awk '/^[^ ]/ { kept = $$0 !~ /^($(TORCH)|$(CUDA))==/ } kept' requirements.lock > $(VENV)/without-torch.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r $(VENV)/without-torch.lock
endif
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

# The site, into site/: every page, the Python reference, and two pages as the tool makes them.
docs: $(INSTALLED)
	test -s runs/demo/report.html || $(BIN)/ggl demo
	rm -rf docs/shown
	mkdir -p docs/shown/benchmarks docs/shown/generators/assets
	cp -r runs/demo docs/shown/audit
	cp benchmarks/results/cpu/report.html docs/shown/benchmark.html
	cp -r benchmarks/results docs/shown/benchmarks
	cp generators/assets/*.md docs/shown/generators/assets
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Exact versions and hashes of everything, without any index address.
lock: $(INSTALLED)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-annotate --extra dev --extra docs --extra bench --extra report --extra lpips --extra biggan --extra ray --extra flower \
		--output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) build dist site docs/shown ggl_audit.egg-info
