# Everything needs only make and a Python >= 3.11; the first target that runs makes the environment.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
            command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH ?= control_step render
TESTERS ?= 2

.PHONY: help setup demo test test-client test-slow lint format docs results notebook bench bench-control_step bench-render bench-rt1_peer bench-eval_peer bench-dt_peer bench-offline_rl_peer bench-loader_peer bench-train_gpu bench-serve bench-openpi interop interop-312 lock lock-libero audit libero clean

help:
	@grep -E '^[a-z0-9_-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | column -t -s "$$(printf '\t')"

setup: $(READY)  ## make the virtual environment and check that rendering works

$(READY): requirements.lock pyproject.toml scripts/install_rendering.sh
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 found; install one, or run: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@sh scripts/install_rendering.sh $(BIN)/python
	@touch $@

demo: $(READY)  ## episodes with detours, RT-1 cloned from them, offline RL and its controls, on the same starts
	$(BIN)/vla demo --out runs/demo

# compiled files are kept, whatever the environment says: tests start this package many times
test: $(READY)  ## the test suite (8 minutes on 2 quiet cores of a recent EPYC)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder

test-slow: $(READY)  ## tests that learn for minutes
	$(BIN)/python -m pytest -m slow --timeout 3000

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## the documentation as a site in site/, strictly: broken links and missing docstrings fail
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean

results: $(READY)  ## write the numbers of docs/ and README.md from benchmarks/results/
	$(BIN)/python -m scripts.results

notebook: $(READY)  ## execute the notebooks of docs/ and keep their outputs
	$(BIN)/python -m scripts.docs.run_notebook

bench: $(addprefix bench-,$(BENCH))  ## the benchmarks that need nothing else installed

bench-control_step bench-render bench-train_gpu: bench-%: $(READY)
	$(BIN)/python benchmarks/$*.py

INTEROP := .venv-interop
PEER := .venv-peer

$(INTEROP)/.ready:
	python3.11 -m venv $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check "lerobot==0.4.4"
	@touch $@

$(PEER)/.ready: $(READY)
	test -x $(PEER)/bin/python || $(PYTHON) -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check robotic-transformer-pytorch==0.2.3 \
	  torch=="$$($(BIN)/python -c 'import torch; print(torch.__version__.split("+")[0])')"
	@touch $@

bench-rt1_peer: $(READY) $(PEER)/.ready  ## against robotic-transformer-pytorch, in an environment of its own
	$(BIN)/python benchmarks/rt1_peer.py

# the same simulator, and what our network needs besides lerobot's own dependencies
$(INTEROP)/.network: $(READY) $(INTEROP)/.ready
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check \
	  $$($(BIN)/python -m pip freeze | grep -iE '^(metaworld|mujoco|gymnasium)==')
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  $$($(BIN)/python -m pip freeze | grep -iE '^(timm|jaxtyping|wadler.lindig)==')
	@touch $@

bench-eval_peer: $(READY) $(INTEROP)/.network  ## against the evaluation of lerobot 0.4.4, in an environment of its own
	$(BIN)/python benchmarks/eval_peer.py

bench-loader_peer: $(READY) $(INTEROP)/.ready  ## against the loading of lerobot 0.4.4, in an environment of its own
	$(BIN)/python benchmarks/loader_peer.py

bench-serve: $(READY)  ## robots that one policy server holds, against one that blocks
	$(BIN)/python benchmarks/serve.py

OPENPI := .venv-openpi

# typing_extensions: openpi-client needs it and does not say so; websockets 18 takes away what it calls
$(OPENPI)/.ready:
	python3.11 -m venv $(OPENPI)
	$(OPENPI)/bin/python -m pip install --quiet --disable-pip-version-check openpi-client==0.1.2 typing_extensions "websockets<18"
	@touch $@

bench-openpi: $(READY) $(OPENPI)/.ready  ## openpi's unmodified client plays tabletop through `vla serve` (POLICY=folder)
	$(BIN)/python benchmarks/openpi_interop.py $(if $(POLICY),--policy $(POLICY))

D3RLPY := .venv-d3rlpy
POLICIES ?= data/policies

# the same torch and the same simulator: d3rlpy asks for an older gymnasium, and is given ours in its place
$(D3RLPY)/.ready: $(READY)
	test -x $(D3RLPY)/bin/python || $(PYTHON) -m venv $(D3RLPY)
	$(D3RLPY)/bin/python -m pip install --quiet --disable-pip-version-check d3rlpy==2.8.1 \
	  $$($(BIN)/python -m pip freeze | grep -iE '^(mujoco|imageio)==') \
	  torch=="$$($(BIN)/python -c 'import torch; print(torch.__version__.split("+")[0])')"
	$(D3RLPY)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  $$($(BIN)/python -m pip freeze | grep -iE '^gymnasium==')
	@touch $@

