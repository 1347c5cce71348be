# Everything runs in environments of its own below .venv/, made from the hashed locks in requirements/.
# A machine needs Linux, Python 3.11 or newer and make; nothing is installed outside this folder (uv keeps its cache).

PYTHON ?= python3
UV := .venv/uv/bin/uv
CPU := .venv/cpu
DEV := .venv/dev
GPU := .venv/gpu
CONTROL := .venv/control-plane
OUT := out/demo
# Of pytest. Each may hold a control plane (0.5 GB) and an engine or a training (1.5 GB).
WORKERS ?= 3
MOUNT := --mount /psr=$(OUT)/volume
REPORTS := file:///psr/runs/default

export UV_PYTHON_DOWNLOADS := never
export UV_LINK_MODE := hardlink
export UV_NO_CONFIG := 1
# A run starts many processes; without bytecode each would compile torch and vLLM anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help dev gpu demo demo-control demo-seeds test pytest cluster-prepare test-cluster test-quick control-plane cluster-up \
  cluster-down images bench-operator bench-s3 bench-scale bench-search lint format crds reasons house-picture lock verify clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

dev: $(DEV)/ready ## for whoever changes the code: environment, git hooks, lint, the tests that take two minutes
	$(DEV)/bin/pre-commit install
	$(MAKE) --no-print-directory lint
	$(DEV)/bin/python -m pytest -n 2 -m "not engine and not cluster and not programs" $(QUICK)
QUICK := tests/test_house.py tests/test_environments.py tests/test_words.py tests/api tests/docs tests/doors tests/planner \
  tests/prompts tests/records tests/render tests/report tests/stage

gpu: $(GPU)/ready ## for a machine with an NVIDIA GPU: the environment .venv/gpu (docs/gpu-machine.md)

demo: $(CPU)/ready $(OUT)/volume/input/about.json ## run the whole loop on this machine: M1 to M4, a table, a report
	$(CPU)/bin/psr run -f examples/demo/run.yaml --workdir $(OUT)/work $(MOUNT)
	$(CPU)/bin/psr report $(REPORTS)/demo/report/m4 $(MOUNT) --to $(OUT)

demo-control: demo ## the demo again from its M1 with random and with inverted verdicts
	$(CPU)/bin/psr run -f examples/demo/control-random.yaml --workdir $(OUT)/work-random $(MOUNT)
	$(CPU)/bin/psr run -f examples/demo/control-inverted.yaml --workdir $(OUT)/work-inverted $(MOUNT)
	$(CPU)/bin/psr report $(REPORTS)/demo/report/m4 $(MOUNT) --to $(OUT) \
	  --control random=$(REPORTS)/demo-random/report/m4 --control inverted=$(REPORTS)/demo-inverted/report/m4

demo-seeds: $(CPU)/ready ## the demo with seeds 0 to 4, and their table (about half an hour)
	$(CPU)/bin/python examples/demo/seeds.py --out out/demo-seeds --seeds 0 1 2 3 4

test: $(UV) ## all tests: style, types, layers, units, a real vLLM, a real S3 server, a real control plane
	$(PYTHON) harness/steps.py test

pytest: $(DEV)/ready $(CONTROL)/ready # the part of `make test` that pytest runs; a worker more than two cores have, as tests wait a lot
	$(DEV)/bin/python -m pytest -n $(WORKERS) --max-worker-restart 0

control-plane: $(CONTROL)/ready ## build kube-apiserver and its kin for the tests (once a machine, in the user's cache)
	$(PYTHON) harness/control_plane/build.py

test-quick: $(DEV)/ready ## the tests that start no vLLM
	$(DEV)/bin/python -m pytest -n $(WORKERS) -m "not engine and not cluster"

cluster-prepare: $(DEV)/ready $(CONTROL)/ready # packages, programs and images of `make test-cluster`, made before (root on Linux)
	$(DEV)/bin/python -m tests.cluster.tier --prepare

test-cluster: $(DEV)/ready $(CONTROL)/ready ## the tests on a real node: pods, images, Helm, S3 (root on Linux; or PSR_TEST_KUBECONFIG)
	$(DEV)/bin/python -m tests.cluster.tier

cluster-up: $(DEV)/ready $(CONTROL)/ready ## start a Kubernetes node on this machine (root on Linux); says what it does before
	$(DEV)/bin/python -m harness.node.node up

cluster-down: $(DEV)/ready ## end it and take away what it made
	$(DEV)/bin/python -m harness.node.node down

images: ## build the container images with docker, or with buildah as root
	$(PYTHON) images/build.py

bench-operator: $(DEV)/ready $(CONTROL)/ready ## the operator against a plain kopf one, and with more objects (out/bench/operator.json)
	$(DEV)/bin/python harness/control_plane/build.py
	$(DEV)/bin/python -m benchmarks.operator

