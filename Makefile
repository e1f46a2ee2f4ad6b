# Two commands do all the set-up on a fresh machine: `make run` (the main job) and `make test`.
# ARGS are passed on:  make run ARGS="--seeds 5 --epochs 3"
#                      make test ARGS="-k store"

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Three processes, one of which begins with tests that start Ray (tests/conftest.py): on two cores one of three waits for
# Ray or for a network most of the time.
AT_A_TIME := -n 3 --no-loadscope-reorder
WITH_RAY := tests/test_run.py::test_main_job_trains_both_models_on_real_digits \
	tests/test_run.py::test_two_workers_average_their_gradients

OLDEST := .venv-oldest/bin

.PHONY: run test test-fast test-all test-oldest browser lint format clean

run: .venv/.installed-run
	$(BIN)/python -m bench.run --models cnn mobilenet $(ARGS)

test: .venv/.installed-test
	$(BIN)/python -m pytest $(AT_A_TIME) $(ARGS)

test-fast: .venv/.installed-test
	$(BIN)/python -m pytest $(AT_A_TIME) -m "not slow and not ray and not heavy" $(ARGS)

test-all: .venv/.installed-test
	$(BIN)/python -m pytest $(AT_A_TIME) -m "slow or not slow" $(ARGS)

# The lowest declared version of every dependency, in an environment of its own: the tests without Ray, and two with it.
test-oldest: .venv-oldest/.installed
	$(OLDEST)/python -m pytest -m "not slow and not ray" $(ARGS)
	$(OLDEST)/python -m pytest $(WITH_RAY)

# The browser that draws on the page in the tests (Debian, as root); without one those tests are skipped.
browser:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; }

lint: .venv/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-oldest

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12 run" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "Python's venv module is needed (on Debian: apt install python3-venv)" >&2; exit 2; }

.venv/.installed-run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into .venv: PyTorch, Ray and what they need; about 3 minutes and 6.5 GB, once"
	@$(INSTALL) --editable '.[offline]'
	@touch $@

.venv/.installed-test: .venv/.installed-run
	@$(INSTALL) --editable '.[offline,timm,huggingface,demo,export,backends,cluster,energy,tune,storage,test]'
	@touch $@

.venv/.installed-lint: .venv/.installed-test
	@$(INSTALL) --editable '.[offline,timm,huggingface,demo,export,backends,cluster,energy,tune,storage,test,lint]'
	@touch $@

.venv-oldest/.installed: pyproject.toml | .venv/.installed-test
	@echo "installing the lowest declared versions into .venv-oldest: about 6 GB"
	@$(PYTHON) -m venv --clear .venv-oldest
	@$(BIN)/uv pip install --python $(OLDEST)/python --resolution lowest-direct --editable '.[offline,timm,huggingface,demo,export,backends,cluster,energy,tune,storage,test]'
	@touch $@
