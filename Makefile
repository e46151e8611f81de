# dmsnap. "make help" lists the targets; each may be typed first, twice, or after an
# interrupted attempt.

# Empty: the default kernel, or the best one that boots here.
KERNEL ?=
ARGS ?=

BIN := .venv/bin
PYTHON_FILES := harness tests
FAST := $(filter-out tests/browser tests/kernel tests/mutation tests/hunt,$(wildcard tests/*))

# Settings for another Python must not reach ours.
unexport PYTHONHOME PYTHONPATH

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run test test-fast test-drivers test-source format lint record coverage-twin mutants hunt planted attack-readers flakes changelog pages wheels box bench clean distclean venv kernel

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  KERNEL=uml-6.1 chooses a kernel, ARGS='...' adds arguments: make run ARGS='-j 1 overflow*'"

setup: venv kernel ## create .venv and fetch the default kernel
	@echo "Ready. Now type: make run"

run: setup ## run every scenario in a real kernel and in the twin, and compare
	@$(BIN)/dmsnap run $(addprefix --kernel ,$(KERNEL)) $(ARGS)

test: setup ## run all tests: the fast ones, then those that need browsers or boot kernels
	@$(BIN)/python -m pytest $(FAST) tests/browser tests/kernel $(ARGS)

test-fast: venv ## run the tests that need no browser and boot nothing
	@$(BIN)/python -m pytest $(FAST) $(ARGS)

test-drivers: setup ## compare the two drivers on the whole catalogue (half an hour)
	@$(BIN)/python -m pytest tests/kernel/test_drivers.py --scenario '*' $(ARGS)

test-source: setup ## build Debian's 6.12 from source, run it, bisect (half an hour; make, gcc, flex, bison, bc)
	@DMSNAP_TEST_SOURCE=build/test-source $(BIN)/python -m pytest tests/kernel/test_source.py $(ARGS)

format: venv ## format every Python file as "make lint" demands
	@$(BIN)/ruff format $(PYTHON_FILES)

lint: venv ## check format and style (ruff), types (mypy), and what each room imports (import-linter)
	@$(BIN)/ruff format --quiet --diff $(PYTHON_FILES)
	@$(BIN)/ruff check $(PYTHON_FILES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

record: setup ## run the catalogue on three kernels and keep their answers (report/guests)
	@$(BIN)/dmsnap run --kernel uml-6.12 --kernel uml-6.1 --kernel uml-7.2 >/dev/null

coverage-twin: record ## branch coverage of twin and store by the catalogue alone, without tests
	@$(BIN)/python tests/mutation/coverage_twin.py $(ARGS)

mutants: record ## break the twin in many places, one at a time: recorded kernels must notice
	-@$(BIN)/python tests/mutation/coverage_twin.py >/dev/null
	@$(BIN)/python tests/mutation/mutants.py --page $(ARGS)

hunt: setup ## random snapshot lives on both sides: make hunt ARGS='--seed 1000 --count 200'
	@$(BIN)/python -m tests.hunt.lives $(ARGS)

planted: venv ## plant bugs in the twin, one at a time: how soon they are found, and how short
	-@$(BIN)/python -m tests.hunt.planted --page $(ARGS)

attack-readers: venv ## feed mutated traces, observations and reports to their readers
	@$(BIN)/python -m tests.hunt.readers $(ARGS)

flakes: setup ## find verdicts that change: the catalogue 60 times on disturbed guests (hours)
	@$(BIN)/python -m tests.hunt.flakes $(ARGS)

changelog: venv ## show what the next release will say about its changes
	@$(BIN)/towncrier build --draft --version next

pages: venv ## regenerate what pages say about the code: modules of each room, figures
	@$(BIN)/python -m tests.pages

wheels: venv ## fetch the Python packages that a guest without a network needs (Debian 12)
	@mkdir -p build
	@$(BIN)/python -c 'import tomllib; print("hatchling", "editables", *tomllib.load( \
	  open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' >build/requirements.txt
	@$(BIN)/python -m pip download --quiet --dest build/wheels --requirement build/requirements.txt \
	  --only-binary=:all: --python-version 3.11 --platform manylinux_2_28_x86_64 \
	  --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux1_x86_64

box: wheels ## build a Vagrant box from Debian packages (root; two minutes)
	@bash vm/box/build.sh "$$($(BIN)/python -c \
	  'from harness.guest.fetch.apt import debian_mirror; print(debian_mirror())')" build

bench: setup ## measure twin, kernel side and store parsing
	@$(BIN)/python -m harness.measure.bench $(ARGS)

clean: ## remove reports and caches
	rm -rf report .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage*
	find harness tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv too; fetched kernels stay
	rm -rf .venv

venv:
	@sh vm/setup.sh

kernel: venv
	@$(BIN)/dmsnap kernels fetch $(KERNEL)
