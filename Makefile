# The environment comes from requirements.lock and is made again only when that or pyproject.toml changes.
# Two spinning OpenMP threads on a busy machine cost seconds a step: wait passively.
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 0

PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
RUN := .venv/bin/medvlm-r1
JOBS ?= 2
STAMP := .venv/.set-up

.PHONY: setup lint test wheel demo demo-quick study real bench clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "medvlm-r1 needs Python 3.11 or newer; install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "setting up .venv from requirements.lock with $(PYTHON): fetches 370 MB with the CPU build of torch (several GB where"
	@echo "your pip index has the CUDA build), takes 2 GB of disk, one to ten minutes; done once"
	@$(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install -q --disable-pip-version-check -r requirements.lock
	@.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
	@echo "done: call .venv/bin/medvlm-r1, or write  source .venv/bin/activate  and then medvlm-r1"

lint: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

wheel: setup
	.venv/bin/python .ci/wheel

# One thread each: two that wait for each other are slower than one. A file's tests share what they train and load.
test: setup
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

demo: setup
	$(RUN) demo

demo-quick: setup
	$(RUN) demo --quick

study: setup
	$(RUN) study

# A base that speaks English, from a folder of labelled pictures (docs/real.md): make real PICTURES=openrad
real: setup
	@test -n "$(PICTURES)" || { echo "make real wants a folder of labelled pictures: make real PICTURES=/path/to/pictures (docs/real.md)" >&2; exit 1; }
	$(RUN) real-base runs/real --pictures "$(PICTURES)"

# Those left out compare with a server, or want a base, that must be there first.
bench: setup
	@mkdir -p runs/bench
	@set -e; for script in $(filter-out $(addprefix benchmarks/,served.py vllm_rollouts.py base_reads.py real_grpo.py),$(wildcard benchmarks/*.py)); do \
		echo "$$script"; .venv/bin/python "$$script" --json "runs/bench/$$(basename "$$script" .py).json"; done

# Keeps runs/, which holds results, and .venv, which takes minutes.
clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
