# Everything runs in .venv; each target installs what it needs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DIGITS := examples/digits/digits

.DEFAULT_GOAL := help
.PHONY: help bench demo test test-slow test-accel test-compress soak lock peers phone board lab bundle check fix protos protos-check clean

help:  ## This list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

bench: $(VENV)/.bench  ## Install, and compare the digits models on this machine.
	$(BIN)/bench --device local --workload examples/digits.py \
	  --model $(DIGITS)-float.tflite --model $(DIGITS)-int8.tflite \
	  --model $(DIGITS)-float.onnx --model $(DIGITS)-int8.onnx

RECIPES := int8-static int8-dynamic int8-weight int4-weight fp16 int8-qat prune:0.5 prune:0.5+int8-static sparse:0.8 distill

demo: $(VENV)/.compress  ## Train a network, compress it in ten ways, and measure them all here: ten minutes, torch (2 GB).
	$(BIN)/bench --device local --workload examples/digits.py $(addprefix --recipe ,$(RECIPES)) \
	  --goal "accuracy>=-0.5pt,size<=0.3MB"

test: check protos-check  ## Lint, types, wire code, and all tests but the slow ones.
	@$(MAKE) --no-print-directory bundle || echo "Tests of devices without Python will be skipped."
	$(BIN)/python -m pytest tests --numprocesses 5 --dist loadfile --no-loadscope-reorder || $(BIN)/python -m pytest tests $(AGAIN)

# What times processes and links may stall on a busy machine: what failed is run once more, alone and for all to see, and
# has to pass then.
AGAIN := --last-failed --last-failed-no-failures none

test-slow: bundle  ## Tests that take minutes each: boards, phones, faults, a month of nights, patience. No skips but listed ones.
	@$(MAKE) --no-print-directory --jobs 3 slow-devices slow-host slow-faults

# Side by side: what is emulated takes one core, and what waits or sleeps next to none.
FAULTS := tests/faults tests/slow/test_faults.py
HOST := $(foreach one,lab large_models locked_store nights pages patience reasons skips transfers,tests/slow/test_$(one).py)
.PHONY: slow-devices slow-host slow-faults
slow-devices: SLOW := tests/slow $(addprefix --ignore=,$(HOST) $(FAULTS)) -o cache_dir=build/cache/devices
slow-host: SLOW := $(HOST) -o cache_dir=build/cache/host
slow-faults: SLOW := $(FAULTS) -o cache_dir=build/cache/faults
slow-devices slow-host slow-faults: $(VENV)/.dev
	$(BIN)/python -m pytest $(SLOW) || $(BIN)/python -m pytest $(SLOW) $(AGAIN)

SOAK_MINUTES ?= 60
soak: peers $(VENV)/.dev  ## A lab under random faults from a seed, for an hour (SOAK_MINUTES): nothing is lost, nothing grows.
	$(BIN)/python -m tests.faults.soak --minutes $(SOAK_MINUTES)

ACCEL := tests/accel -o cache_dir=build/cache/accel
test-accel: $(VENV)/.dev  ## Tests of NPU and GPU paths, on a simulator and a software Vulkan (300 MB of packages).
	$(BIN)/python -m tests.accel.fetch build/accel
	$(BIN)/python -m pytest $(ACCEL) || $(BIN)/python -m pytest $(ACCEL) $(AGAIN)

# What torch and its company bring warns as it likes.
test-compress: $(VENV)/.compress  ## Tests of compression, which install torch (2 GB).
	$(BIN)/python -m pytest -W default tests/compress

$(VENV)/.compress: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --editable '.[compress]'
	@touch $@

# What the tests run against and pip does not have: Debian's packages, and a command of each.
PEERS := adb openssh-server mmdebstrap qemu-user-static qemu-system-arm patchelf iproute2 mksh busybox toybox postgresql chromium
PEER_COMMANDS := adb sshd mmdebstrap qemu-aarch64-static qemu-system-aarch64 patchelf ip mksh busybox toybox pg_lsclusters chromium
APT := apt-get install --yes --no-install-recommends $(PEERS)