bench-dt_peer: $(READY) $(D3RLPY)/.ready  ## against d3rlpy's Decision Transformer, in an environment of its own (POLICIES=folder of snapshots)
	$(BIN)/python benchmarks/dt_peer.py --policies $(POLICIES)

bench-offline_rl_peer: $(READY) $(D3RLPY)/.ready  ## against d3rlpy's offline RL on nine locomotion sets (POLICIES=folder of snapshots)
	$(BIN)/python benchmarks/offline_rl_peer.py --policies $(POLICIES) --threads 1 --clock cpu

# the Pythons of robots: ROS 2 Humble and JetPack have 3.10, older ones 3.8; openpi's own client beside ours where it installs
CLIENT_PYTHONS ?= $(or $(wildcard $(foreach v,3.8 3.10,$(HOME)/.pyenv/versions/$(v).*/bin/python)), \
  $(shell for p in python3.8 python3.10; do $$p -c '' 2>/dev/null && echo $$p; done))

test-client:  ## the client's tests on old Pythons, installed alone (CLIENT_PYTHONS=interpreters)
	@test -n "$(strip $(CLIENT_PYTHONS))" || { echo "error: no Python 3.8 or 3.10 found; run: make test-client CLIENT_PYTHONS=/path/to/python3.10"; exit 1; }
	for python in $(CLIENT_PYTHONS); do sh scripts/test_client.sh $$python || exit 1; done

PLUGIN := ./integrations/lerobot_policy_vla ./tests/interop/lerobot_robot_vla_fake

# lerobot 0.4.4 cannot be imported beside transformers 5
$(INTEROP)/.plugin: $(INTEROP)/.ready pyproject.toml $(shell find integrations tests/interop -name '*.py' -o -name pyproject.toml)
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check -e . "lerobot==0.4.4" "transformers<5"
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(PLUGIN)
	@touch $@

interop: $(READY) $(INTEROP)/.plugin  ## the real lerobot reads our datasets, runs our policies, and we read its (needs Python 3.11)
	rm -rf runs/interop
	$(BIN)/vla collect configs/metaworld_mt10.yaml 'env.tasks=[reach, drawer-open]' env.image_size=64 \
	  episodes_per_task=2 out=runs/interop/dataset
	$(BIN)/python tests/interop/run.py --lerobot-python $(INTEROP)/bin/python --dataset runs/interop/dataset
	$(BIN)/python tests/interop/plugin.py --lerobot-python $(INTEROP)/bin/python

# LeRobot 0.6 runs policies by another command, on Python 3.12 alone; its torch is that of CUDA, some 3 GB
PYTHON312 ?= $(or $(lastword $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python)),python3.12)
INTEROP312 := .venv-interop-312

$(INTEROP312)/.ready: pyproject.toml $(PLUGIN)
	$(PYTHON312) -m venv $(INTEROP312)
	$(INTEROP312)/bin/python -m pip install --quiet --disable-pip-version-check -e . "lerobot==0.6.1"
	$(INTEROP312)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(PLUGIN)
	@touch $@

interop-312: $(READY) $(INTEROP312)/.ready  ## the plugin under lerobot-rollout of lerobot 0.6.1 (needs Python 3.12)
	$(BIN)/python tests/interop/plugin.py --lerobot-python $(INTEROP312)/bin/python --script lerobot-rollout

lock:  ## resolve requirements.lock again, keeping its pins where they still fit (needs uv)
	uv pip compile pyproject.toml --extra all --extra dev --extra docs --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate --no-emit-index-url --output-file requirements.lock

lock-libero: $(READY)  ## resolve requirements-libero.lock again: what vla[libero] adds to requirements.lock (needs uv)
	$(BIN)/python -m scripts.libero_lock

AUDIT := .venv-audit

# asks PyPI itself: a mirror of it knows no vulnerabilities
audit:  ## known vulnerabilities of what requirements.lock pins, by pip-audit in an environment of its own
	test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && \
	  $(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	$(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes -r requirements.lock

libero: $(READY)  ## add LIBERO with its meshes (1.2 GB on disk) to the virtual environment
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-libero.lock

clean:
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
