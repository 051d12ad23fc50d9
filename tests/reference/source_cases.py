# SPDX-License-Identifier: Apache-2.0
"""The networks whose source exports are compared: each family with each task, and unusual ones."""

import importlib.util
import sys

import numpy as np

from common.BaseModel import EVAL
from tests.reference.tiny_classifier import make_classifier

FAMILIES = {
    "bert": {},
    "roberta": {"backbone": "roberta"},
    "distilbert": {"backbone": "distilbert"},
    "electra": {"backbone": "electra", "embedding_size": 4},
    "albert": {"backbone": "albert", "embedding_size": 4},
    # A head of an even width, and windows of which a row has several.
    "modernbert": {
        "backbone": "modernbert",
        "num_heads": 1,
        "local_attention": 4,
        "global_attention_every": 2,
        "pooler_type": "mean",
    },
    # Every key of ModelParams that a family has in one form alone.
    "unusual": {
        "embedding_size": 4,
        "position_embedding_type": "fixed",
        "use_segment_embedding": False,
        "use_pre_normalization": True,
        "attention_type": "dot_product",
        "use_ffn_bias": False,
        "use_projection_bias_in_attention": False,
        "use_ffn_bias_in_attention": False,
        "pooler_type": "last",
        "encoder_nonlinearity": "silu",
    },
}
NUM_OUTPUTS = {"regression": 1, "question_answering": None}
QUESTIONS = {"max_query_length": 2, "window_stride": 1, "version_2_with_negative": True}
RATES = {"dropout_rate": 0.1, "cls_dropout_rate": 0.2}
NO_DROPOUT = {"dropout_rate": 0.0, "cls_dropout_rate": 0.0, "encoder_output_dropout_rate": 0.0}
TASKS = (
    *("classification", "multi_label", "regression", "token_classification"),
    *("question_answering", "pretraining"),
)
# Values of keys that no case above has.
OTHERS = {
    f"{key} {value}": {key: value}
    for key, values in {
        "pooler_type": ("max", "sum"),
        "encoder_nonlinearity": ("gelu_tanh", "relu", "tanh", "linear"),
        "use_position_embedding": (False,),
    }.items()
    for value in values
}
CASES = {f"{family} {task}": (family, task) for family in FAMILIES for task in TASKS}


def make_case(case, **model):
    """Returns the Classifier of a case. model: other keys of ModelParams."""
    if case in OTHERS:
        return make_classifier(**OTHERS[case], **model)
    family, task = CASES[case]
    if task != "token_classification":
        model.pop("encoder_output_dropout_rate", None)
    keys = {**FAMILIES[family], **model}
    if task in ("classification", "regression", "multi_label"):
        keys = RATES | keys
    else:
        keys.pop("pooler_type", None)
    if task == "pretraining" and family != "bert":
        keys |= {"disable_nsp": True, "use_output_bias_in_mlm": family != "unusual"}
        keys |= {"share_embedding_weights": family != "unusual"}
    named = None if task in ("classification", "regression") else task
    texts = 2 if task == "question_answering" else 1
    rows = QUESTIONS if task == "question_answering" else {}
    classifier = make_classifier(texts, NUM_OUTPUTS.get(task, 5), rows=rows, task=named, **keys)
    if task == "multi_label":
        classifier.model.thresholds = (0.5, 0.4, 0.6, 0.5, 0.3)
    return classifier


def without_tokens(features):
    """The same features, the last row of padding alone, as an empty text without special tokens is.

    What its places attend to is defined for attention to the whole row alone: that of ModernBERT
    sees other places with each way of computing a window.
    """
    padding_mask = features["padding_mask"].copy()
    padding_mask[-1] = 0
    return features | {"padding_mask": padding_mask}


def outputs_of(model, features, mode=EVAL):
    """Returns {output: array} of a task, for all tokens. features: as of `random_features`."""
    features = dict(features)
    features["input_mask"] = 1 - features.pop("padding_mask")
    if model.task == "pretraining":
        batch, tokens = features["input_ids"].shape
        features["masked_lm_positions"] = np.tile(np.arange(tokens, dtype=np.int32), (batch, 1))
    return {name: np.asarray(each) for name, each in model.build_model(features, mode).items()}


def opened(folder):
    """Returns the module model.py of a folder."""
    spec = importlib.util.spec_from_file_location("source_of_test", folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
