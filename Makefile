# Two commands set everything up by themselves, in a virtual environment of their own: `make demo` and `make test`.
# None of the targets needs root. `make help` lists them and the variables.

PYTHON ?= python3
VENV ?= .venv
# Which PyTorch to install, and from which index where not PyPI (whose Linux builds bring CUDA along).
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PIP_ARGS ?=
PYTEST_ARGS ?=
DEMO_ARGS ?=

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS)

.DEFAULT_GOAL := help
.PHONY: help demo test slow install lint format types docs check clean

help:
	@echo 'make demo     train METRA for a few minutes and show what its skills do'
	@echo 'make test     run the tests'
	@echo 'make slow     run the tests that take long'
	@echo 'make lint     check style and format        make format   correct them'
	@echo 'make types    check types'
	@echo 'make docs     build the documentation into docs/_build/html'
	@echo 'make check    all of lint, types, docs and test'
	@echo 'make install  only install, with every extra, into $(VENV)'
	@echo 'make clean    remove $(VENV), caches and built files'
	@echo
	@echo 'Variables: PYTHON=$(PYTHON) VENV=$(VENV) TORCH="$(TORCH)" TORCH_INDEX="$(TORCH_INDEX)"'
	@echo '           PIP_ARGS="$(PIP_ARGS)" PYTEST_ARGS="$(PYTEST_ARGS)" DEMO_ARGS="$(DEMO_ARGS)"'
	@echo 'PyTorch without CUDA: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu'

demo: $(VENV)/.demo
	$(BIN)/sb3-metra demo $(DEMO_ARGS)

test: $(VENV)/.tests
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

slow: $(VENV)/.tests
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.tests
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.tests
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

check: lint types docs test

clean:
	rm -rf $(VENV) docs/_build build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .coverage htmlcov

# A stamp file stands for what is installed. New metadata, or a TORCH that is asked for and is another, makes it old.

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo 'Python 3.10 or newer is needed, $(PYTHON) is not: say which to use, as in make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo 'No virtual environment could be made: on Debian and Ubuntu, sudo apt-get install python3-venv' >&2; exit 1; }

ifneq ($(origin TORCH),file)
ifneq ($(shell cat $(VENV)/.torch 2>/dev/null),$(TORCH))
.PHONY: $(VENV)/.torch
endif
endif

$(VENV)/.torch: $(VENV)/pyvenv.cfg
	$(PIP_INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	@echo '$(TORCH)' > $@

$(VENV)/.demo: $(VENV)/.torch setup.cfg pyproject.toml
	$(PIP_INSTALL) -e '.[mujoco,plot,zoo]'
	@touch $@

$(VENV)/.tests: $(VENV)/.torch setup.cfg pyproject.toml
	$(PIP_INSTALL) -e '.[all,tests]'
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: $(VENV)/.torch setup.cfg pyproject.toml
	$(PIP_INSTALL) -e '.[all,docs]'
	@touch $@ $(VENV)/.demo

install: $(VENV)/.torch
	$(PIP_INSTALL) -e '.[all,tests,docs]'
	@touch $(VENV)/.demo $(VENV)/.tests $(VENV)/.docs
