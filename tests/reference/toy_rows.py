# SPDX-License-Identifier: Apache-2.0
"""A split of a few rows of token ids, for tests of what comes after the tokenizer."""

from types import SimpleNamespace

import numpy as np

from input.batches import make_batches, row_lengths
from input.epoch_plan import EpochPlan, choose_bucket_lengths
from input.token_cache import Tokens

# All that batches need of a tokenizer.
TOKENIZER = SimpleNamespace(pad_id=0, cls_id=1, sep_id=2)
TELLING_ID, FIRST_ID = 3, 4  # the id that tells the class, and the first that tells nothing
MAX_SEQUENCE_LENGTH = 11


def toy_tokens(num_rows, vocab_size=23, seed=0):
    """Rows of 1 to 9 random tokens. Label 1: TELLING_ID is among them; label 0: it is not."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, MAX_SEQUENCE_LENGTH - 1, num_rows)
    labels = generator.integers(0, 2, num_rows).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = generator.integers(FIRST_ID, vocab_size, offsets[-1]).astype(np.int32)
    places = offsets[:-1] + generator.integers(0, lengths)
    ids[places[labels == 1]] = TELLING_ID
    return Tokens(ids, offsets.astype(np.int64), {"labels": labels}, texts_per_row=1)


def toy_plan(tokens, batch_size, num_buckets=1, shuffle=False, seed=0):
    lengths = row_lengths(tokens, MAX_SEQUENCE_LENGTH)
    buckets = choose_bucket_lengths(lengths, num_buckets)
    return EpochPlan(lengths, batch_size, buckets, shuffle, seed)


def toy_train_batches(tokens, batch_size, first_step, last_step, num_buckets=1, seed=0):
    """Shuffled Batches of the training steps first_step <= step < last_step."""
    plan = toy_plan(tokens, batch_size, num_buckets, shuffle=True, seed=seed)
    rows, lengths = plan.steps(first_step, last_step)
    return make_batches(tokens, TOKENIZER, rows, lengths, MAX_SEQUENCE_LENGTH, with_weights=False)


def toy_eval_batches(tokens, batch_size, num_buckets=1):
    """Batches of one pass over every row."""
    rows, lengths = toy_plan(tokens, batch_size, num_buckets).epoch(0, drop_remainder=False)
    return make_batches(tokens, TOKENIZER, rows, lengths, MAX_SEQUENCE_LENGTH, with_weights=True)


def rows_of(tokens):
    """The ids of each row as the network has to see them: list of int lists."""
    return [
        [TOKENIZER.cls_id, *tokens.ids[start:end].tolist(), TOKENIZER.sep_id]
        for start, end in zip(tokens.offsets, tokens.offsets[1:], strict=False)
    ]
