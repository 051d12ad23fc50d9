# SPDX-License-Identifier: Apache-2.0
"""The samples of `.neural` files, and networks of the same form whose weights are a few hundred."""

import re
from pathlib import Path

import numpy as np

SAMPLES = Path(__file__).resolve().parents[2] / "extras" / "neural" / "samples"
NAMES = (
    *("bert_encoder", "bert_classifier", "bert_ner"),
    *("distilbert_encoder", "roberta_encoder", "albert_encoder"),
)
# What stands in place of a number, different sizes where they can be.
SMALL = {
    "512": "16",
    "30522": "40",
    "30000": "43",
    "50265": "41",
    "768": "12",
    "128": "6",
    "3072": "20",
    "num_heads=12": "num_heads=3",
}

# Two rows, of which one is shorter.
ROWS = {
    "input_ids": np.array([[2, 5, 6, 4, 3], [2, 7, 3, 0, 0]], np.int32),
    "padding_mask": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32),
    "segment_ids": np.zeros((2, 5), np.int32),
}


def features_of(task=None):
    """ROWS as the documented features; of `pretraining` with every token to predict."""
    features = {name: each for name, each in ROWS.items() if name != "padding_mask"}
    features["input_mask"] = 1 - ROWS["padding_mask"]
    if task == "pretraining":
        features["masked_lm_positions"] = np.tile(np.arange(5, dtype=np.int32), (2, 1))
    return features


def text_of(name):
    return (SAMPLES / f"{name}.neural").read_text("utf-8")


def small_text(name, num_layers=2):
    """Returns a sample with small numbers, and so many of its layers."""
    lines, used = [], 0
    for line in text_of(name).splitlines():
        used += "num_heads=12" in line
        if "num_heads=12" not in line or used <= num_layers:
            lines.append(re.sub(r"num_heads=12|\d{3,}(?!\d|e|\.)", small_number, line))
    return "\n".join([*lines, ""])


def small_number(found):
    return SMALL.get(found[0], found[0])
