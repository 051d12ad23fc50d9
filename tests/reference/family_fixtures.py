# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of families beside ../shared, written by transformers, and their outputs."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.checkpoints.load import load_weights, open_checkpoint
from common.params import Params
from model import make_model
from tests.reference.tiny_bert import INPUTS_OF_TASK

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures"
needs_fixtures = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason="../shared/fixtures, written by other programs, is not there"
)


def reference(folder):
    """The outputs that transformers computed. folder: below FIXTURES."""
    return json.loads((FIXTURES / folder / "reference.json").read_text())


def features_of(expected):
    """The documented features of a reference.json."""
    ids, mask = (np.array(expected[key], np.int32) for key in ("input_ids", "input_mask"))
    segments = np.array(expected.get("segment_ids", np.zeros_like(ids)), np.int32)
    return {"input_ids": ids, "input_mask": 1 - mask, "segment_ids": segments}


def params_of(path, task="classification", num_classes=None, checkpoint=None, **model):
    """Complete Params without dropout for a checkpoint."""
    checkpoint = checkpoint or open_checkpoint(path)
    rows = INPUTS_OF_TASK.get(task, {"data_processor": "Sst2DataProcessor", "data_dir": "none"})
    rows = {**rows, "task": task, "max_sequence_length": 48, "batch_size": 3}
    section = {"dropout_rate": 0.0, "disable_nsp": task == "pretraining", **model}
    params = Params.model_validate(
        {"eval_input": rows, "model": section, "optimizer": {}, "runconfig": {"tf_random_seed": 3}}
    )
    return params.complete(checkpoint.config, {"num_cls_classes": num_classes})


def load_model(path, task="classification", num_classes=None, label_names=(), **model):
    """The network of a checkpoint, and the LoadReport."""
    checkpoint = open_checkpoint(path)
    params = params_of(path, task, num_classes, checkpoint, **model)
    network = make_model(params, label_names)
    return network, load_weights(network, checkpoint), params
