# Each target makes .venv by itself on a machine with Python 3.11 or newer.
# PYTHON=python3.12 chooses another interpreter; it is used once, to make .venv.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/.installed
TEXT ?= i feel dirty and ashamed for saying that

.PHONY: explain test lint bench format
.DELETE_ON_ERROR:

explain: $(STAMP)
	$(BIN)/foveate explain "$(TEXT)"

# One thread a process: two workers with all cores each would only wait for one another.
test: $(STAMP)
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file; done

# torch goes first and alone: pulled in by another package, pip would rather fetch its CUDA build.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "foveate needs Python 3.11 or newer; name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch setuptools
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[agents,captum,datasets,lime,dev]'
	@touch $@
