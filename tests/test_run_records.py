# SPDX-License-Identifier: Apache-2.0
"""Records from a params file to figures: training goes on, and Google's figures come out."""

import json
import math

import pytest

from common.checkpoints import store
from common.reports.listener import Listeners
from common.signals import Control
from common.training.checks import set_up
from common.training.evaluator import Evaluator
from common.training.inference import Inference
from common.training.trainer import Trainer
from session import open_session
from tests.reference.toy_records import DYNAMIC, PAIRS, STATIC, read_params, write_records
from tests.reference.toy_session import AtCall, bits_of
from utils import get_params


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    write_records(folder)
    return folder


def train(folder, processor, model_dir, *listeners, control=None, **keys):
    """Trains as run.py does. Returns the Result."""
    keys = {"runconfig__model_dir": str(model_dir), "runconfig__compile_cache_dir": False} | keys
    session = open_session(read_params(folder, processor, **keys))
    set_up(session.run)
    return Trainer(session, session.new_model(), Listeners(listeners), control).train()


SLOW = [pytest.param(processor, marks=pytest.mark.slow) for processor in (STATIC, DYNAMIC)]


@pytest.mark.parametrize("processor", [PAIRS, *SLOW])
def test_every_processor_trains_and_scores_its_records(processor, folder, tmp_path):
    result = train(folder, processor, tmp_path, runconfig__max_steps=2)
    assert result.step == 2
    figures = result.figures
    assert figures["eval/accuracy_masked_lm"] >= 0
    # Fresh weights know nothing: ln 31 for each word, and ln 2 for each pair.
    assert math.log(figures["eval/mlm_perplexity"]) == pytest.approx(3.43, abs=0.2)
    assert ("eval/accuracy_cls" in figures) == (processor == PAIRS)


def test_a_stopped_training_on_records_ends_with_the_same_bits(folder, tmp_path):
    keys = {"runconfig__max_steps": 7, "train_input__packing": "packed", "mode": "train"}
    train(folder, DYNAMIC, tmp_path / "whole", **keys)
    control = Control()
    stop = AtCall("on_step", 3, lambda: control.request_stop(15))
    assert train(folder, DYNAMIC, tmp_path / "parts", stop, control=control, **keys).step == 3
    assert train(folder, DYNAMIC, tmp_path / "parts", **keys).step == 7
    whole, parts = (store.newest_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert bits_of(whole) == bits_of(parts)


@pytest.mark.parametrize("name, packing", [("single_piece", "packed"), ("whole_word", "buckets")])
def test_googles_checkpoint_has_googles_figures_on_googles_records(
    name, packing, shared_dir, tmp_path
):
    folder = shared_dir / "fixtures" / "google_pretraining_data"
    path = tmp_path / "params.yaml"
    path.write_text(
        "eval_input:\n"
        f"  data_dir: {folder / name}\n"
        f"  vocab_file: {shared_dir / 'vocab' / 'bert_uncased_vocab.txt'}\n"
        f"  data_processor: {PAIRS}\n  packing: {packing}\n"
        "  max_sequence_length: 64\n  max_predictions_per_seq: 10\n  batch_size: 48\n"
        "model: {}\n"
    )
    run = {"mode": "eval", "model_dir": str(tmp_path), "compile_cache_dir": False}
    run["checkpoint_path"] = str(folder / "checkpoint")
    session = open_session(get_params(path, {f"runconfig.{key}": run[key] for key in run}))
    set_up(session.run)
    evaluator = Evaluator(Inference(session, session.new_model(), Listeners()))
    figures = evaluator.evaluate_checkpoint().figures
    expected = json.loads((folder / "evaluation.json").read_text())["runs"][name]["metrics"]
    masked_lm_loss = math.log(figures["eval/mlm_perplexity"])
    # Means of float32 losses of 3,400 words.
    assert {
        "masked_lm_accuracy": figures["eval/accuracy_masked_lm"],
        "masked_lm_loss": masked_lm_loss,
        "next_sentence_accuracy": figures["eval/accuracy_cls"],
        "next_sentence_loss": figures["loss"] - masked_lm_loss,
    } == pytest.approx(expected, abs=1e-5)
