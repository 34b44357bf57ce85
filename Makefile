# Two commands on a fresh machine: `make demo` and `make test`. Needs Python 3.11 or newer, make and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-browser e2e lock sbom licences check install chaos bench-ablation bench-abuse bench-exactness \
	bench-fanout bench-gaps bench-headline bench-limits bench-nasty bench-overlap bench-page bench-paper bench-requirements \
	bench-rivals bench-service bench-solver bench-swarm clean

SNAPSHOTS ?= benchmarks/snapshots
TIME ?= 60
PROCESSES ?= 1
# One more than there are cores: tests of servers wait for a good part of their time.
TEST_PROCESSES ?= $(shell $(PYTHON) -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))')

demo: $(READY)  ## two minutes: a task where tunnels are worth it, one where they are not, with a pool of its own
	$(BIN)/gdsolver demo --out runs/demo

# One thread each: several processes whose arithmetic takes all cores wait for one another, up to five times as long.
test: $(READY)  ## every test that needs no container engine and no browser
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile -m "not containers and not browser"

e2e: $(READY)  ## the containers, in a Docker engine; GDSOLVER_WHEELS=DIR with a CPU-only torch for the trainer's
	$(BIN)/python -m pytest -m containers tests/e2e

test-browser: $(READY)  ## the pool page in Chromium; needs `pip install playwright` and Debian's chromium
	$(BIN)/python -m pytest -m browser tests/e2e

.PHONY: docs
docs: $(READY)  ## these documents as a site, in site/; strict: a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'site/index.html; with search: $(BIN)/mkdocs serve'

check: $(READY)  ## style, types, import rules, documents
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

chaos: $(READY)  ## a pool that is broken on purpose, and what became of every job
	$(BIN)/python benchmarks/chaos.py --jobs 300 --workers 4 --faults 60 --seed 1 --json benchmarks/results/chaos.json

bench-ablation: $(READY)  ## what each search of the output layer buys; SNAPSHOTS=DIR
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/ablation.py $(SNAPSHOTS)

bench-abuse: $(READY)  ## what abuse of a gateway gets, and what another client feels of it
	$(BIN)/python benchmarks/abuse.py --json benchmarks/results/abuse.json

bench-exactness: $(READY)  ## 10,000 random tiny jobs and 500 hidden blocks against exhaustive search
	$(BIN)/python benchmarks/exactness.py --instances 10000 --seed 1
	$(BIN)/python benchmarks/exactness_blocks.py --instances 500 --seed 1

bench-fanout: $(READY)  ## how busy one trainer keeps 16 simulated workers
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fanout.py --time-s 10 --json benchmarks/results/fanout.json

bench-gaps: $(READY)  ## what is left open after a minute; SNAPSHOTS=DIR, TIME=seconds, OTHER=CHECKOUT to compare
	$(BIN)/python benchmarks/gaps.py $(SNAPSHOTS) $(if $(OTHER),--other $(OTHER)) --time $(TIME) --json benchmarks/results/gaps.json

bench-headline: $(READY)  ## the hybrid against practitioners' best, at the same cost; QUICK=--quick takes minutes; needs GDSOLVER_DATA
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.headline $(QUICK)

bench-paper: $(READY)  ## the paper's regressions, ten seeds, and with GDSOLVER_DATA five tables; PROCESSES=N, two hours with 2
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.headline.paper --processes $(PROCESSES)

bench-limits: $(READY)  ## 500 random jobs: do they end by their limit and their cancel, and is every number finite
	$(BIN)/python benchmarks/limits.py --jobs 500 --json benchmarks/results/limits.json

bench-nasty: $(READY)  ## 3,500 tiny jobs in odd units, of odd weights, with ties and empty columns
	$(BIN)/python benchmarks/nasty.py --instances 3500 --seed 1

bench-overlap: $(READY)  ## what a slow pool costs the training loop
	$(BIN)/python benchmarks/overlap.py

bench-page: $(READY)  ## what the pool page weighs, and whether 10,000 jobs make it stall; needs Playwright and Chromium
	$(BIN)/python benchmarks/page.py --json benchmarks/results/page.json

bench-requirements: $(READY)  ## floors and gaps against practitioners' best, at the same cost; QUICK=--quick has one seed; needs GDSOLVER_DATA
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.requirements $(QUICK)

bench-rivals: $(READY)  ## jobs against what an expert would script, in turns; SNAPSHOTS=DIR
	$(BIN)/python benchmarks/rivals.py $(SNAPSHOTS)

bench-service: $(READY)  ## the service against its parts: round trips, uploads, waiting, scaling
	$(BIN)/python benchmarks/service.py --json benchmarks/results/service.json

bench-solver: $(READY)  ## the solver against its alternatives; SNAPSHOTS=DIR, TIME=seconds
	$(BIN)/python benchmarks/solver.py $(SNAPSHOTS) --time $(TIME)

bench-swarm: $(READY)  ## up to 1,000 simulated workers: what a client, the gateway and Redis feel of them
	$(BIN)/python benchmarks/swarm.py --json benchmarks/results/swarm.json

install: $(READY)

UV := $(VENV)/tools/bin/uv

lock: $(UV)  ## docker/*.lock anew: by hash what the images install, from pyproject.toml and constraints.txt
	$(BIN)/python docker/lock.py $(abspath $(UV))

sbom: $(UV)  ## dist/sbom/*.cdx.json: what is in each image, as CycloneDX
	mkdir -p dist/sbom
	for image in gateway worker trainer torch; do \
	  PYTHONWARNINGS=ignore $(UV) tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements docker/$$image.lock \
	    --pyproject pyproject.toml --output-reproducible --output-file dist/sbom/$$image.cdx.json || exit 1; done

licences: $(UV)  ## dist/licences.md: under which licence each installed package is
	mkdir -p dist
	$(UV) tool run --quiet --from pip-licenses==5.5.5 pip-licenses --python $(BIN)/python --from mixed --with-urls \
	  --format markdown --output-file dist/licences.md

$(UV): $(READY)
	$(PYTHON) -m venv $(VENV)/tools
	$(VENV)/tools/bin/python -m pip install --quiet uv==0.13.9
	touch $@

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs site
