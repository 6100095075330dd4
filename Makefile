# `make demo` and `make test` set up everything they need in .venv, on a machine with Python >= 3.10 and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= outputs/demo
BENCH_OUT ?= outputs/bench
DOCS_OUT ?= outputs/docs
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow quality style space browser docs bench wheel release clean
.NOTPARALLEL:

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|' 2>/dev/null \
	  || grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST)

demo: $(VENV)/.train  ## train on handwritten digits, generate every class, write pictures and a report to outputs/demo
	$(BIN)/fqgan demo --output_dir $(OUT) $(ARGS)

test: quality  ## lint and the whole test suite on all cores (ARGS="-k quantizer" narrows it down)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(ARGS)

test-slow: $(VENV)/.dev  ## the tests that take minutes or need the package index
	$(BIN)/python -m pytest -m slow $(ARGS)

quality: $(VENV)/.dev  ## lint and check the formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: $(VENV)/.dev  ## format, and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

space: $(VENV)/.space  ## the Gradio Space on this machine
	$(BIN)/python spaces_demo/app.py $(ARGS)

browser:  ## chromium and its driver from the system's packages, for the tests of the Space in a browser
	@if command -v chromedriver >/dev/null && command -v chromium >/dev/null; then \
	  echo "There is a browser: $$(chromium --version 2>/dev/null)"; \
	elif ! command -v apt-get >/dev/null; then \
	  echo "There is no apt-get here: install chromium and chromedriver yourself, so that both are on the PATH" >&2; exit 1; \
	elif [ "$$(id -u)" = 0 ]; then \
	  apt-get update && apt-get install --yes chromium chromium-driver; \
	else \
	  sudo apt-get update && sudo apt-get install --yes chromium chromium-driver; \
	fi

docs: $(VENV)/.docs  ## the documentation as a site, to outputs/docs (DOCS_OUT=DIR: elsewhere)
	$(BIN)/python -m sphinx -W --keep-going docs $(DOCS_OUT)
	@echo "open $(DOCS_OUT)/index.html"

bench: $(VENV)/.bench  ## measurements beside peers and the machine's limits (20 minutes), to outputs/bench
	$(BIN)/python benchmarks/generation.py --output_dir $(BENCH_OUT)
	$(BIN)/python benchmarks/tokenizer.py --output_dir $(BENCH_OUT)
	$(BIN)/python benchmarks/import_time.py --json $(BENCH_OUT)/import_time.json

wheel: $(VENV)/.dev  ## build dist/*.whl and dist/*.tar.gz
	$(BIN)/python -m build

release: $(VENV)/.dev  ## build what would be uploaded, and try it in a clean environment (downloads torch)
	rm -rf dist build/release
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(PYTHON) -m venv build/release
	build/release/bin/python -m pip install --disable-pip-version-check --quiet "$$(ls dist/*.whl)[train]"
	cd build/release && bin/fqgan --version && bin/fqgan demo --quick --output_dir demo && bin/fqgan info demo/pipeline
	@echo "dist/ is fit to be uploaded: $$(ls dist)"

clean:  ## remove .venv and what builds leave behind (outputs/ stays)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache

# One stamp per extra. They only grow .venv, so it may be made by any target first and completed by another later.
$(VENV)/.train $(VENV)/.space $(VENV)/.bench $(VENV)/.docs $(VENV)/.dev: $(VENV)/.%: setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "Python >= 3.10 is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1): try make PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing what '$*' needs into $(VENV). torch is large: the first time takes some minutes."
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[$*]"
	@touch $@
