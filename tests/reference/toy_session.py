# SPDX-License-Identifier: Apache-2.0
"""Sessions of a tiny network on toy rows, for tests of training, evaluation and prediction."""

import functools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from common.checkpoints import store
from common.checkpoints.formats import ours
from common.params import Params
from common.reports.evaluation_report import EvaluationReport
from common.reports.listener import Listener, Listeners
from common.reports.listeners import standard_listeners
from common.reports.metrics_file import MetricsFile
from common.reports.prediction_files import EvaluationRows
from common.reports.progress import Console
from common.training.checks import set_up
from common.training.evaluator import Evaluator
from common.training.inference import Inference
from common.training.session import Session
from common.training.trainer import Trainer
from input.rows import Origins
from model import make_model, model_fn
from tests.reference.toy_rows import (
    MAX_SEQUENCE_LENGTH,
    rows_of,
    toy_eval_batches,
    toy_tokens,
    toy_train_batches,
)

VOCAB = ["[PAD]", *(f"word{i}" for i in range(1, 23))]
LABELS = ("without", "with")
TRAIN_ROWS = toy_tokens(23)  # five steps of 4 an epoch, and 3 rows over
SPLITS = {
    "validation_matched": toy_tokens(13, seed=1),
    "validation_mismatched": toy_tokens(8, seed=2),
}


def make_params(model_dir, optimizer=None, model=None, num_buckets=1, **runconfig):
    """Complete Params. optimizer, model, runconfig: values that replace those below.

    num_buckets: int, lengths of the training batches; a step is traced for each.
    """
    params = Params.model_validate(
        {
            "train_input": {
                "data_processor": "Sst2DataProcessor",
                "data_dir": "none",
                "max_sequence_length": MAX_SEQUENCE_LENGTH,
                "batch_size": 4,
                "num_buckets": num_buckets,
            },
            "model": {
                "hidden_size": 6,
                "num_hidden_layers": 1,
                "num_heads": 2,
                "filter_size": 13,
                "dropout_rate": 0.2,
                "attention_dropout_rate": 0.2,
                "cls_dropout_rate": 0.2,
                "mixed_precision": "float32",
            }
            | (model or {}),
            "optimizer": {"learning_rate": 0.01, "weight_decay_rate": 0.1, "max_gradient_norm": 1}
            | (optimizer or {}),
            "runconfig": {
                "model_dir": str(model_dir),
                "tf_random_seed": 5,
                "save_summary_steps": 3,
                "save_checkpoints_steps": 100,
                "mode": "train",
            }
            | runconfig,
        }
    )
    return params.complete(None, {"num_cls_classes": 2, "vocab_size": len(VOCAB)})


def train_input_fn(params, first_step, last_step):
    """Shuffled, in `num_buckets` of the params."""
    batches_of_steps = params.optimizer.accumulation.batches
    steps = batches_of_steps(first_step), batches_of_steps(last_step)
    num_buckets = params.train_input.num_buckets
    batches = toy_train_batches(
        TRAIN_ROWS, 4, *steps, num_buckets=num_buckets, seed=params.shuffle_seed
    )
    return replace(batches, num_per_epoch=5)


def eval_input_fn(params):
    """Batches of 3: neither 13 nor 8 rows fill them up."""
    return {split: toy_eval_batches(tokens, 3) for split, tokens in SPLITS.items()}


def predict_input_fn(params, texts=()):
    texts = {split: [(f"text {i}",) for i in range(len(t))] for split, t in SPLITS.items()}
    batches = {
        split: replace(each, origins=functools.partial(Origins, texts[split]))
        for split, each in eval_input_fn(params).items()
    }
    return batches, texts


DATA = SimpleNamespace(
    train_input_fn=train_input_fn,
    eval_input_fn=eval_input_fn,
    predict_input_fn=predict_input_fn,
    get_text_features=lambda params: SimpleNamespace(texts_per_row=1),
    describe=lambda cfg: "toy rows",
    summarize=lambda params, batches: [],
)


