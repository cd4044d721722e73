# make test    everything that CI runs
# make demo    compile the bundled network for three devices and check it on each
# make lint, make format, make setup, make clean

PYTHON ?= python3
export PYTHON
RUN := .venv/bin/python

.PHONY: setup test demo lint format clean

test: setup
	$(RUN) tools/dev.py check

demo: setup
	$(RUN) examples/demo.py

lint: setup
	$(RUN) tools/dev.py lint

format: setup
	$(RUN) tools/dev.py format

setup:
	@tools/setup.sh

clean:
	rm -rf build dist edgec.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
