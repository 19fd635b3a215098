# OneVision: everything a developer runs. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed
ENGINE ?= $(shell command -v podman || command -v docker)
# uv takes a local wheel folder (for a CPU build of torch, say) by another variable than pip does.
UV := $(if $(PIP_FIND_LINKS),UV_FIND_LINKS="$(PIP_FIND_LINKS)") $(BIN)/uv

.PHONY: help setup demo smoke test test-fast lint format compile manifests-check images smoke-images fuzz bench bench-pairing bench-quantizer bench-decoding bench-training bench-serving bench-crop bench-features bench-validation lock

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with the locked dependencies (Python 3.11+, git and make are enough)

$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $$(command -v $(PYTHON) || command -v python3) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

demo: setup ## the whole method on the synthetic shop (about eight minutes on two cores)
	$(BIN)/onevision run full-training --recipe quickstart

smoke: setup ## every stage, very small (about two minutes on one core)
	$(BIN)/onevision run full-training --recipe smoke

test: setup ## all tests
	$(BIN)/pytest -n 2 --dist loadfile

test-fast: setup ## tests without whole pipelines
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

lint: setup ## style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/hadolint images/Containerfile

format: setup ## put the formatting right
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

compile: setup ## compile the pipelines and the components' tables
	$(BIN)/python -m pipelines.compile
	$(BIN)/python -m components.readme

manifests-check: setup ## render the cluster's overlays; check schemas of three Kubernetes versions and the policies
	$(BIN)/python -m manifests.check

# A CPU build of torch, or other local wheels, come from the folder that pip takes them from.
WHEELS := $(if $(PIP_FIND_LINKS),--volume "$(PIP_FIND_LINKS):/wheels:ro" --build-arg FIND_LINKS=/wheels)
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
LABELS = --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(shell git rev-parse HEAD)

images: ## build the images onevision-train and onevision-serve (podman or docker)
	@for target in train serve; do \
	  $(ENGINE) build -f images/Containerfile --target $$target -t localhost/onevision-$$target:$(VERSION) $(LABELS) $(WHEELS) . ; done

smoke-images: setup ## the smoke pipeline inside the built images, a container a task (DOCKER_HOST names the engine's socket)
	$(BIN)/python -m images.smoke --tag $(VERSION)

fuzz: setup ## ten thousand bodies from Schemathesis to the server
	$(BIN)/pytest tests/unit/serving/test_fuzzed_bodies.py --bodies 10000 -s

bench: bench-pairing bench-quantizer bench-decoding bench-training bench-features bench-validation bench-serving bench-crop ## all of the following, one after the other

bench-pairing: setup ## a click log of 20 million events on DuckDB beside pandas (ten minutes, 5 GB)
	$(BIN)/python benchmarks/bench_pairing.py --out docs/results/pairing.json

bench-quantizer: setup ## residual k-means against faiss: CPU seconds, error, share of the matrix rate, memory
	$(BIN)/python benchmarks/bench_quantizer.py --out docs/results/quantizer.json

bench-decoding: setup ## constrained beam search beside transformers' generate: ms a query, split, memory of the trie
	$(BIN)/python benchmarks/bench_decoding.py --sweep --repeats 12 --out docs/results/decoding.json

bench-training: setup ## training of the generator beside transformers.Trainer: samples a second, share of the matrix rate
	$(BIN)/python benchmarks/bench_training.py --out docs/results/training.json

bench-serving: setup ## the server under load: batches or none, generator or cascade, overload (five minutes, after a demo)
	$(BIN)/python benchmarks/bench_serving.py --out docs/results/serving.json

bench-crop: setup ## searching by whole photos, by their middle, and by the crop that the page proposes (a minute, after a demo)
	$(BIN)/python benchmarks/bench_crop.py runs/latest --out docs/results/crop.json

bench-features: setup ## user sequences: the point-in-time join, and reading a user from SQLite and Redis (a minute)
	$(BIN)/python benchmarks/bench_features.py --events 500000 --users 10000 --queries 50000 --out docs/results/features.json

bench-validation: setup ## a log of 10 million events beside Great Expectations on pandas (three minutes, 5 GB)
	$(BIN)/python benchmarks/bench_validation.py --out docs/results/validation.json

lock: setup ## resolve the dependencies again
	$(UV) pip compile --quiet pyproject.toml --all-extras --no-header --no-annotate \
	  | sed 's/+cpu$$//' > requirements.lock.new
	mv requirements.lock.new requirements.lock
