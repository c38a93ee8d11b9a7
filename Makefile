VENV ?= .venv

.PHONY: test
test: $(VENV)/installed
	$(VENV)/bin/ruff check -q .
	$(VENV)/bin/ruff format -q --check .
	$(VENV)/bin/python -m pytest -q --durations=10

$(VENV)/installed: pyproject.toml
	python -m venv $(VENV)
	$(VENV)/bin/pip install -q torch==2.13.0
	$(VENV)/bin/pip install -q -e '.[test]'
	touch $@
