# `make` says what there is. Everything a target needs is built on the way to it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# auto | no: whether test hosts may be booted on this machine.
HOST ?= auto

CACHE := $(or $(ROUNDHOUSE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/roundhouse)
# relative, as a checkout's path may have a space: every recipe runs in the checkout
BIN := .venv/bin
PYTEST := $(BIN)/pytest
REPORTS := .cache/reports
MODULE := PYTHONPATH="$(CURDIR):$(CURDIR)/roles/llm_router/files" $(BIN)/python -m
TYPED := $(wildcard tests/gpu tests/unit tests/integration tests/soak tests/hostile tests/conformance tests/hosts tests/docs tests/monitoring tests/standin tests/tabbyapi tests/uninstall tests/llamacpp bench demo tools)

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.cache/collections
export ANSIBLE_HOME := $(CURDIR)/.cache/ansible
export MOLECULE_GLOB := molecule/*/molecule.yml
export ROUNDHOUSE_CACHE := $(CACHE)
export PYTHONDONTWRITEBYTECODE := 1
export HYPOTHESIS_STORAGE_DIRECTORY := $(CURDIR)/.cache/hypothesis
export HOST






.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))

##@ See it

demo: ## two models answer in turn, on a throwaway host or (HOST=no) on this machine
	@demo/run up
demo-down: ## take away everything that `make demo` put up
	@demo/run down

##@ Check it

check: env ## everything that needs no hosts: linters, types, docs, unit and fast integration tests
	@$(BIN)/python tools/gate.py check
test: env ## everything: check, ansible-test sanity, the archive, integration tests, Molecule on real hosts
	@$(BIN)/python tools/gate.py test
lint: env ## ruff: rules and formatting; shellcheck: every script of ours
	@ruff check . && ruff format --check .
	@shellcheck --exclude=SC2015,SC2016 $$(git grep -lE '^#!(/usr/bin/env |/bin/)(ba)?sh$$' -- ':!*.py' ':!*.j2')
types: env ## mypy --strict
	@mypy roles/llm_router/files/llm_router
	@mypy roles/tabbyapi/files
	@mypy $(TYPED)
	@if [ -d plugins ]; then mypy plugins; fi
lint-yaml: env ## yamllint
	@yamllint --strict .
lint-ansible: env ## ansible-lint, production profile
	@ansible-lint --profile production --offline
lint-docs: env ## the plugins' and roles' documentation, the changelog, whether docs/reference is stale
	@$(MODULE) tools.docs --check
	@cd "$(ANSIBLE_COLLECTIONS_PATH)/ansible_collections/roundhouse/llm" && \
		antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs self . && \
		antsibull-changelog lint
test-unit: env ## pytest tests/unit
	@$(PYTEST) -q -n 2 --dist loadfile --junit-xml=$(REPORTS)/test-unit.xml tests/unit $(ARGS)
test-integration: env model ## pytest tests/integration: real processes, real engines, loopback
	@tools/bootstrap haproxy || echo "test-integration: no HAProxy, so the gateway's tests are skipped (in CI they fail)"
	@$(PYTEST) -q -n 2 --dist loadfile -m "not timing and not promtool and not ui and not openapi and not contracts and not packages and not load and not long and not open_webui" --junit-xml=$(REPORTS)/test-integration.xml tests/integration $(ARGS)
test-long: env model ## the integration tests that take long
	@$(PYTEST) -q -n 2 --dist loadfile -m long --junit-xml=$(REPORTS)/test-long.xml tests/integration $(ARGS)
test-contracts: env ## each engine's contract: the stand-ins by themselves, and the router with each
	@$(PYTEST) -q -n 2 --dist loadfile -m contracts --junit-xml=$(REPORTS)/test-contracts.xml tests/integration $(ARGS)
test-packages: env ## the engines' real packages: what PyPI, their metadata and their sources say; the CUDA compiler compiles (ROUNDHOUSE_ROWS=all: every row)
	@$(PYTEST) -q -m packages --junit-xml=$(REPORTS)/test-packages.xml tests/integration $(ARGS)
test-metrics: env ## /metrics, alerts and the dashboard, with promtool and a real Prometheus
	@tools/bootstrap promtool
	@$(PYTEST) -q -m promtool --junit-xml=$(REPORTS)/test-metrics.xml tests/integration $(ARGS)
test-hostile: env ## engines that misbehave, beside good streams: what their clients get, and that nobody else feels it
	@$(PYTEST) -q --junit-xml=$(REPORTS)/test-hostile.xml tests/hostile $(ARGS)
hostile-table: env ## docs/faults.md's table of engines that misbehave, from a run of test-hostile
	@HOSTILE_TABLE=write $(PYTEST) -q tests/hostile $(ARGS)
test-conformance: env ## nightly: test suites of other projects, at a server directly and through the router (ARGS=httplint: one of them)
	@tools/bootstrap conformance
	@$(MODULE) tests.conformance.run $(ARGS)
conformance-table: env ## the tables of docs/conformance.md, from a run of test-conformance
	@tools/bootstrap conformance
	@$(MODULE) tests.conformance.run --write $(ARGS)
test-ui: env ## the dashboard and engines' pages in a real browser; without Chromium it is skipped, in CI it fails
	@tools/bootstrap chromium || echo "test-ui: no Chromium, so its tests are skipped (in CI they fail)"
	@$(PYTEST) -q -m ui --junit-xml=$(REPORTS)/test-ui.xml tests/integration/test_dashboard.py tests/integration/test_engine_pages.py \
		tests/integration/test_qualify_page.py $(ARGS)
screenshots: test-ui ## docs/img anew from what that browser saw
	@for shot in switch requests failed lost dark phone; do cp .cache/reports/ui/$$shot.png docs/img/dashboard-$$shot.png; done
test-openapi: env ## requests made out of the router's own OpenAPI description
	@$(PYTEST) -q -m openapi --junit-xml=$(REPORTS)/test-openapi.xml tests/integration $(ARGS)
test-load: env ## thousands who wait, and two models asked for in turn
	@$(PYTEST) -q -m load --junit-xml=$(REPORTS)/test-load.xml tests/integration $(ARGS)
test-properties: env ## 10,000 random runs of the scheduler and more, or ROUNDHOUSE_RUNS
	@ROUNDHOUSE_RUNS=$${ROUNDHOUSE_RUNS:-10000} $(PYTEST) -q -n 2 --junit-xml=$(REPORTS)/test-properties.xml \
		tests/unit/test_scheduler_core.py tests/unit/test_scheduler_simulation.py tests/unit/test_yaml_edit.py tests/unit/test_yaml_events.py tests/unit/test_json_members.py $(ARGS)
soak: env ## 5 minutes of 200 clients while engines and routers are killed (ARGS="--seconds 60"), then soak-hostile and soak-systemd
	@$(MODULE) tests.soak.soak $(ARGS)
	@$(MAKE) soak-hostile ARGS=
	@if [[ "$(HOST)" != no ]] && tests/hosts/hosts.py doctor >/dev/null; then $(MAKE) soak-systemd ARGS=; fi
soak-systemd: env ## 5 minutes of faults on a systemd host: after each, the router's belief is the world (ARGS="--seed 2")
	@$(MODULE) tests.soak.host.run $(ARGS)
soak-systemd-short: env ## the same for 90 s
	@$(MODULE) tests.soak.host.run --seconds 90
soak-residency: env ## 1,000 switches of models that sleep, wake and stop, while calls go wrong
	@$(MODULE) tests.soak.residency $(ARGS)
soak-strangers: env ## a minute of 500 connections without a key that try to use up the router
	@$(MODULE) tests.soak.strangers $(ARGS)
soak-hostile: env ## 10 minutes of 10 engines that misbehave, beside 5 good streams (ARGS="--seconds 60")
	@$(MODULE) tests.soak.hostile $(ARGS)
soak-short: env ## both soaks, shorter: 40 s, and 300 switches
	@$(MODULE) tests.soak.soak --seconds 40
	@$(MODULE) tests.soak.residency --switches 300
test-timing: env ## the integration tests that measure time, one after the other
	@$(PYTEST) -q -m timing --junit-xml=$(REPORTS)/test-timing.xml tests/integration $(ARGS)
sanity: build ## ansible-test sanity
	@tools/sanity $(ARGS)
build: env ## the collection's archive in dist/, its contents tested
	@rm -rf dist && tools/export-tree .cache/build && ansible-galaxy collection build --output-path dist .cache/build
	@python tools/archive_contents.py dist/*.tar.gz
molecule: env model ## Molecule: every scenario on real systemd hosts
	@for scenario in molecule/*/molecule.yml; do molecule test -s $$(basename $$(dirname $$scenario)) $(ARGS); done
test-suites: env ## opt-in: Molecule's scenarios on Debian 11 and Ubuntu 20.04, 22.04, 24.04 (tests/suites/run)
	@tests/suites/run
test-systemd: env ## units, helper and config writer against a real systemd, on a host
	@tests/systemd/run
test-uninstall: env ## engines in every state are uninstalled from hosts of two releases (ARGS="bullseye jammy")
	@python tests/uninstall/uninstall.py $(ARGS)
test-llamacpp: env ## llama.cpp by `auto` on hosts of two releases (ARGS="bullseye jammy"; ARGS="trixie cpu", "trixie vulkan": from source)
	@python tests/llamacpp/llamacpp.py $(ARGS)
test-vllm: env ## opt-in: vLLM's CPU build for real, on a host (5 GB, some minutes; tests/vllm/run)
	@tests/vllm/run
test-sglang: env ## opt-in: the real SGLang on a host without a GPU: installed, its compiler compiles (4 GB, SUITE=noble; tests/sglang/run)
	@tests/sglang/run
test-open-webui: env ## Open WebUI from PyPI (750 MB) in front of the router, used over its own API and socket
	@tools/bootstrap open-webui
	@$(PYTEST) -q -m open_webui --junit-xml=$(REPORTS)/test-open-webui.xml tests/integration/test_open_webui.py $(ARGS)
test-open-webui-host: env ## opt-in: the role open_webui on a host, with real engines (tests/open_webui/run)
	@tests/open_webui/run
test-adopt: env ## a host that was set up by hand is adopted: what is touched, and that it works
	@python tests/adopt/adopt.py
test-seed: env ## the server that the project began with: install.sh, import, each model's first load (ARGS="trixie")
	@python tests/seed/seed.py $(ARGS)
test-fleet: env ## three servers and two gateways on hosts: routing, stops, rolling upgrade under load
	@$(MODULE) tests.fleet.fleet $(ARGS)
test-monitoring: env ## a Prometheus on a host watches the router there: alerts, dashboard, again, and taken away
	@$(MODULE) tests.monitoring.monitoring $(ARGS)
test-install: env ## install.sh on a bare host: two models answer, one is downloaded; again: nothing changes
	@tests/install/run
test-demo: ## make demo, embedded and on a host, each again, and that nothing is left
	@tests/demo

##@ Measure it

bench: env ## the data path beside HAProxy, sglang-router, LiteLLM (ARGS="--rounds 5"; BENCH_PEER=name=http://…)
	@$(MODULE) bench.run $(ARGS)
bench-ui: env ## what the dashboard costs browser and router, with 200 models and 500 requests
	@tools/bootstrap chromium
	@$(PYTEST) -q -m ui tests/integration/test_dashboard_load.py $(ARGS)
bench-waiters: env ## 10,000 requests wait for one load: served, memory, stalls
	@$(MODULE) bench.waiters $(ARGS)
bench-fairness: env ## two models asked for in turn: switches and waits against first come, first served
	@$(MODULE) bench.fairness $(ARGS)

bench-switch: env model ## what the router adds to a switch; what reading ahead takes away
	@$(MODULE) bench.switch --model "$(CACHE)/models/gemma-3-270m-q4_k_m.gguf" $(ARGS)

bench-switch-systemd: env ## what the router adds to a switch under systemd, on a host
	@bench/systemd $(ARGS)
bench-policies: env ## on a GPU host, as root: each model out and in by each policy, beside the bus's bound
	@$(MODULE) bench.policies $(ARGS)

##@ Keep it

env: ## the environment of the checks, in .venv
	@tools/bootstrap dev
model: ## the 253 MB test model, in $ROUNDHOUSE_CACHE
	@tools/bootstrap model
docs: env ## docs/reference anew: configuration, HTTP API, roles, modules
	@$(MODULE) tools.docs
public-names: env ## the list of names that users rely on, with new names added (tests/golden/public_names.json)
	@$(MODULE) tools.public_names
lock: ## write every requirements lock anew
	@tools/lock $(ARGS)
clean: ## forget environments and caches of this checkout (first: make demo-down)
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .ansible dist

help: ## this page
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
