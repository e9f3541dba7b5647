# Needs make, and either uv or python3 >= 3.11 with its venv module. Everything else is installed
# from uv.lock into .venv when a target first asks for it, and again only when uv.lock or
# pyproject.toml changed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

# The interpreter (uv finds one itself unless this is set), and the uv to fetch where there is
# none; its version is that which wrote uv.lock.
PYTHON ?= python3
ifneq ($(origin PYTHON),file)
export UV_PYTHON := $(PYTHON)
endif
UV_VERSION := 0.13.9
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv || echo .tools/uv-$(UV_VERSION)/bin/uv)

# Test processes at a time.
JOBS ?= auto

# Clusters of two nodes at a time, of test-e2e.
CLUSTERS ?= 2

# Where the image is written to, to be tested and carried.
ARCHIVE ?= dist/image.tar

export UV_PROJECT_ENVIRONMENT := .venv
# The dependencies are compiled once, here: PYTHONDONTWRITEBYTECODE would have each start do it.
export UV_COMPILE_BYTECODE := 1
# The certificates that the system trusts: a site may inspect TLS with a CA of its own.
export UV_SYSTEM_CERTS ?= 1
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help demo test test-cluster test-e2e test-chart test-helm image test-image package sbom \
    bundle test-bundle lint format bench docs chart-docs clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

demo: .venv/.synced-run ## Back up, verify and restore two journals, one of them being written
	@python -m demo

test: .venv/.synced-test ## Run all tests, with coverage; T='-k sink -x' runs some, without
	@tests/setup.sh
	@python -m pytest -n $(JOBS) $(if $(T),$(T),--cov)

test-cluster: .venv/.synced-test ## Run the tests that want a real Kubernetes, built once; T='-k lease' runs some
	@tests/cluster/setup.sh
	@python -m pytest -n $(JOBS) tests/cluster $(T)

test-e2e: .venv/.synced-test ## Run the tests on two real nodes, as root, with the image in dist/image.tar; T='-k dies'
	@tests/e2e/setup.sh
	@python -m pytest -n $(CLUSTERS) tests/e2e $(T)

test-chart: .venv/.synced-test .venv/.synced-chart ## Run the tests of the Helm chart and of the workflows; T='-k rights' runs some
	@tests/chart/setup.sh
	@python -m pytest -n $(JOBS) tests/chart $(T)

test-helm: .venv/.synced-test .venv/.synced-chart ## Run them with older and newer versions of Helm
	@for helm in helm-3.14 helm-3.18 helm-4; do \
	    HELM=$$helm tests/chart/setup.sh && \
	    HELM=$$helm python -m pytest -n $(JOBS) tests/chart $(T) || exit 1; \
	done

image: ## Build the container image into dist/image.tar; settings: image/build.sh
	@ARCHIVE=$(ARCHIVE) image/build.sh

test-image: .venv/.synced-test ## Test the image in dist/image.tar; T='-k runs' runs some
	@test -s $(ARCHIVE) || { echo "missing: $(ARCHIVE), which make image writes" >&2; exit 1; }
	@JOURNAL_BACKUP_IMAGE=$(ARCHIVE) python -m pytest tests/image $(T)

package: .venv/.synced-bundle ## Package the chart and the command: dist/*.tgz, dist/*.whl
	@python -m bundle chart
	@hatchling build --target wheel --directory dist

sbom: .venv/.synced-bundle ## Write what is in dist/image.tar into dist/*.cdx.json
	@ARCHIVE=$(ARCHIVE) python -m bundle sbom

bundle: .venv/.synced-bundle ## Write what a site without a network carries in, of dist/image.tar: dist/*-airgap.tar
	@ARCHIVE=$(ARCHIVE) python -m bundle

test-bundle: .venv/.synced-test .venv/.synced-bundle ## Test SBOM and bundle of dist/image.tar; T='-k sums' runs some
	@test -s $(ARCHIVE) || { echo "missing: $(ARCHIVE), which make image writes" >&2; exit 1; }
	@JOURNAL_BACKUP_IMAGE=$(ARCHIVE) python -m pytest tests/bundle $(T)

lint: .venv/.synced-dev ## Check style, types, the import direction and the lock file
	@$(UV) lock --check --quiet
	@ruff check
	@ruff format --check
	@mypy
	@lint-imports --no-logo

format: .venv/.synced-dev ## Format the code and mend what can be mended
	@ruff check --fix
	@ruff format

bench: .venv/.synced-bench .venv/.synced-test ## Compare with other tools, into bench/results; B='--help' for options
	@python -m compileall -q backup # as in an image
	@python -m bench $(B)

docs: .venv/.synced-run ## Write the generated parts of README.md and docs/ anew
	@python docs/generate.py

chart-docs: .venv/.synced-test .venv/.synced-bundle ## Write the generated parts of the chart and of examples/ anew
	@tests/chart/setup.sh
	@python -m tests.chart.generate
	@rm -f examples/umbrella/charts/deepgram-journal-backup-*.tgz
	@DIST=examples/umbrella/charts python -m bundle chart

clean: ## Remove everything that make or a test has made
	rm -rf .venv .tools build dist htmlcov .coverage .coverage.* .hypothesis \
	    .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# The stem is a dependency group, or "run" for what the command itself needs. Groups add up.
.venv/.synced-%: uv.lock pyproject.toml | $(UV)
	@echo "installing into .venv what uv.lock says ($*)"
	@$(UV) sync --quiet --frozen --inexact --no-default-groups $(if $(filter-out run,$*),--group $*)
	@touch $@

.tools/uv-$(UV_VERSION)/bin/uv:
	@PYTHON=$(PYTHON) ./.ci/venv .tools/uv-$(UV_VERSION)
	@.tools/uv-$(UV_VERSION)/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
