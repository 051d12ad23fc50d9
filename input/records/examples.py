# SPDX-License-Identifier: Apache-2.0
"""What stands in a pre-training record: its checks, and its rows as arrays.

A static record is a tf.train.Example with the masks that its writer drew, as
google-research/bert create_pretraining_data.py writes it; Model Garden's has two other names. A
dynamic record is a tf.train.SequenceExample whose feature list `tokens` has one WordPiece each,
[CLS] first and [SEP] last.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from common.params.pretraining import DYNAMIC, STATIC
from input.token_cache import Tokens
from input.tokenizers.wordpiece import CLS, SEP

# The names of a feature: google-research/bert's, and Model Garden's.
NAMES = {
    "input_ids": ("input_ids", "input_word_ids"),
    "input_mask": ("input_mask",),
    "segment_ids": ("segment_ids", "input_type_ids"),
    "masked_lm_positions": ("masked_lm_positions",),
    "masked_lm_ids": ("masked_lm_ids",),
    "masked_lm_weights": ("masked_lm_weights",),
    "next_sentence_labels": ("next_sentence_labels",),
}
OF_PAIRS = ("segment_ids", "next_sentence_labels")
OF_MASKS = ("masked_lm_positions", "masked_lm_ids", "masked_lm_weights")
TOKENS = "tokens"
INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class Checked:
    """What an index keeps of n records."""

    counts: np.ndarray  # int [n, K]: tokens of each text
    ids: np.ndarray  # int [n, any]: tokens before they were masked; -1 elsewhere
    largest_ids: np.ndarray  # int [n]
    num_masked: np.ndarray  # int [n]: tokens to predict
    faults: dict[int, str]  # what is wrong with a record
    unknown: Counter = field(default_factory=Counter)  # tokens that the vocabulary lacks


class StaticDecoder:
    """Reads tf.train.Examples with masks.

    Args:
        has_pairs: bool. Whether a record has two texts, and the label of the second one. Without,
            segments and label are not looked at.
        num_predictions: int, P of the masks.
    """

    has_special_tokens = True  # of the rows: they are the file's

    def __init__(self, has_pairs, num_predictions):
        self._num_predictions = num_predictions
        self.texts_per_row = 2 if has_pairs else 1
        self._wanted = [name for name in NAMES if has_pairs or name not in OF_PAIRS]
        self.settings = f"static-{self.texts_per_row}"

    def names(self, content):
        """Returns {feature: its name in the file} from a record's content. Raises ValueError."""
        try:
            found = tf.train.Example.FromString(content).features.feature
        except DecodeError:
            raise ValueError("is no tf.train.Example") from None
        if not found:
            lists = tf.train.SequenceExample.FromString(content).feature_lists.feature_list
            hint = f", but has {TOKENS} to be masked; write data_processor: {DYNAMIC}"
            raise ValueError(f"is no tf.train.Example{hint * (TOKENS in lists)}")
        names = {
            feature: next((name for name in NAMES[feature] if name in found), None)
            for feature in self._wanted
        }
        missing = [" or ".join(NAMES[feature]) for feature in names if names[feature] is None]
        if missing:
            absent = {feature for feature in names if names[feature] is None}
            hint = ""
            if absent <= set(OF_PAIRS):
                hint = f"; without pairs, write data_processor: {STATIC}"
            has = ", ".join(sorted(found))
            raise ValueError(f"has no feature {', '.join(missing)}; it has {has}{hint}")
        return names

    def check(self, contents, names):
        """Returns the Checked of records: list of bytes. names: of `names`."""
        rows, faults = self._parse(contents, names)
        ids, mask = rows["input_ids"], rows["input_mask"]
        place = np.arange(ids.shape[1])
        counts = mask.sum(axis=1)
        is_token = place < counts[:, None]

        def refuse(is_bad, text):
            for row in np.flatnonzero(is_bad):
                faults.setdefault(int(row), text)

        refuse(~rows["fits"], "has features of different length")
        refuse((mask != is_token).any(axis=1), "has an input_mask other than ones and then zeros")
        refuse(counts < 1, "has no token")
        is_bad = ((ids < 0) | (ids > INT32.max)).any(axis=1)
        refuse(is_bad, f"has an id outside 0 to {INT32.max:,}")
        positions, weights = rows["masked_lm_positions"], rows["masked_lm_weights"]
        is_masked = weights > 0
        refuse(
            (is_masked & ((positions < 0) | (positions >= counts[:, None]))).any(axis=1),
            "has a masked_lm_position outside its tokens",
        )
        labels = rows["masked_lm_ids"]
        is_bad = (is_masked & ((labels < 0) | (labels > INT32.max))).any(axis=1)
        refuse(is_bad, f"has a masked_lm_id outside 0 to {INT32.max:,}")
        refuse(
            ~np.isfinite(weights).all(axis=1) | (weights < 0).any(axis=1),
            "has a weight that is no number of 0 or more",
        )
        if self.texts_per_row == 2:
            segments, labels = rows["segment_ids"], rows["next_sentence_labels"]
            second = (segments * is_token).sum(axis=1)
            in_second = is_token & (place >= (counts - second)[:, None])
            is_bad = ((segments * is_token) != in_second).any(axis=1)
            refuse(is_bad, "has segment_ids other than zeros and then ones")
            refuse((labels != 0) & (labels != 1), "has a next_sentence_label other than 0 and 1")
            counts = np.stack([counts - second, second], axis=1)
        else:
            counts = counts[:, None]
        largest = np.maximum(
            (ids * is_token).max(axis=1, initial=0),
            (rows["masked_lm_ids"] * is_masked).max(axis=1, initial=0),
        )
        ids = np.where(is_token, ids, -1)
        row, place = np.nonzero(is_masked)
        at = np.clip(positions[row, place], 0, ids.shape[1] - 1)  # of records at fault, too
        ids[row, at] = rows["masked_lm_ids"][row, place]
        return Checked(counts, ids, largest, is_masked.sum(axis=1), faults)

    def decode(self, contents, names):
        """Returns the Tokens of checked records, whose masks are among the targets.

        The masks of a row are in the order of their positions, which count from its first token;
        behind them stand zeros.
        """
        rows, _ = self._parse(contents, names)
        counts = rows["input_mask"].sum(axis=1)
        is_token = np.arange(rows["input_ids"].shape[1]) < counts[:, None]
        ids = rows["input_ids"][is_token].astype(np.int32)
        lengths = counts[:, None]
        targets = _sorted_masks(rows, self._num_predictions)
        if self.texts_per_row == 2:
            second = (rows["segment_ids"] * is_token).sum(axis=1)
            lengths = np.stack([counts - second, second], axis=1)
            targets["next_sentence_labels"] = rows["next_sentence_labels"].astype(np.int32)
        offsets = np.concatenate([[0], np.cumsum(lengths.ravel())])
        return Tokens(ids, offsets, targets, self.texts_per_row)

    def _parse(self, contents, names):
        """Returns {feature: array [n, longest]}, with "fits": whether lengths agree, bool [n];
        and {record: fault} of those that are no Examples: they have no tokens."""
        spec = {
            name: tf.io.RaggedFeature(tf.float32 if feature == "masked_lm_weights" else tf.int64)
            for feature, name in names.items()
        }
        faults = {}
        try:
            parsed = tf.io.parse_example(contents, spec)
        except (tf.errors.OpError, UnicodeDecodeError):  # its message quotes bytes
            contents, faults = _readable(
                contents,
                lambda content: tf.io.parse_example(content, spec),
                "is no tf.train.Example of whole numbers, with weights of floats",
            )
            parsed = tf.io.parse_example(contents, spec)
        rows, lengths = {}, {}
        for feature, name in names.items():
            rows[feature] = parsed[name].to_tensor().numpy()
            lengths[feature] = parsed[name].row_lengths().numpy()
        rows["fits"] = np.ones(len(contents), bool)
        for group in (("input_ids", "input_mask", "segment_ids"), OF_MASKS):
            group = [feature for feature in group if feature in rows]
            width = max(rows[feature].shape[1] for feature in group)
            for feature in group:
                rows["fits"] &= lengths[feature] == lengths[group[0]]
                rows[feature] = _widened(rows[feature], width)
        if self.texts_per_row == 2:
            rows["fits"] &= lengths["next_sentence_labels"] == 1
            rows["next_sentence_labels"] = _widened(rows["next_sentence_labels"], 1)[:, 0]
        return rows, faults