def make_session(params, **values):
    """A Session, with what is global set up as run.py does. values: attributes of Session."""
    set_up(params.runconfig)
    values = {"given_params": params, "label_names": LABELS, "vocab": VOCAB} | values
    network, rows = values.pop("model_fn", model_fn), values.pop("data", DATA)
    return Session(params, make_model, network, rows, **values)


def make_trainer(params, *more_listeners, control=None, draws=False, **values):
    """A Trainer that resumes what is in model_dir.

    draws: bool. With all listeners of a run: plots and TensorBoard take a fifth of such a training.
    values: of Session, and make_step.
    """
    resumed = store.newest_checkpoint(params.runconfig.model_dir)
    make_step = {"make_step": values.pop("make_step")} if "make_step" in values else {}
    session = make_session(params, resumed=resumed, **values)
    kinds = (MetricsFile, EvaluationReport, EvaluationRows)
    reports = Listeners(
        [*(kind(session.model_dir) for kind in kinds), Console(session.run.log_steps)]
    )
    if draws:
        reports = standard_listeners(session.model_dir, session.run.log_steps)
    listeners = Listeners([reports, *more_listeners])
    return Trainer(session, session.new_model(), listeners, control, **make_step)


def train(model_dir, *more_listeners, draws=False, **values):
    """Trains in a process' worth of fresh objects; resumes what is in model_dir. Returns Result.

    draws: as of `make_trainer`; values: of `make_params`.
    """
    params = make_params(model_dir, **values)
    return make_trainer(params, *more_listeners, draws=draws).train()


def make_evaluator(params, **values):
    """An Evaluator of a fresh network, with the standard listeners. values: of Session."""
    session = make_session(params, **values)
    listeners = standard_listeners(session.model_dir, session.run.log_steps)
    return Evaluator(Inference(session, session.new_model(), listeners))


class AtCall(Listener):
    """Does something at a call of a listener's method.

    Args:
        method: str, such as "on_step".
        number: int, which call, from 1.
        happens: called without arguments.
    """

    def __init__(self, method, number, happens):
        calls = []

        def count(*arguments, **keywords):
            calls.append(arguments)
            if len(calls) == number:
                happens()

        setattr(self, method, count)


def bits_of(path):
    """{name: (dtype, shape, bytes)} of every weight and of the whole training state."""
    tensors = ours.read_weights(path) | ours.read_state(path)
    read = {name: tensor.read() for name, tensor in tensors.items()}
    return {name: (a.dtype, a.shape, a.tobytes()) for name, a in read.items()}


def lines_of(model_dir, split):
    """The lines of metrics.jsonl on a split, as dicts."""
    lines = map(json.loads, (model_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["split"] == split]


def checkpoint_steps(model_dir):
    return [step for step, _ in store.list_checkpoints(model_dir)]


def logits_in_rows(model, tokens):
    """Logits of each row alone and unpadded, float64 [N, C]."""
    rows = []
    for ids in rows_of(tokens):
        features = {
            "input_ids": np.array([ids]),
            "padding_mask": np.ones((1, len(ids)), int),
            "segment_ids": np.zeros((1, len(ids)), int),
        }
        rows.append(np.asarray(model(features), np.float64)[0])
    return np.array(rows)


def metrics_in_numpy(logits, labels):
    """The textbook formulas over all rows at once, for two classes."""
    predicted = logits.argmax(axis=1)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    tp, fp, fn, tn = (
        float(np.sum((predicted == p) & (labels == t))) for p, t in ((1, 1), (1, 0), (0, 1), (0, 0))
    )
    spread = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {
        "loss": -np.log(probabilities[np.arange(len(labels)), labels]).mean(),
        "eval/accuracy_cls": np.mean(predicted == labels),
        "eval/f1_score": 2 * tp / (2 * tp + fp + fn) if tp else 0.0,
        "eval/mcc": (tp * tn - fp * fn) / spread if spread else 0.0,
    }
