# SPDX-License-Identifier: Apache-2.0
"""Sessions of a tiny network that is pre-trained on toy rows: what a data processor would give."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import tensorflow as tf

from common.params import Params
from common.signals import Control
from input.batches import make_batches, make_packed_batches, row_lengths
from input.epoch_plan import EpochPlan
from input.features import STANDARD_LAYOUT
from input.masking import Masking
from input.packing import PackedPlan
from input.token_cache import Tokens
from tests.reference.toy_session import AtCall, make_trainer

LENGTH = 24
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(5, 31))]
TOKENIZER = SimpleNamespace(pad_id=0, cls_id=2, sep_id=3)
BATCH_SIZE = 4


def toy_blocks(num_rows, seed=0):
    """Pairs of texts in which each token is its neighbour plus 1: what a context tells.

    The second text goes on where the first ends, or (label 1) begins anywhere.
    """
    generator = np.random.default_rng(seed)
    lengths = generator.integers(4, 10, (num_rows, 2))
    labels = generator.integers(0, 2, num_rows).astype(np.int32)
    texts = []
    for (first, second), label in zip(lengths, labels, strict=True):
        start = generator.integers(0, 26)
        texts.append(5 + (start + np.arange(first)) % 26)
        start = generator.integers(0, 26) if label else start + first
        texts.append(5 + (start + np.arange(second)) % 26)
    offsets = np.concatenate([[0], np.cumsum(lengths.ravel())])
    ids = np.concatenate(texts).astype(np.int32)
    return Tokens(ids, offsets, {"next_sentence_labels": labels}, texts_per_row=2)


TRAIN_ROWS, EVAL_ROWS = toy_blocks(22), toy_blocks(10, seed=1)


def make_params(model_dir, optimizer=None, model=None, train_input=None, **runconfig):
    """Complete Params. optimizer, model, train_input, runconfig: in place of the values below."""
    params = Params.model_validate(
        {
            "train_input": {
                "data_processor": "DocumentDataProcessor",
                "train_documents": "none",  # the rows are toy_blocks
                "eval_documents": "none",
                "max_sequence_length": LENGTH,
                "batch_size": BATCH_SIZE,
                "max_predictions_per_seq": 4,
                "packing": "none",
            }
            | (train_input or {}),
            "model": {
                "hidden_size": 12,
                "num_hidden_layers": 2,
                "num_heads": 2,
                "filter_size": 17,
                "dropout_rate": 0.1,
                "mixed_precision": "float32",
            }
            | (model or {}),
            "optimizer": {"learning_rate": 0.01, "max_gradient_norm": 1} | (optimizer or {}),
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
    return params.complete(None, {"vocab_size": len(VOCAB)})


def masking_of(cfg, seed):
    share, width = cfg.masked_lm_prob, cfg.max_predictions_per_seq
    return Masking(share, width, 4, len(VOCAB), (0, 2, 3), seed=seed)


def with_masks(batches, masking, epochs):
    """Batches of masked rows. epochs: int [steps]."""
    places = tf.data.Dataset.from_tensor_slices((batches.rows.astype(np.int64), epochs))

    def mask(batch, place):
        features, targets, *weights = batch
        rows, epoch = place
        return *masking(features, targets, epoch, rows), *weights

    dataset = tf.data.Dataset.zip(batches.from_batch(0), places).map(mask)
    return replace(batches, dataset=dataset)


def batches_of(tokens, plan, with_weights):
    size = LENGTH
    if len(plan) == 3:
        return make_packed_batches(tokens, TOKENIZER, *plan, size, with_weights, STANDARD_LAYOUT)
    return make_batches(tokens, TOKENIZER, *plan, size, with_weights)


def train_input_fn(params, first_step, last_step):
    cfg, batches_of_steps = params.train_input, params.optimizer.accumulation.batches
    lengths = row_lengths(TRAIN_ROWS, LENGTH)
    plan = EpochPlan(lengths, cfg.batch_size, [LENGTH], shuffle=True, seed=params.shuffle_seed)
    steps = np.arange(batches_of_steps(first_step), batches_of_steps(last_step))
    epochs = (steps // plan.steps_per_epoch).astype(np.int32)
    plan = PackedPlan(plan, 2) if cfg.packing == "packed" else plan
    arrays = plan.steps(batches_of_steps(first_step), batches_of_steps(last_step))
    batches = batches_of(TRAIN_ROWS, arrays, with_weights=False)
    counts = np.bincount(TRAIN_ROWS.ids, minlength=len(VOCAB))
    batches = replace(batches, token_counts=counts)
    return with_masks(batches, masking_of(cfg, params.shuffle_seed), epochs)


def eval_input_fn(params):
    plan = EpochPlan(row_lengths(EVAL_ROWS, LENGTH), 3, [LENGTH], shuffle=False)  # 10 rows: 2 fill
    batches = batches_of(EVAL_ROWS, plan.epoch(0, drop_remainder=False), with_weights=True)
    epochs = np.zeros(len(batches), np.int32)
    return {"validation": with_masks(batches, masking_of(params.eval_input, 0), epochs)}


DATA = SimpleNamespace(
    train_input_fn=train_input_fn,
    eval_input_fn=eval_input_fn,
    describe=lambda cfg: "toy blocks",
    summarize=lambda params, batches: [],
)
OF_SESSION = {"data": DATA, "label_names": (), "vocab": VOCAB}


def train(model_dir, *listeners, control=None, **values):
    """Trains; resumes what is in model_dir. values: of `make_params`. Returns Result."""
    params = make_params(model_dir, **values)
    return make_trainer(params, *listeners, control=control, **OF_SESSION).train()


def train_in_parts(model_dir, step, **values):
    """Trains until a request to stop at a step, and on to the end. values: as of `train`."""
    control = Control()
    stop = AtCall("on_step", step, control.request_stop)
    assert train(model_dir, stop, control=control, **values).step == step
    assert train(model_dir, **values).step == values["max_steps"]