class DynamicDecoder:
    """Reads tf.train.SequenceExamples of WordPieces, to be masked.

    Args:
        tokenizer: WordPieceTokenizer, whose vocabulary gives the ids.
        room: int, tokens of a row without [CLS] and [SEP]; more are cut off.
    """

    texts_per_row = 1
    has_special_tokens = False  # of the rows: [CLS] and [SEP] are put around them again

    def __init__(self, tokenizer, room):
        self._tokenizer, self._room = tokenizer, room
        self.settings = f"dynamic-{tokenizer.fingerprint}"
        keys = tf.constant(tokenizer.vocab), tf.range(tokenizer.vocab_size)
        with tf.device("/cpu:0"):
            table = tf.lookup.KeyValueTensorInitializer(*keys)
            self._table = tf.lookup.StaticHashTable(table, default_value=-1)

    def names(self, content):
        """Returns {} if a record has tokens. Raises ValueError."""
        try:
            record = tf.train.SequenceExample.FromString(content)
        except DecodeError:
            record = tf.train.SequenceExample()
        lists = record.feature_lists.feature_list
        if TOKENS not in lists:
            has = ", ".join(sorted(lists) or sorted(record.context.feature)) or "none"
            hint = ""
            if set(NAMES["input_ids"]) & record.context.feature.keys():
                hint = "; static masks: write another data_processor"
            raise ValueError(
                f"is no tf.train.SequenceExample with a feature list {TOKENS}; its features: "
                f"{has}{hint}"
            )
        return {}

    def check(self, contents, names):
        """See `StaticDecoder.check`."""
        tokens, lengths, faults = self._parse(contents)
        is_token = np.arange(tokens.shape[1]) < lengths[:, None]
        ids = np.where(is_token, self._table.lookup(tf.constant(tokens)).numpy(), 0)
        for row, length in enumerate(lengths.tolist()):
            if (
                length < 2
                or tokens[row, 0] != CLS.encode()
                or tokens[row, length - 1] != SEP.encode()
            ):
                faults.setdefault(row, f"does not begin with {CLS} and end with {SEP}")
        unknown = Counter(token.decode("utf-8", "replace") for token in tokens[ids < 0].tolist())
        counts = np.maximum(lengths - 2, 0)[:, None]
        ids = np.where(ids < 0, self._tokenizer.unk_id, np.where(is_token, ids, -1))
        zeros = np.zeros(len(contents), np.int64)
        return Checked(counts, ids, zeros, zeros, faults, unknown)

    def decode(self, contents, names):
        """Returns the Tokens of checked records without [CLS] and [SEP]; [UNK] are unknown ones."""
        tokens, lengths, _ = self._parse(contents)
        kept = np.minimum(lengths - 2, self._room)
        place = np.arange(tokens.shape[1])
        ids = self._table.lookup(tf.constant(tokens)).numpy()
        ids = ids[(place > 0) & (place <= kept[:, None])]
        ids = np.where(ids < 0, self._tokenizer.unk_id, ids).astype(np.int32)
        return Tokens(ids, np.concatenate([[0], np.cumsum(kept)]), {}, 1)

    def _parse(self, contents):
        """Returns tokens, object [n, longest] of bytes; lengths, int [n]; {record: fault}."""
        spec = {TOKENS: tf.io.FixedLenSequenceFeature([], tf.string)}
        faults = {}
        try:
            _, parsed, lengths = tf.io.parse_sequence_example(contents, sequence_features=spec)
        except (tf.errors.OpError, UnicodeDecodeError):
            contents, faults = _readable(
                contents,
                lambda content: tf.io.parse_sequence_example(content, sequence_features=spec),
                "is no tf.train.SequenceExample with one token a step",
            )
            _, parsed, lengths = tf.io.parse_sequence_example(contents, sequence_features=spec)
        return parsed[TOKENS].numpy(), lengths[TOKENS].numpy(), faults


def _readable(contents, parse, text):
    """Returns records with empty ones in the place of those that cannot be parsed, and {record:
    text} of these."""
    contents, faults = list(contents), {}
    for row, content in enumerate(contents):
        try:
            parse([content])
        except (tf.errors.OpError, UnicodeDecodeError):
            contents[row], faults[row] = b"", text
    return contents, faults


def _widened(array, width):
    """Returns the array [n, any up to width] with zeros behind: [n, width]."""
    return np.pad(array, [(0, 0), (0, width - array.shape[1])])


def _sorted_masks(rows, num_predictions):
    """Returns {target: [n, P]} of the masks in `rows`, in the order of their positions."""
    is_masked = rows["masked_lm_weights"] > 0
    behind = np.where(is_masked, rows["masked_lm_positions"], INT32.max)
    order = np.argsort(behind, axis=1, kind="stable")[:, :num_predictions]
    is_masked = np.take_along_axis(is_masked, order, axis=1)
    targets = {}
    for feature in OF_MASKS:
        array = np.take_along_axis(rows[feature], order, axis=1) * is_masked
        dtype = np.float32 if feature == "masked_lm_weights" else np.int32
        targets[feature] = _widened(array, num_predictions).astype(dtype)
    return targets
