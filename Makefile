# Two commands set everything up: `make demo` and `make test`. `make` alone lists all of them.

PYTHON ?= python3
WORKERS ?= auto
VENV := .venv
PY := $(VENV)/bin/python
TORCH := $(shell sed -n 's/^torch==\(.*\)/\1/p' constraints.txt)
TESTS := $(PY) -m pytest -n $(WORKERS) --maxprocesses 8
# Workers share the machine: more than one thread in each makes all of them slower.
test test-all: export OMP_NUM_THREADS = 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-all test-ui ui lint format types check bench bench-sae torture wheel constraints clean

help:  ## List these commands.
	@echo "Bathyscope shows what every layer of a language model holds. Start with: make demo"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20
	@echo
	@echo "  TORCH_INDEX=URL     Take torch from another index, for example its CPU builds:"
	@echo "                      make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu"
	@echo "  PYTHON=python3.12   Use another Python than python3 (3.11 or newer)."

demo: $(VENV)/.core  ## Set up and show what every layer of a small model holds.
	@echo "==> bathyscope demo (the first time it fetches a model of 93 MB and converts it, 545 MB in the cache)"
	@$(VENV)/bin/bathyscope demo

test: $(VENV)/.dev  ## Set up and run the tests (10 minutes on two cores; fetches no model).
	@echo "==> pytest, without the slow tests"
	@$(TESTS) -m "not slow and not browser"

test-all: $(VENV)/.dev  ## Run every test, the slow ones too (under half an hour).
	@echo "==> pytest, every test"
	@$(TESTS) -m "not browser"

ui: $(VENV)/.dev  ## Build the web app into the package (Node: yours, or the one that comes with the development tools).
	@$(PY) hatch_build.py

# Chromium is taken from the PATH; a Debian machine without one gets its own, where that is allowed.
test-ui: ui  ## Run the web app's tests in a real browser; pictures of it go into build/pictures.
	@command -v chromium >/dev/null || { echo "==> installing chromium"; apt-get install -y chromium; } || { \
	  echo "Chromium is needed. Try: sudo apt install chromium (Debian, Ubuntu)"; exit 1; }
	@$(PY) -c 'import playwright, anywidget' 2>/dev/null || $(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev,frames,browser,notebook]'
	@$(PY) -m pytest -m browser tests/test_ui.py tests/test_ui_files.py tests/test_ui_mappings.py tests/test_circuit_viewer.py tests/test_notebook.py

lint: $(VENV)/.dev  ## Check style and formatting.
	$(PY) -m ruff check
	$(PY) -m ruff format --check

format: $(VENV)/.dev  ## Correct what can be corrected of style and formatting.
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

types: $(VENV)/.dev  ## Check types.
	$(PY) -m pyright --pythonpath $(PY)

check: lint types test  ## lint, types and test: what a change must pass.

bench: $(VENV)/.dev  ## Measure speed and memory, side by side with a plain loop and other libraries (half an hour).
	$(PY) bench/run.py

bench-sae: $(VENV)/.dev  ## Train sparse coders side by side with SAELens and sparsify (an hour; TEXT=FILE for a model's activations).
	$(PY) bench/sae.py $(if $(TEXT),--text "$(TEXT)") $(if $(ACTIVATIONS),--activations "$(ACTIVATIONS)")

torture: $(VENV)/.dev  ## Kill, fill up and damage the run store, hundreds of times (about 5 minutes).
	$(PY) tests/torture.py --kills 500

wheel: $(VENV)/.dev  ## Build the wheel into dist/.
	$(PY) -m build --wheel --no-isolation

# TORCH_PIN=VERSION keeps torch at one version while all else is resolved anew.
constraints:  ## Resolve every dependency anew and pin what was installed.
	@echo "==> installing bathyscope[dev,frames,browser,notebook] without pins into a new environment"
	@set -e; fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(PYTHON) -m venv "$$fresh/venv"; \
	"$$fresh/venv/bin/python" -m pip install --quiet --upgrade pip; \
	"$$fresh/venv/bin/python" -m pip install --quiet $(if $(TORCH_PIN),"torch==$(TORCH_PIN)") '.[dev,frames,browser,notebook]'; \
	sed -n '/^#/p' constraints.txt > "$$fresh/pins"; \
	"$$fresh/venv/bin/python" -m pip list --format freeze --exclude pip --exclude bathyscope \
	  | sed 's/+[a-z0-9.]*$$//' | grep -v -E '^(nvidia-|cuda-|triton==)' | LC_ALL=C sort -f >> "$$fresh/pins"; \
	cp "$$fresh/pins" constraints.txt
	@git --no-pager diff --stat -- constraints.txt || true

clean:  ## Remove the environment and everything that was built; the model stays in the cache.
	rm -rf $(VENV) dist build ui/node_modules src/bathyscope/web/dist .pytest_cache .ruff_cache .hypothesis
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The stamps below are newer than the files that they depend on exactly when the environment is right,
# so that a second `make demo` does not even start pip. While it is being changed, .venv/.unfinished
# stands in it: where that is found, a run was killed, and the environment is made anew.
$(VENV)/.core: pyproject.toml constraints.txt
	$(call announce,bathyscope,about 60 MB besides torch)
	$(call install,.)
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(call announce,bathyscope with its tests and tools,about 285 MB besides torch)
	$(call install,.[dev$(comma)frames])
	@touch $(VENV)/.core $@

comma := ,

define announce
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
  echo "Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo not there)."; \
  echo "Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
  echo "$(PYTHON) has no venv module. Try: sudo apt install python3-venv (Debian, Ubuntu)"; exit 1; }
@echo "==> installing $(1) into $(VENV), versions from constraints.txt"
@echo "    downloads, unless pip has them: $(2);"
@echo "    torch $(TORCH) from $(if $(TORCH_INDEX),$(TORCH_INDEX),the Python package index)"
@$(if $(TORCH_INDEX),true,echo "    (its Linux build there has CUDA: several GB. A CPU is enough for the demo: about 190 MB with"; \
  echo "    TORCH_INDEX=https://download.pytorch.org/whl/cpu)")
endef

# torch of another index comes first and alone: its dependencies are the ordinary ones.
define install
@set -e; \
if [ -e $(VENV)/.unfinished ]; then \
  echo "    an earlier run was interrupted: starting $(VENV) again"; \
  find $(VENV) -mindepth 1 ! -name .unfinished -delete; \
fi; \
mkdir -p $(VENV); touch $(VENV)/.unfinished; rm -f $(VENV)/.core $(VENV)/.dev; \
[ -x $(PY) ] && $(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV); \
$(if $(TORCH_INDEX),$(PY) -m pip install --disable-pip-version-check --no-deps \
  --index-url "$(TORCH_INDEX)" "torch==$(TORCH)";) \
$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '$(1)'; \
rm $(VENV)/.unfinished
endef
