# The first call of any target makes .venv; later ones find it up to date.
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
NAME ?= tables
# Hundreds of processes start here: who forbids kept bytecode has each of them compile all it imports.
export PYTHONDONTWRITEBYTECODE =

.PHONY: help demo test soak bench check docs pictures reference constraints clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: .venv/core ## a workspace with all five kinds of data, with accounts that balance
	@$(PYTHON) examples/demo.py

test: .venv/dev ## every test but the long ones and those of `make check`; then the coverage gates
	@rm -f .coverage .coverage.* coverage.xml
	$(PYTHON) -m pytest -q -n 3 --dist loadscope --cov --cov-report=xml --ignore tests/house tests
	@rm -f .coverage.* # of children that were killed
	@tools/gate

soak: .venv/dev ## the long tests: thousands of kills and faults
	$(PYTHON) -m pytest -q -n 2 --dist load -m soak --timeout 3600 tests

bench: .venv/dev ## one benchmark beside its peers: make bench NAME=tables
	@$(PYTHON) -m bench.$(NAME)

check: .venv/dev ## style, types, architecture, documents, coverage
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo
	$(PYTHON) -m pytest -q tests/house
	@tools/gate

docs: .venv/dev ## the documentation site, strictly, into site/
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

pictures: .venv/dev ## the pictures of the tour, of what `make demo` made: look at them
	@$(PYTHON) tools/pictures.py demo

reference: .venv/dev ## the reference pages that follow from the code
	@$(PYTHON) tools/reference.py

constraints: .venv/core ## newest versions of everything into constraints.txt
	@PATH="$$PWD/.venv-tools/bin:$$PATH" uv pip compile --quiet --universal --upgrade --python-version 3.12 --no-header --no-annotate \
		--all-extras --group dev --output-file constraints.txt pyproject.toml

clean: ## all that make made
	rm -rf .venv .venv-tools .coverage* coverage.xml site demo dist build
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

.venv/core .venv/dev: pyproject.toml constraints.txt tools/bootstrap
	@tools/bootstrap $(@F)
