# Every target works from a bare clone: it makes .venv (or adopts the one that is there) and installs what it needs, once.
#   make test PYTHON=python3.12       another interpreter for a new .venv
#   make test ARGS="-k solver -x"     more words for pytest

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo desk test slow programs desk-test parity docs lint types format clean distclean
.DELETE_ON_ERROR:

help:
	@echo "make demo     an 18 s film from examples/demo.yaml: outputs/demo/film.mp4, contact_sheet.png, film.json"
	@echo "make desk     the director's desk: prints an address and opens it in a browser"
	@echo "make test     the tests, on CPU"
	@echo "make slow     the tests that take minutes: every stage on every mesh of eight devices, made of one CPU; two processes as one run"
	@echo "make programs  programs compiled for GPUs and TPUs that are not here, and read (a large install of their compilers)"
	@echo "make parity   our networks and solvers against torch, diffusers and transformers (a large install)"
	@echo "make desk-test  the desk's page in Chromium, which is installed from the distribution where it is not there"
	@echo "make docs     the documentation's pages: outputs/docs/index.html; warnings are errors"
	@echo "make lint     ruff check and ruff format --check;  make format mends what it can"
	@echo "make types    mypy on everything but tests"
	@echo "make clean    outputs and caches;  make distclean also .venv"

demo: $(VENV)/.core
	$(BIN)/python launch/generate.py --story examples/demo.yaml --out outputs/demo --overwrite

desk: $(VENV)/.core
	$(BIN)/python launch/serve.py $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest $(ARGS)

slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow $(ARGS)

# `make slow` runs these too, once the compilers are there.
programs: $(VENV)/.programs
	$(BIN)/python -m pytest -m slow tests/planning $(ARGS)

# Without the check of annotations: these tests hand in torch's numbers as numpy's arrays.
parity: $(VENV)/.parity
	$(BIN)/python -m pytest tests/parity --jaxtyping-packages= $(ARGS)

# The distribution's Chromium: Playwright's own is a download of its own.
desk-test: $(VENV)/.browser
	@[ -n "$$CHROMIUM" ] || command -v chromium || command -v chromium-browser || command -v google-chrome || { \
	  echo "Chromium is not there: installing it from the distribution"; \
	  apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || { \
	  echo "Could not install it: install Chromium or Chrome, or name one with CHROMIUM=/path/to/it" >&2; exit 1; }
	$(BIN)/python -m pytest -m browser -n 1 tests/serve tests/gallery $(ARGS)

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -b html -W --keep-going -d outputs/docs-cache docs outputs/docs
	[ -f outputs/demo/film.mp4 ] || $(MAKE) demo
	$(BIN)/causalcine gallery outputs --out outputs/docs/gallery --overwrite --title "Films made here"

lint: $(VENV)/.test
	$(BIN)/python -m ruff check --no-cache .
	$(BIN)/python -m ruff format --check .

types: $(VENV)/.test
	$(BIN)/python -m mypy

format: $(VENV)/.test
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:
	rm -rf outputs docs/commands build dist *.egg-info .pytest_cache .hypothesis .ruff_cache
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "causalcine_jax needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo not there)." >&2; \
	  echo "Name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Could not make $(VENV): Debian and Ubuntu need the package python3-venv." >&2; exit 1; }

# A stamp each for the package itself and for what tests, parity and the pages add to it, so that the next run starts at once.
# The larger installs hold the smaller ones.
$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,.)
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,.[test])
	@touch $(VENV)/.core $@

$(VENV)/.browser: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,.[test$(comma)browser])
	@touch $(VENV)/.core $(VENV)/.test $@

$(VENV)/.parity: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,.[test$(comma)parity])
	@touch $(VENV)/.core $(VENV)/.test $@

$(VENV)/.programs: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,.[test$(comma)cuda13$(comma)tpu])
	@touch $(VENV)/.core $(VENV)/.test $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,.[docs])
	@touch $(VENV)/.core $@

comma := ,
define install
@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
  echo "$(VENV) holds $$($(BIN)/python --version), but causalcine_jax needs Python 3.11 or newer: make distclean" >&2; exit 1; }
@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade >/dev/null
@echo "Installing $(1) into $(VENV) (a few minutes the first time) ..."
@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable "$(1)"
endef
