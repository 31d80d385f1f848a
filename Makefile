# The commands of this project. They need python3 (3.11 or newer), python3-venv and make, nothing else.
PYTHON ?= python3
PY := .venv/bin/python
SOURCES := saas tenants inference billing benchmarks

.PHONY: run restart status stop test test-gpu drill bench calm lint format lock lock-peers venv clean reset

run:  ## set up everything and serve at http://127.0.0.1:8000 (PORT=… for another port)
	@$(PYTHON) saas/local/install.py && exec $(PY) -m saas.local run

restart status stop:  ## of the running service; restart replaces its parts without a failed call
	@$(PYTHON) saas/local/install.py && exec $(PY) -m saas.local $@

reset:  ## delete the local service's data
	@$(PYTHON) saas/local/install.py && exec $(PY) -m saas.local reset

test: venv  ## all tests, in two processes; or some: make test ARGS="tests/tenants -k keys"
	@exec $(PY) -m pytest $(or $(ARGS),-n 2)

test-gpu: venv  ## the engine on an NVIDIA device, against the CPU's answers
	@exec $(PY) -m pytest -rs tests/gpu $(ARGS)

drill: venv  ## faults in every part under load, then the books: ARGS="--seed 7 --faults 200 --calls 500000"; see docs/reliability.md
	@exec $(PY) -m tests.drill $(ARGS)

bench: venv  ## side by side with other model servers; three to four hours, with ARGS="--quick" half of one
	@exec $(PY) -m benchmarks $(ARGS)

calm: venv  ## overload, greed, slow models and clients, changes under load, an hour's soak; ARGS="--quick" for minutes
	@exec $(PY) -m benchmarks.calm $(ARGS)

lint: venv  ## style, types, layers, YAML, container files
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	DEBUG=1 $(PY) -m mypy $(SOURCES)
	.venv/bin/lint-imports
	.venv/bin/yamllint --strict docker
	.venv/bin/hadolint docker/Dockerfile*
	.venv/bin/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml

format: venv
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

lock:  ## newest versions into both lock files, with hashes
	@set -e; tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	$(PYTHON) -m venv $$tools && $$tools/bin/pip install --quiet uv; \
	compile="$$tools/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade"; \
	$$compile requirements.in -o requirements.txt; \
	$$compile requirements-dev.in -o requirements-dev.txt

lock-peers:  ## newest versions into the lock files of the benchmark's peers; nvidia-pytriton's own dependencies are not needed
	@set -e; tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	$(PYTHON) -m venv $$tools && $$tools/bin/pip install --quiet uv; cd benchmarks/requirements; \
	for peer in bento litserve mlserver ray triton; do \
	  if [ $$peer = triton ]; then alone=--no-deps; else alone=; fi; \
	  $$tools/bin/uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_35 --generate-hashes \
	    --no-header --no-annotate --upgrade $$alone $$peer.in -o $$peer.txt; \
	done

venv:
	@$(PYTHON) saas/local/install.py --dev

clean:  ## delete what can be made again: the virtual environment and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
