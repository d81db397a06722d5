# The interpreter that creates .venv, and extra options for pip (an index with small builds of torch, say).
PYTHON ?= python3
PIP_FLAGS ?=
# Test processes; each runs torch with its own default threads.
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.steepest-installed
PEERS := .venv-peers
PEERS_LAYERS := .venv-peers-layers
DOCS_STAMP := $(VENV)/.steepest-docs-installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup test slow audit lint format bench bench-bounds bench-networks bench-resnet bench-lower bench-conv bench-scaling bench-regions bench-exact bench-local bench-local-l2 bench-overhead bench-curvature bench-layers bench-diagnosis bench-fixes bench-distributed bench-verdicts bench-monitors bench-race docs clean

help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv and install steepest with its development tools

test: $(STAMP) ## run the tests, without the slow ones
	$(BIN)/python -m pytest -n $(JOBS)

slow: $(STAMP) ## run the slow tests alone
	$(BIN)/python -m pytest -n $(JOBS) -m slow

audit: $(STAMP) ## audit the embedded example: writes report.html, audit.json and certificate.json into ./audit/
	$(BIN)/steepest audit -o audit

lint: $(STAMP) ## check style, types and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

format: $(STAMP) ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## run the coverage benchmark
	$(BIN)/python benchmarks/coverage.py

bench-bounds: $(STAMP) $(PEERS)/.installed ## compare the bounds with other solvers (in an environment of their own)
	$(BIN)/python benchmarks/bounds.py --peers $(PEERS)/bin/python --repeat 5 -o benchmarks/results/bounds.md

bench-networks: $(STAMP) ## global bounds of real networks, method by method, against the product of norms
	$(BIN)/python benchmarks/networks.py -o benchmarks/results/networks.md

bench-resnet: $(STAMP) ## global bounds of ResNet-18, CIFAR and ImageNet shape, random and briefly trained
	$(BIN)/python benchmarks/resnet18.py -o benchmarks/results/resnet18.md

bench-lower: $(STAMP) ## what the search for steep pairs finds, per network and seed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/lower.py --seeds 3 --out benchmarks/results/lower.md

bench-conv: $(STAMP) ## norms of convolutions beside the Gram iteration and the SVD of all frequencies
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/conv_norms.py -o benchmarks/results/conv_norms.md

bench-scaling: $(STAMP) ## time of the bounds against neurons and against depth
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/scaling.py

bench-curvature: $(STAMP) $(PEERS)/.curvature-installed ## the largest Hessian eigenvalue beside curvlinops with eigsh
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/curvature.py --peers $(PEERS)/bin/python -o benchmarks/results/curvature.md

bench-fixes: $(STAMP) ## how much of the gap to the repaired scripts the recommended fixes close
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fixes.py -o benchmarks/results/fixes.md

bench-regions: $(STAMP) ## bounds over smaller regions of deep networks
	$(BIN)/python benchmarks/regions.py -o benchmarks/results/regions.md

bench-local: $(STAMP) ## local linf constants of small networks, and linear bounds of every operator
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/local.py -o benchmarks/results/local.md

bench-local-l2: $(STAMP) ## local l2 constants of the embedded digits network around 100 test inputs
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/local_l2.py -o benchmarks/results/local_l2.md

bench-exact: $(STAMP) ## exact constants of small networks beside the values that LipBaB published
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/exact.py -o benchmarks/results/exact.md

bench-diagnosis: $(STAMP) ## root causes found, missed and imagined, over folders of faulty and healthy scripts
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/diagnosis.py -o benchmarks/results/diagnosis.md

bench-overhead: $(STAMP) ## time of a training step with the default probes over one without, paired
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/overhead.py -o benchmarks/results/overhead.md

bench-distributed: $(STAMP) ## speed-up against workers in the simulator; accuracy of four real processes
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/distributed.py --jobs $(JOBS) -o benchmarks/results
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/distributed_accuracy.py -o benchmarks/results/distributed_accuracy.md

bench-verdicts: $(STAMP) ## verdicts of the convergence monitor beside what becomes of the runs: each twentieth case, EVERY=1 for all
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/verdicts.py --every $(or $(EVERY),20)

bench-monitors: $(STAMP) ## time of a training step with the default convergence monitors over one without
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/monitor_overhead.py

bench-race: $(STAMP) ## races over seeds of the protocol, and a performance profile over tasks
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/race.py --jobs $(JOBS) -o benchmarks/results/race.md

bench-layers: $(STAMP) $(PEERS_LAYERS)/.installed ## layers of norm one beside deel-torchlip and orthogonium (in an environment of their own)
	OMP_NUM_THREADS=1 $(PEERS_LAYERS)/bin/python benchmarks/constrained_layers.py -o benchmarks/results/constrained_layers.md

# What they depend on must not get into .venv.
$(PEERS_LAYERS)/.installed: benchmarks/layers-peers.txt constraints.txt
	"$(PYTHON)" -m venv $(PEERS_LAYERS)
	$(PEERS_LAYERS)/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt -r benchmarks/layers-peers.txt
	@touch $@

$(PEERS)/.installed: benchmarks/peers.txt
	"$(PYTHON)" -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install $(PIP_FLAGS) -r benchmarks/peers.txt
	@touch $@

$(PEERS)/.curvature-installed: benchmarks/curvature-peers.txt constraints.txt | $(PEERS)/.installed
	$(PEERS)/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt -r benchmarks/curvature-peers.txt
	@touch $@

docs: $(DOCS_STAMP) ## build the documentation into ./site/
	NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict

clean: ## remove what the other targets made, .venv included
	rm -rf $(VENV) $(PEERS) $(PEERS_LAYERS) audit build dist site .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "steepest needs Python 3.11 or newer, and there is no '$(PYTHON)': make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "steepest needs Python 3.11 or newer; '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1): make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
		echo "'$(PYTHON)' cannot create a virtual environment: install its venv module (Debian: python3-venv)" >&2; exit 1; }

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $@

$(DOCS_STAMP): pyproject.toml constraints.txt | $(STAMP)
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[docs]'
	@touch $@
