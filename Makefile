# Two commands on a fresh machine with Python 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
RUN := OMP_NUM_THREADS=1 $(BIN)

.PHONY: demo test lint bench install dev clean

demo: install
	rm -rf runs/demo
	$(RUN)/emgen -m trainer=vae,wake_sleep,gan,fgan experiment=demo
	$(RUN)/emgen compare runs/demo output=runs/demo/compare.html
	@echo
	@echo "pictures:         runs/demo/*/*/figures/*.png"
	@echo "everything side by side: runs/demo/compare.html"
	@echo "event files:      $(BIN)/tensorboard --logdir runs/demo"

test: dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: dev
	$(BIN)/ruff check emgen tests scripts
	$(BIN)/pyright

bench: dev
	$(BIN)/python scripts/bench.py

install: .venv/.installed
dev: .venv/.dev

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/.dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv runs build *.egg-info
