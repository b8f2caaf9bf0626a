# The single door: `make` lists what there is. Everything installs what it needs into the clone or ~/.cache.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PY := .venv/bin/python
# Imports are slow enough without compiling them anew in every process.
unexport PYTHONDONTWRITEBYTECODE
# Libraries that tell their makers of every use.
export MLFLOW_DISABLE_TELEMETRY ?= true
export ORT_DISABLE_TELEMETRY ?= 1
OBJECTS ?= 1000
BENCH ?=
CLUSTER_TOOL := $(PY) hack/cluster/cluster.py

help: ## List the targets
	@grep -hE '^[a-z][a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

setup: .venv/.ready ## Make the virtual environment, from hash-locked requirements
.venv/.ready: requirements/bootstrap.txt requirements/dev.txt pyproject.toml hack/setup.sh
	hack/setup.sh

check: setup ## Lint, types, import rules, drift, unit tests: under 30 s
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target static unit

static: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	$(PY) -m modelramp.api.crd | diff -u crds/modeldeployments.yaml - || { echo "crds/ is stale: make crd"; exit 1; }
	$(PY) hack/manifests.py --check
	$(PY) hack/proto.py --check
	.venv/bin/lint-imports --no-logo
	.venv/bin/mypy
	MYPYPATH=hack/cluster .venv/bin/mypy hack/cluster
	.venv/bin/mypy -p tests

unit: setup
	.venv/bin/pytest --numprocesses=2 tests/unit

coverage: setup ## The unit tests again, counted: every branch of domain/ and desired/ is taken
	.venv/bin/coverage run -m pytest tests/unit
	.venv/bin/coverage report

simulate: export PYTEST_TIMEOUT ?= 300
simulate: setup ## Test in simulation: killed at every write, random worlds, the statistics over many rollouts
	.venv/bin/pytest tests/simulation

soak: setup ## Test for hours: a million steps of the state machine; are bugs seeded by hand noticed?
	MODELRAMP_SOAK=1 .venv/bin/pytest tests/seeded_bugs
	MODELRAMP_STEPS=1000000 .venv/bin/pytest tests/simulation/test_rollout_machine.py

study: setup ## Measure the statistics in all worlds: writes the tables and the plot of docs/analysis.md. Minutes
	$(PY) -m tests.simulation.study

server: setup ## Test the serving image's server: real ASGI, real clients
	.venv/bin/pytest --numprocesses=3 --dist=loadfile tests/server

server-torch: .venv-torch/.ready ## Test the server's torch and Keras runtimes, in a venv that has them
	.venv-torch/bin/python -m pytest tests/server/test_formats.py tests/server/test_torch.py tests/server/test_keras.py \
	    tests/server/test_devices.py
.venv-torch/.ready: .venv/.ready requirements/torch.txt hack/torch.sh hack/overlay.sh
	hack/overlay.sh .venv-torch requirements/torch.txt hack/torch.sh

server-triton: .venv-triton/.ready ## Test the server before a real Triton
	.venv/bin/pytest tests/server/test_triton.py
.venv-triton/.ready: .venv/.ready requirements/triton.txt hack/triton.sh
	hack/triton.sh

server-clients: .venv-clients/.ready ## Test the server with KServe's client and S3's, in a venv that has them
	.venv-clients/bin/python -m pytest tests/server/test_kserve_client.py tests/server/test_object_stores.py
.venv-clients/.ready: .venv/.ready requirements/clients.txt hack/overlay.sh
	hack/overlay.sh .venv-clients requirements/clients.txt

integration: setup ## Test against a real API server, etcd and controllers
	.venv/bin/pytest --numprocesses=3 tests/integration

e2e: setup ## Test on a real node, under constant traffic
	.venv/bin/pytest --numprocesses=5 tests/e2e

# Tiers with real clocks take turns, by locks (tests/e2e/conftest.py): integration comes first, while the cluster for e2e
# comes up; then e2e; its last module needs little but time, and the server's tests run beside it. Tiers that know no
# clock, or only deadlines that are far away, take the processor time that all of these leave.
test: setup .venv-triton/.ready .venv-torch/.ready .venv-clients/.ready ## All tiers
	mkdir -p .demo
	$(MAKE) --no-print-directory --jobs=3 --output-sync=line timed e2e untimed

timed:
	flock --close .demo/e2e.turn env -u MAKEFLAGS $(MAKE) --no-print-directory integration
	flock --close .demo/e2e.busy hack/background.sh env -u MAKEFLAGS $(MAKE) --no-print-directory server

untimed: export PYTEST_TIMEOUT = 1800
untimed:
	hack/background.sh env -u MAKEFLAGS $(MAKE) --no-print-directory static simulate coverage seeded \
	    server-torch server-clients

seeded: setup
	.venv/bin/pytest tests/seeded_bugs tests/demo

demo: setup ## See versions ramped, caught and taken back, on a real cluster
	$(PY) -m examples.digits.demo

images: setup ## Build the images and load them into the local cluster
	$(CLUSTER_TOOL) build-images

crd: setup ## Write the CRD from the pydantic models
	$(PY) -m modelramp.api.crd > crds/modeldeployments.yaml

proto: setup ## Write the messages of V2 gRPC from inference.proto
	$(PY) hack/proto.py

settings: setup ## Write docs/server-settings.md from the server's settings
	$(PY) -m modelramp_server.settings_page > docs/server-settings.md

manifests: crd ## Render the chart into config/install.yaml
	$(PY) hack/manifests.py

cluster-up: setup ## Start a local Kubernetes (CLUSTER=current: use the context you have)
	$(CLUSTER_TOOL) up

cluster-down: setup ## Stop it, and leave nothing behind
	$(CLUSTER_TOOL) down

bench: bench-server
bench-server: setup .venv-torch/.ready ## Measure the server beside its peers, its relay, memory, start, bad candidates: 30 minutes (BENCH="--parts tiny")
	$(PY) -m tests.bench $(BENCH)

bench-overload: setup ## Measure the server when ten times too much is asked of it
	$(PY) -m tests.bench.overload --rounds 3

bench-operator: setup ## Measure the operator with OBJECTS=1000 ModelDeployments on a real control plane: minutes
	$(PY) -m tests.bench_operator --objects $(OBJECTS)

format: setup ## Format the sources
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

lock: setup ## Resolve requirements/*.txt anew
	hack/lock.sh

.PHONY: help setup check static unit coverage simulate soak study server server-torch server-clients server-triton integration e2e test timed untimed seeded demo images crd proto settings manifests cluster-up cluster-down bench bench-server bench-overload bench-operator format lock