peers:  ## Debian packages that the tests need: install them where that may be done, else say how.
	@PATH=$$PATH:/usr/sbin:/sbin; missing=; \
	for each in $(PEER_COMMANDS); do command -v $$each >/dev/null || missing=$$each; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update --quiet && $(APT); then :; \
	elif command -v apt-get >/dev/null && sudo --non-interactive true 2>/dev/null \
	  && sudo apt-get update --quiet && sudo $(APT); then :; \
	else echo "Some tests will be skipped (no $$missing). To have them: sudo $(APT)"; fi >&2

# Only the device's YAML may be on their stdout: what they need is not a prerequisite.
phone:  ## Run an emulated arm64 phone; its devices.yaml on stdout, until Ctrl-C.
	@$(MAKE) --no-print-directory --silent peers $(VENV)/.bundle >&2
	@exec $(BIN)/python -m tests.peers.phone

board:  ## Run an emulated arm64 board; its devices.yaml on stdout, until Ctrl-C.
	@$(MAKE) --no-print-directory --silent peers $(VENV)/.bundle >&2
	@exec $(BIN)/python -m tests.peers.board

lab:  ## Run a lab of three hosts and twelve devices on this machine; what to type on stdout, until Ctrl-C.
	@$(MAKE) --no-print-directory --silent peers $(VENV)/.dev >&2
	@exec $(BIN)/python -m tests.peers.lab

# Of what goes into it; the wheel names its content, so that nothing is built twice.
$(VENV)/.bundle: bundle/build.py host/pocketbench/deploy/runtimes.lock $(VENV)/.dev
	$(BIN)/python bundle/build.py build/bundle
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall build/bundle/*.whl
	@touch $@

bundle: peers $(VENV)/.bundle  ## The Python for phones, and boards without one, as a wheel in build/bundle.
	@ls build/bundle/*.whl

check: $(VENV)/.dev  ## Format, lint and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy host/pocketbench examples tests benchmarks bundle
	$(BIN)/mypy --config-file agent/pyproject.toml agent/pocketbench_agent

fix: $(VENV)/.dev  ## Format, and mend what ruff can mend.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The generator is an old one on purpose: new stubs refuse older protobuf runtimes on devices.
$(VENV)/.protos:
	$(PYTHON) -m venv $(VENV)/protos
	$(VENV)/protos/bin/python -m pip install --quiet grpcio-tools==1.71.2 mypy-protobuf==3.6.0
	@touch $@

PROTOC = $(VENV)/protos/bin/python -m grpc_tools.protoc -Iprotos \
  --plugin=protoc-gen-mypy=$(VENV)/protos/bin/protoc-gen-mypy \
  --plugin=protoc-gen-mypy_grpc=$(VENV)/protos/bin/protoc-gen-mypy_grpc

protos: $(VENV)/.dev $(VENV)/.protos  ## Generate the wire code again.
	$(PROTOC) --python_out=agent --grpc_python_out=agent --mypy_out=agent --mypy_grpc_out=agent \
	  protos/pocketbench_agent/rpc/agent.proto

protos-check: $(VENV)/.dev $(VENV)/.protos  ## Does the checked-in wire code match its source?
	rm -rf $(VENV)/generated && mkdir $(VENV)/generated
	$(PROTOC) --python_out=$(VENV)/generated --grpc_python_out=$(VENV)/generated \
	  --mypy_out=$(VENV)/generated --mypy_grpc_out=$(VENV)/generated protos/pocketbench_agent/rpc/agent.proto
	for f in $(VENV)/generated/pocketbench_agent/rpc/*; do cmp $$f agent/pocketbench_agent/rpc/$$(basename $$f) || exit 1; done

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.bench: pyproject.toml requirements.lock $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# The hashes of every platform's files, and no index's name. hatchling builds the project itself; uv does not see that
# newer releases of backports-strenum refuse today's Pythons.
lock:  ## Choose the versions of requirements.lock anew.
	$(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install --quiet uv
	printf 'hatchling\neditables\nbackports-strenum<1.3\n' | build/lock/bin/uv pip compile pyproject.toml - --extra local --universal \
	  --python-version 3.11 --generate-hashes --no-annotate --no-header --upgrade --quiet --output-file requirements.lock

$(VENV)/.dev: pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[local,examples,dev]'
	@touch $@ $(VENV)/.bench

clean:  ## Remove what was installed and cached here.
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
