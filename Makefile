# Everything a developer types. `make run` and `make test` work from a bare clone.
.PHONY: help run test system-test system-test-long lint bench fuzz setup simulator deb apt-repo release release-check clean
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

run: ## a simulated Orange Pi 5 Plus with a demo model: one streamed answer (ONCE=1 ends after it)
	@tools/setup run
	@$(PYTHON) -m tools.demo $(if $(ONCE),--once)

test: ## lint, types and the whole test suite, with coverage
	@tools/setup test
	@tools/check

system-test: ## the packages on Debian 12 and 13: in containers and on a virtual Orange Pi 5 Plus; as root
	@tools/setup system
	@$(PYTHON) -m pytest tests/system -n 2

system-test-long: ## that, and several boards, kernels and machines, and power cuts; as root, an hour
	@tools/setup system
	@$(PYTHON) -m pytest tests/system tests/system/long -n 2

lint: ## ruff and mypy only
	@tools/setup test
	@tools/check lint

bench: ## what a token costs, as tables, and bench/results.json with the ratios to the committed figures
	@tools/setup test
	@$(PYTHON) -m bench
	@$(PYTHON) -m bench results

fuzz: ## 10,000 generated requests against our own OpenAPI document
	@tools/setup test
	@$(PYTHON) -m tests.api.fuzzed 12000

setup: ## what `make test` needs, without running it
	@tools/setup test

simulator: ## the stand-in librkllmrt of every generation
	@$(MAKE) --no-print-directory -C simulator

deb: ## dist/*.deb for amd64 and arm64 (ARCH=arm64 for one)
	@tools/setup package
	@NATIVE=$${NATIVE:-try} packaging/build $(ARCH)

apt-repo: ## dist/apt, a signed repository of dist/*.deb (KEY=... or a throwaway key)
	@tools/setup package
	@packaging/apt-repo

release: ## dist/exo-rkllm-VERSION.tar: packages, repository, image, wheel, source, checksums (KEY=...; IMAGES= for none)
	@tools/setup release
	@packaging/release

release-check: ## what must hold before a version is published (DRY=1: before its day is in the changelog)
	@tools/setup test
	@packaging/release-check

clean: ## away with everything that was built
	rm -rf .venv build dist *.egg-info .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
