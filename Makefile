VENV ?= .venv

.PHONY: test check style browser
test: style browser  # everything
	$(VENV)/bin/python -m pytest -q -n 2 --dist loadgroup --durations=15

check: style  # at most four minutes on two cores
	$(VENV)/bin/python -m pytest -q -n 2 --dist loadgroup -m "not slow" --durations=5

style: $(VENV)/installed
	$(VENV)/bin/ruff check -q .
	$(VENV)/bin/ruff format -q --check .
	$(VENV)/bin/mypy

browser: $(VENV)/installed  # found, or installed, or asked for
	$(VENV)/bin/python tests/browser.py

$(VENV)/installed: pyproject.toml
	python -m venv $(VENV)
	$(VENV)/bin/pip install -q torch==2.13.0
	$(VENV)/bin/pip install -q -e '.[test]'
	touch $@
