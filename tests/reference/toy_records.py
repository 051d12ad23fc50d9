# SPDX-License-Identifier: Apache-2.0
"""Toy records in folders, and the params of a tiny network that reads them."""

import numpy as np

import data
from tests.reference.records import example, sequence_example, write_file
from utils import get_params

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
PAD, UNK, CLS, SEP, MASK = range(5)
PAIRS, STATIC, DYNAMIC = (
    "BertTfRecordsProcessor",
    "BertMlmOnlyTfRecordsStaticMaskProcessor",
    "BertMlmOnlyTfRecordsDynamicMaskProcessor",
)
LENGTH, MOST, NUM_ROWS, BATCH = 13, 3, 23, 4
SEED = 5


def row_of(number, random):
    """A record that says its number: the first token after [CLS]."""
    first = [5 + number, *random.integers(5, 31, random.integers(0, 4)).tolist()]
    second = random.integers(5, 31, random.integers(1, 5)).tolist()
    ids = [CLS, *first, SEP, *second, SEP]
    size, rest = len(ids), [0] * (LENGTH - len(ids))
    places = sorted(random.choice(np.arange(2, size), random.integers(1, MOST), replace=False))
    places = [int(place) for place in places if ids[place] != SEP]
    unused = [0] * (MOST - len(places))
    labels = [ids[place] for place in places]
    for place in places:
        ids[place] = MASK
    return {
        "input_ids": ids + rest,
        "input_mask": [1] * size + rest,
        "segment_ids": [0] * (len(first) + 2) + [1] * (len(second) + 1) + rest,
        "masked_lm_positions": places + unused,
        "masked_lm_ids": labels + unused,
        "masked_lm_weights": [1.0] * len(places) + [0.0] * len(unused),
        "next_sentence_labels": [number % 2],
    }


def write_records(folder):
    """Writes folders of records `pairs` and `tokens`, each with `train` and `validation`."""
    random = np.random.default_rng(SEED)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCAB))
    for split, size in (("train", NUM_ROWS), ("validation", 11)):
        for kind in ("pairs", "tokens"):
            (folder / kind / split).mkdir(parents=True)
        rows = [row_of(number, random) for number in range(size)]
        tokens = [
            ["[CLS]", VOCAB[5 + number], *random.choice(list("abcdef"), number % 7), "[SEP]"]
            for number in range(size)
        ]
        for part in range(3):
            name = f"part-{part}.tfrecord"
            write_file(folder / "pairs" / split / name, map(example, rows[part::3]))
            write_file(folder / "tokens" / split / name, map(sequence_example, tokens[part::3]))


def read_params(folder, processor=PAIRS, mode="train_and_eval", **keys):
    """Params of a tiny network on these records. keys: `section__key`."""
    kind = "tokens" if processor == DYNAMIC else "pairs"
    inputs = {
        "data_processor": processor,
        "vocab_file": folder / "vocab.txt",
        "max_sequence_length": LENGTH,
        "max_predictions_per_seq": MOST,
        "batch_size": BATCH,
        "cache_dir": folder / "cache",
    }
    lines = []
    for section, split in (("train_input", "train"), ("eval_input", "validation")):
        values = inputs | {"data_dir": folder / kind / split}
        lines += [f"{section}:", *(f"  {key}: {value}" for key, value in values.items())]
    lines += [
        "model:",
        *("  hidden_size: 6", "  num_hidden_layers: 1", "  num_heads: 2", "  filter_size: 5"),
        f"  disable_nsp: {str(processor != PAIRS).lower()}",
    ]
    path = folder / "params.yaml"
    path.write_text("\n".join(lines) + "\n")
    changes = {key.replace("__", "."): value for key, value in keys.items()}
    return get_params(path, {"runconfig.mode": mode, "runconfig.tf_random_seed": 3, **changes})


def params_of(folder, *arguments, **keys):
    """As `read_params`, complete."""
    return data.complete_params(read_params(folder, *arguments, **keys), {}, "params.yaml")[0]
