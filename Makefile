# One way to do each check. CI runs `make check`.
PYTHON ?= python
LIGHT := cifar_cli/__init__.py cifar_cli/command.py cifar_cli/completion.py cifar_cli/parsers.py cifar_cli/core/choices.py cifar_cli/core/progress.py cifar_cli/core/suggest.py cifar_cli/core/notebook.py cifar_cli/core/own_code.py cifar_cli/app.py cifar_cli/options.py cifar_cli/errors.py cifar_cli/printable.py cifar_cli/core/limits.py cifar_cli/__main__.py cifar_cli/commands \
	$(wildcard cifar_cli/core/*/config.py cifar_cli/core/*/*results.py cifar_cli/core/*/registry.py cifar_cli/core/*/__init__.py)

.PHONY: check lint types imports test quick coverage docs
check: lint types imports docs test

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff check --select TID253 $(LIGHT)
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy

imports:
	$(PYTHON) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

test:
	$(PYTHON) -m pytest -m ""

quick: lint
	$(PYTHON) -m pytest

docs:
	zensical build --strict --clean

coverage:
	$(PYTHON) -m pytest -m "" --cov --cov-report=term:skip-covered
