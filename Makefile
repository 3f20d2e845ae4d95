# From a fresh clone, with Python 3.11 or newer, make and pip:
#   make demo   trains on handwritten digits with the plug-ins of plugins_contrib
#   make test   everything that must pass before a change lands
#   make test-optuna4  the tests of the Optuna plug-in, with Optuna 4; make test runs them, too
#   make test-contrib  the tests of the packages in plugins_contrib; make test runs them, too
#   make test-long  the tests that take minutes each, such as all failures on several ranks
#   make soak   kills random runs and searches, for SECONDS (600) each, and tries odd arguments
#   make bench  what Helios costs beside PyTorch and other trainers; BENCH=loop,save chooses

PYTHON ?= python3
BIN := .venv/bin
CONTRIB := $(sort $(wildcard plugins_contrib/helios-*))
PROJECTS := pyproject.toml $(CONTRIB:%=%/pyproject.toml)

.PHONY: demo test test-core test-beside test-optuna4 test-contrib test-long \
	lint style structure soak bench clean

demo: .venv/installed
	$(BIN)/helios demo

# Tests wait a third of their time: for files, other processes, a store. So more of them run at once
# than a small machine has cores. Each has one core: PyTorch's own threads only get in the way.
test: style
	$(MAKE) --jobs 2 test-core test-beside

test-core: export OMP_NUM_THREADS = 1
test-core: .venv/installed
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 20

# Each prints when it has ended, because the tests of the core print all the time.
test-beside:
	$(MAKE) --output-sync=target structure test-contrib test-optuna4

# Optuna 4 comes first on the path, so the large packages are not installed twice.
test-optuna4: export OMP_NUM_THREADS = 1
test-optuna4: .venv/optuna4
	PYTHONPATH=$(CURDIR)/$< $(BIN)/python -m pytest tests/optuna tests/plugins/test_optuna.py \
		--deselect tests/optuna/test_search.py::test_killed_search_equals_one_that_was_not

# Most of the time of helios-ray is that of Ray, which starts processes one after the other.
test-contrib: export OMP_NUM_THREADS = 1
test-contrib: .venv/installed
	printf '%s\n' $(CONTRIB) | xargs -n 1 -P 2 $(BIN)/python -m pytest

.venv/optuna4: .venv/installed
	$(BIN)/pip install --quiet --no-deps --upgrade --target $@ optuna==4.9.0

test-long: export OMP_NUM_THREADS = 1
test-long: .venv/installed
	$(BIN)/python -m pytest -m long
	$(BIN)/python -m pytest -m long plugins_contrib/helios-ray

lint: style structure

style: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

structure: .venv/installed
	$(BIN)/mypy src $(CONTRIB:%=%/src)
	$(BIN)/lint-imports

SECONDS ?= 600
soak: .venv/installed
	$(BIN)/python tests/exactness/soak.py --seconds $(SECONDS)
	PYTHONPATH=tests $(BIN)/python tests/optuna/soak.py --seconds $(SECONDS)
	$(BIN)/python tests/fuzz_arguments.py --examples 100000

comma := ,
BENCH ?= loop,data,hooks,ranks,save,start
bench: .venv/installed
	$(BIN)/python benchmarks/peers/install.py
	$(BIN)/python benchmarks/run.py $(subst $(comma), ,$(BENCH))

# pip compiles all files on one core, so the compiler does it on all, for what can be imported here.
# It would fail for the file py312_intrinsics.py of PyTorch, which is written for a later Python.
.venv/installed: constraints.txt $(PROJECTS)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --no-compile --constraint constraints.txt --editable '.[dev]' \
		$(CONTRIB:%=--editable ./%)
	-$(BIN)/python -m compileall -q -j 0 -x '/(tests|rllib|serve|llm)/|py312' .venv/lib src plugins_contrib
	touch $@

clean:
	rm -rf .venv .venv-bench