bench-s3: $(DEV)/ready .venv/bench-s3/ready ## our S3 transfer against awscli, boto3, awscrt and obstore (out/bench/s3.json)
	$(DEV)/bin/python -m benchmarks.s3

bench-scale: $(DEV)/ready $(CONTROL)/ready ## the operator with 200 runs on simulated nodes (out/bench/scale.json)
	$(DEV)/bin/python harness/control_plane/build.py kube-apiserver kube-controller-manager kube-scheduler kubectl
	$(DEV)/bin/python -m benchmarks.scale

bench-search: $(DEV)/ready ## the search through a server against an offline replay of its requests (out/bench/search.json)
	$(DEV)/bin/python -m benchmarks.search

lint: $(DEV)/ready ## ruff, mypy --strict, import contracts
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports

format: $(DEV)/ready ## format the code
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .

crds: $(DEV)/ready ## write crds/ anew from the models, and the rights of the operator
	$(DEV)/bin/psr crds --to crds
	$(DEV)/bin/psr crds --to charts/psr/charts/psr-crds/files
	$(DEV)/bin/python -m psr_operator.controller.rbac charts/psr/files/rules.yaml

reasons: $(DEV)/ready ## write the table of reasons in docs/operator.md anew
	PSR_WRITE_GOLDEN=1 $(DEV)/bin/python -m pytest -q tests/docs/test_reasons_page.py

house-picture: $(DEV)/ready ## draw docs/house.svg anew from the import contracts
	$(DEV)/bin/python -m harness.house_picture

verify: $(DEV)/ready ## regenerate the CRDs, the table of reasons, the picture of the house and the locks and fail on a difference
	$(MAKE) --no-print-directory crds
	$(MAKE) --no-print-directory reasons
	$(MAKE) --no-print-directory house-picture
	$(MAKE) --no-print-directory lock
	git diff --exit-code crds charts docs/house.svg docs/operator.md requirements

lock: $(UV) ## write the hashed locks in requirements/ anew
	for name in operator gpu; do $(UV) pip compile -q pyproject.toml requirements/build.in --extra $$name $(LOCK) -o requirements/$$name.txt; done
	for name in cpu dev; do $(UV) pip compile -q pyproject.toml requirements/build.in --extra $$name $(LOCK) \
	  --override requirements/overrides.txt -o requirements/$$name.txt; done
	$(UV) pip compile -q pyproject.toml requirements/build.in --extra runtime $(LOCK) -c requirements/cpu.txt \
	  -o requirements/runtime.txt
	for name in uv build control-plane bench-s3; do \
	  $(UV) pip compile -q requirements/$$name.in $(LOCK) -o requirements/$$name.txt; done
LOCK := --generate-hashes --no-emit-index-url --no-emit-package psr --universal --python-version 3.11 \
  --custom-compile-command "make lock"

clean: ## remove the environments and everything the demo wrote
	rm -rf .venv out

# --- environments and data: made once, again when their locks change

$(UV): requirements/uv.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "PSR needs Python 3.11 or newer: make PYTHON=…")'
	$(PYTHON) -m venv .venv/uv
	.venv/uv/bin/python -m pip install -q --require-hashes -r requirements/uv.txt
	@touch $@

$(CPU)/ready: requirements/cpu.txt pyproject.toml | $(UV)
	$(call environment,$(CPU),cpu,6)

$(DEV)/ready: requirements/dev.txt pyproject.toml | $(UV)
	$(call environment,$(DEV),dev,6)

$(GPU)/ready: requirements/gpu.txt pyproject.toml | $(UV)
	$(call environment,$(GPU),gpu,10)

$(CONTROL)/ready: requirements/control-plane.txt | $(UV)
	@flock $(CONTROL).lock sh -ec '$(UV) venv -q --allow-existing --python $(PYTHON) $(CONTROL); \
	  VIRTUAL_ENV=$(CONTROL) $(UV) pip sync -q --require-hashes requirements/control-plane.txt'
	@touch $@

.venv/bench-s3/ready: requirements/bench-s3.txt | $(UV)
	$(UV) venv -q --allow-existing --python $(PYTHON) .venv/bench-s3
	VIRTUAL_ENV=.venv/bench-s3 $(UV) pip sync -q --require-hashes requirements/bench-s3.txt
	@touch $@

# Two makes beside each other wait for one another here, and the second one has nothing left to install.
define environment
@echo "installing $(2) into $(1) (about $(3) GB, once)"
@flock $(1).lock sh -ec '$(UV) venv -q --allow-existing --python $(PYTHON) $(1); export VIRTUAL_ENV=$(1); \
  $(UV) pip sync -q --require-hashes requirements/$(2).txt; $(UV) pip install -q --no-deps --no-build-isolation -e .'
@touch $@
endef

$(OUT)/volume/input/about.json: examples/demo/make_data.py | $(CPU)/ready
	$(CPU)/bin/python examples/demo/make_data.py --out $(OUT)/volume/input
