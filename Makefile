# make demo: set up and do everything once on a synthetic corpus. make test: set up and run the tests;
# make test-all: those that take minutes, too.
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
INSTALL ?= -e '.[all,dev]'
DEMO ?= demo
DEMO_FLAGS ?=
PYTEST_FLAGS ?=
# nproc heeds OMP_NUM_THREADS, which is for torch.
# One more than cores: tests wait for processes and pages.
JOBS ?= $(shell n=$$(env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 2); echo $$((n < 8 ? n + 1 : 8)))
# Each test file in one process, which makes the fixtures of its module once; tests/conftest.py orders the files.
# Cores are shared by processes: with more threads than one each torch takes many times as long.
PYTEST = OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

unexport PYTHONDONTWRITEBYTECODE # hundreds of processes start: each would compile the same files again

.PHONY: demo test test-all lint clean

demo: $(VENV)/installed
	$(VENV)/bin/avprep demo $(DEMO) $(DEMO_FLAGS)

test: $(VENV)/installed
	$(PYTEST) -m "not slow"

test-all: $(VENV)/installed
	$(PYTEST)

lint: $(VENV)/installed
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

clean:
	rm -rf $(VENV) build dist

# opencv-python needs libGL and glib; where they are missing, its headless twin of the same version takes its place.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("avprep needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet -c constraints.txt $(INSTALL)
	$(VENV)/bin/python -c 'import cv2' 2>/dev/null || $(VENV)/bin/pip install --quiet --no-deps --force-reinstall \
		"opencv-python-headless==$$($(VENV)/bin/pip list --format=freeze | sed -n 's/^opencv-python==//p')"
	touch $@
