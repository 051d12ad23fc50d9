# SPDX-License-Identifier: Apache-2.0
"""Masked words: which tokens of a row are to be predicted, and what stands there instead.

Masks are a function of (seed, epoch, row), computed in the graph: a row has other masks in every
epoch, nothing is stored, and a resumed run draws the same. The rules are those of google-research/
bert's create_pretraining_data.py, `create_masked_lm_predictions` (single tokens, whole words), and
of google-research/albert's (n-grams).
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from common.errors import UserError
from input.token_cache import Tokens, tokenize_texts
from input.tokenizers.wordpiece import CONTINUATION

# Tokens that a packed row has beyond its share: rounding adds up to half a token a row.
PACKED_RESERVE = 8
# What bits are drawn for, so that no two draws of a token are the same.
_ORDER, _NGRAM, _REPLACEMENT, _TOKEN = range(4)


@dataclass(frozen=True)
class Masking:
    """Masks the tokens of a batch.

    Shapes: R rows of T tokens; B short rows, which are the same R rows, or lie packed in them;
    P tokens to predict in each of the R.

    Args:
        share: float, of the tokens of a row, special ones too: a row of L tokens has
            min(max_predictions, max(1, round(share * L))) to predict, if it has as many ordinary
            tokens. Halves are rounded to even, as Python does.
        max_predictions: int, of a short row.
        mask_id, vocab_size: int.
        never_predicted: tuple of int, ids of special tokens.
        continues: <bool>[V], tokens that continue a word; None: every token is a word.
        max_ngram: int. Up to so many neighbouring words are predicted together, n of them with a
            probability proportional to 1/n.
        mask_share, random_share: float. How many of the tokens to predict become [MASK], and how
            many a random token; the others stay.
        random_ids: <int32>[any], what random tokens are; None: all of the vocabulary.
        seed: int >= 0.
        is_mask_inverted: bool. input_mask is 1 on padding, or else on tokens.
    Call, on the CPU:
        features: of `input/features.py`, padded or packed.
        targets: dict of tensors, which stay.
        epoch: <int32>[].
        rows: <int>[B], number of each row in the split; -1 for filler, which has none to predict.
    Returns:
        features, with other `input_ids` and with "masked_lm_positions" <int32>[R, P], ascending,
        0 on filler; targets, with "masked_lm_ids" <int32>[R, P], what stood there, and
        "masked_lm_weights" <float32>[R, P], 1 on tokens to predict and 0 on filler.
    """

    share: float
    max_predictions: int
    mask_id: int
    vocab_size: int
    never_predicted: tuple
    continues: np.ndarray | None = None
    max_ngram: int = 1
    mask_share: float = 0.8
    random_share: float = 0.1
    random_ids: np.ndarray | None = None
    seed: int = 0
    is_mask_inverted: bool = True

    def width(self, length, is_packed):
        """P for rows of `length` tokens: int. A long row that has more keeps a random part."""
        if not is_packed:
            return self.max_predictions
        return max(self.max_predictions, int(np.ceil(self.share * length)) + PACKED_RESERVE)

    @tf.autograph.experimental.do_not_convert  # its only loop is one of TensorFlow
    def __call__(self, features, targets, epoch, rows):
        ids, starts = features["input_ids"], features.get("starts")
        shape = tf.shape(ids)
        tokens = _Tokens(ids, features["input_mask"], starts, rows, self)
        draw = _Draw(self.seed, epoch, rows, tokens)
        if self.continues is None and self.max_ngram == 1:
            group, key = tf.range(tokens.count), draw.bits(_ORDER)
            chosen = _choose_tokens(tokens, key)
        else:
            words = _Words(tokens, self.continues)
            key = draw.bits(_ORDER)
            chosen, group = _choose_words(tokens, words, key, draw, self.max_ngram)
            key = tf.gather(key, tf.gather(tf.concat([words.start, [0]], axis=0), group))
        width = self.max_predictions
        if starts is not None:
            reserve = tf.cast(tf.math.ceil(self.share * tf.cast(shape[1], tf.float64)), tf.int32)
            width = tf.maximum(width, reserve + PACKED_RESERVE)
            chosen = _at_most(chosen, group, key, tokens.place // shape[1], width)
        replaced = tf.where(chosen, self._replacements(tokens.ids, draw), tokens.ids)
        row, position = tf.unstack(tf.where(tf.reshape(chosen, shape)), axis=1)  # row by row
        row, position = tf.cast(row, tf.int32), tf.cast(position, tf.int32)
        number = tf.range(tf.size(row)) - tf.cast(tf.searchsorted(row, row), tf.int32)  # in its row
        static = ids.shape[0], None if starts is not None else width

        def in_rows(values):
            filled = tf.scatter_nd(tf.stack([row, number], axis=1), values, (shape[0], width))
            return tf.ensure_shape(filled, static)

        masked = {
            "masked_lm_ids": in_rows(tf.boolean_mask(tokens.ids, chosen)),
            "masked_lm_weights": in_rows(tf.ones_like(row, tf.float32)),
        }
        input_ids = tf.ensure_shape(tf.reshape(replaced, shape), ids.shape)
        features = {**features, "input_ids": input_ids, "masked_lm_positions": in_rows(position)}
        return features, {**targets, **masked}

    def _replacements(self, ids, draw):
        """<int32>[N], what stands in the place of each token if it is to be predicted."""
        share = draw.uniform(_REPLACEMENT)
        count = self.vocab_size if self.random_ids is None else len(self.random_ids)
        random = tf.bitwise.right_shift(
            tf.cast(draw.bits(_TOKEN), tf.uint64) * tf.constant(count, tf.uint64),
            tf.constant(32, tf.uint64),
        )
        random = tf.cast(random, tf.int32)
        if self.random_ids is not None:
            random = tf.gather(tf.constant(self.random_ids, tf.int32), random)
        is_random = share < self.mask_share + self.random_share
        other = tf.where(is_random, random, ids)
        return tf.where(share < self.mask_share, self.mask_id, other)


@dataclass(frozen=True)
class GivenMasks:
    """Finds the [MASK]s that stand in a text already. Call: as of Masking.

    width: int, P: the most that a row has.
    """

    mask_id: int
    width: int

    def __call__(self, features, targets, epoch, rows):
        del epoch, rows
        ids = features["input_ids"]
        row, position = tf.unstack(tf.where(ids == self.mask_id), axis=1)
        number = tf.range(tf.size(row, tf.int64)) - tf.searchsorted(row, row, out_type=tf.int64)
        shape = tf.shape(ids, tf.int64)[0], tf.constant(self.width, tf.int64)
        place, position = tf.stack([row, number], axis=1), tf.cast(position, tf.int32)
        positions = tf.ensure_shape(
            tf.scatter_nd(place, position, shape), (ids.shape[0], self.width)
        )
        return {**features, "masked_lm_positions": positions}, targets


def tokenize_with_masks(rows, tokenizer):
    """Returns Tokens of texts in which each [MASK] is one token, as `tokenize_texts`.

    rows: list of tuples of K str. [MASK] stands for the tokenizer's mask_token. Raises UserError
    where no text has one.
    """
    texts = [text for row in rows for text in row]
    mask_id, mask = mask_id_of(tokenizer), tokenizer.mask_token
    parts = [text.split(mask) for text in texts]
    if all(len(each) == 1 for each in parts):
        raise UserError(
            f"{texts[0]!r} has no {mask}; write {mask} in the place of each word to fill in"
        )
    if tokenizer.mask_takes_blank:
        parts = [[*(piece.rstrip() for piece in each[:-1]), each[-1]] for each in parts]
    pieces = tokenize_texts([(piece,) for each in parts for piece in each], tokenizer)
    ids = iter(np.split(pieces.ids, pieces.offsets[1:-1]))
    joined, offsets = [], [0]
    for each in parts:
        joined += next(ids).tolist()
        for _ in each[1:]:
            joined += [mask_id, *next(ids).tolist()]
        offsets.append(len(joined))
    return Tokens(np.array(joined, np.int32), np.array(offsets), {}, len(rows[0]))


def mask_id_of(tokenizer):
    """Returns the id of [MASK]. Raises UserError where the vocabulary has none."""
    mask = tokenizer.mask_token
    if mask not in tokenizer.vocab:
        raise UserError(
            f"{tokenizer.source} has no {mask or '[MASK]'}, which stands in the place of a word to "
            "predict; give a vocabulary of BERT, or add the line"
        )
    return tokenizer.vocab.index(mask)


def make_masking(tokenizer, cfg, seed=0):
    """Returns the Masking of complete InputParams.

    Raises UserError where the vocabulary has no [MASK].
    """
    vocab = tokenizer.vocab
    mask_id, separator = mask_id_of(tokenizer), cfg.document_separator_token
    if separator not in vocab:
        raise UserError(
            f"document_separator_token is {separator}, which {tokenizer.source} does not have; "
            "write one of its tokens, or leave the key out"
        )
    never = {tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, vocab.index(separator)}
    continues = random_ids = None
    if cfg.mask_whole_word or cfg.max_ngram > 1:
        if not tokenizer.in_graph:
            raise UserError(
                f"mask_whole_word and max_ngram read the ## of WordPiece, and {tokenizer.source} "
                "is another vocabulary; leave the keys out"
            )
        continues = np.array([token.startswith(CONTINUATION) for token in vocab])
    if cfg.random_tokens == "ordinary":
        ordinary = [i for i, token in enumerate(vocab) if not tokenizer.is_special(token)]
        random_ids = np.array(ordinary, np.int32)
    return Masking(
        cfg.masked_lm_prob,
        cfg.num_predictions,
        mask_id,
        len(vocab),
        tuple(sorted(never)),
        continues,
        cfg.max_ngram,
        cfg.mask_replace_prob,
        cfg.random_replace_prob,
        random_ids,
        seed,
        cfg.invert_mask,
    )


class _Tokens:
    """The N = R * T tokens of a batch, one behind the other.

    Attributes:
        ids: <int32>[N]; place: <int32>[N], 0 to N - 1; count: <int32>[], N.
        row: <int32>[N], the short row of each; position: <int32>[N], its place there.
        is_candidate: <bool>[N], it may be predicted.
        num_wanted: <int32>[B], how many of a row are to be predicted.
    """

    def __init__(self, ids, input_mask, starts, rows, masking):
        shape, num_rows = tf.shape(ids), tf.size(rows)
        self.ids = tf.reshape(ids, [-1])
        self.count = tf.size(ids)
        self.place = tf.range(self.count)
        if starts is None:
            starts = tf.range(num_rows) * shape[1]
        self.row = tf.searchsorted(starts, self.place, side="right") - 1
        self.position = self.place - tf.gather(starts, self.row)
        self.num_rows = num_rows
        is_real = tf.reshape(input_mask, [-1]) == (0 if masking.is_mask_inverted else 1)
        is_special = tf.reduce_any(self.ids[:, None] == list(masking.never_predicted), axis=1)
        self.is_candidate = is_real & ~is_special
        lengths = self.sum_of_rows(is_real)
        wanted = tf.round(tf.cast(lengths, tf.float64) * masking.share)  # halves to even
        wanted = tf.clip_by_value(tf.cast(wanted, tf.int32), 1, masking.max_predictions)
        self.num_wanted = tf.where((rows >= 0) & (lengths > 0), wanted, 0)

    def sum_of_rows(self, values):
        """<bool>[N] -> <int32>[B]."""
        return tf.math.unsorted_segment_sum(tf.cast(values, tf.int32), self.row, self.num_rows)


class _Draw:
    """Random bits of every token, a hash of (seed, epoch, row, position, purpose)."""

    def __init__(self, seed, epoch, rows, tokens):
        rows = tf.cast(tf.maximum(rows, 0), tf.uint64)
        low = tf.cast(tf.bitwise.bitwise_and(rows, tf.constant(2**32 - 1, tf.uint64)), tf.uint32)
        high = tf.cast(tf.bitwise.right_shift(rows, tf.constant(32, tf.uint64)), tf.uint32)
        key = tf.constant(seed & 0xFFFFFFFF, tf.uint32)
        for part in (tf.constant(seed >> 32, tf.uint32), tf.cast(epoch, tf.uint32), high, low):
            key = _mix(key * _GOLDEN + part)
        self.key = tf.gather(key, tokens.row) * _GOLDEN + tf.cast(tokens.position, tf.uint32)

    def bits(self, purpose):
        """<uint32>[N]."""
        return _mix(_mix(self.key) * _GOLDEN + tf.constant(purpose, tf.uint32))

    def uniform(self, purpose):
        """<float64>[N] in [0, 1)."""
        return tf.cast(self.bits(purpose), tf.float64) * 2.0**-32


_GOLDEN = np.uint32(0x9E3779B9)  # 2^32 divided by the golden ratio


def _mix(bits):
    """ "lowbias32" of Chris Wellons' hash prospector: each input bit changes half of the others."""
    bits = tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, np.uint32(16)))
    bits *= np.uint32(0x7FEB352D)
    bits = tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, np.uint32(15)))
    bits *= np.uint32(0x846CA68B)
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, np.uint32(16)))


def _sorted_by(row, is_last, key):
    """Returns the order <int32>[N] of elements by row, those that come last, and key."""
    high = 2 * tf.cast(row, tf.int64) + tf.cast(is_last, tf.int64)
    return tf.argsort(high * 2**32 + tf.cast(key, tf.int64), stable=True)


def _first_of_each(counts):
    """<int32>[B] -> <int32>[B], where each row begins among all elements, sorted by row."""
    return tf.cumsum(counts, exclusive=True)


def _choose_tokens(tokens, key):
    """Returns <bool>[N]: of each row the candidates with the smallest keys, as many as wanted."""
    order = _sorted_by(tokens.row, ~tokens.is_candidate, key)
    first = _first_of_each(tokens.sum_of_rows(tf.ones_like(tokens.row, tf.bool)))
    rank = tokens.place - tf.gather(first, tf.gather(tokens.row, order))  # of order[i] in its row
    is_early = rank < tf.gather(tokens.num_wanted, tf.gather(tokens.row, order))
    is_early = tf.scatter_nd(order[:, None], is_early, tf.shape(order))
    return is_early & tokens.is_candidate


class _Words:
    """The W words of a batch, groups of neighbouring candidates, in the order of the text.

    Attributes:
        of_token: <int32>[N], the word of each token; of no meaning where it is no candidate.
        start, size, row: <int32>[W].
        num_following: <int32>[W], how many words from this one on stand side by side.
    """

    def __init__(self, tokens, continues):
        is_candidate, row = tokens.is_candidate, tokens.row
        follows = tf.concat([[False], is_candidate[:-1] & (row[1:] == row[:-1])], axis=0)
        if continues is not None:
            follows &= tf.gather(tf.constant(continues), tokens.ids)
        else:
            follows = tf.zeros_like(follows)
        is_start = is_candidate & ~follows
        self.of_token = tf.maximum(tf.cumsum(tf.cast(is_start, tf.int32)) - 1, 0)
        self.start = tf.cast(tf.where(is_start)[:, 0], tf.int32)
        self.count = tf.size(self.start)
        self.size = tf.math.unsorted_segment_sum(
            tf.cast(is_candidate, tf.int32), self.of_token, tf.maximum(self.count, 1)
        )[: self.count]
        self.row = tf.gather(row, self.start)
        is_beside = (self.start[1:] == (self.start + self.size)[:-1]) & (
            self.row[1:] == self.row[:-1]
        )
        run = tf.cumsum(tf.concat([[0], tf.cast(~is_beside, tf.int32)], axis=0))[: self.count]
        number = tf.range(self.count)
        last = tf.math.unsorted_segment_max(number, run, tf.maximum(self.count, 1))
        self.num_following = tf.gather(last, run) - number + 1


def _choose_words(tokens, words, key, draw, max_ngram):
    """Returns <bool>[N], the tokens of the chosen words, and the first word of each token's n-gram.

    In each row, by the order of their keys, n-grams are taken that fit into what is left, shorter
    ones where the drawn does not fit, and none that has a word already taken.
    """
    order = _sorted_by(words.row, tf.zeros_like(words.row), tf.gather(key, words.start))
    counts = tf.math.unsorted_segment_sum(tf.ones_like(words.row), words.row, tokens.num_rows)
    first = _first_of_each(counts)
    drawn = _draw_ngrams(words, draw, max_ngram)
    ends = tf.concat([[0], tf.cumsum(words.size)], axis=0)

    def is_unfinished(number, left, taken):
        return tf.reduce_any((left > 0) & (number < counts))

    def take_next(number, left, taken):
        is_there = (left > 0) & (number < counts)
        word = tf.gather(order, tf.where(is_there, first + number, 0))  # [B]
        length, size = tf.zeros_like(word), tf.zeros_like(word)
        for n in range(1, max_ngram + 1):
            end = tf.minimum(word + n, words.count)
            size_n = tf.gather(ends, end) - tf.gather(ends, word)
            fits = is_there & (n <= tf.gather(drawn, word)) & (size_n <= left)
            length, size = tf.where(fits, n, length), tf.where(fits, size_n, size)
        is_free = length > 0
        for n in range(max_ngram):
            other = tf.minimum(word + n, words.count - 1)
            is_free &= (n >= length) | (tf.gather(taken, other) < 0)
        for n in range(max_ngram):
            at = tf.boolean_mask(word + n, is_free & (n < length))
            source = tf.boolean_mask(word, is_free & (n < length))
            taken = tf.tensor_scatter_nd_update(taken, at[:, None], source)
        return number + 1, left - tf.where(is_free, size, 0), taken

    taken = tf.fill([words.count], -1)  # the first word of the n-gram that a word is part of
    _, _, taken = tf.while_loop(is_unfinished, take_next, (0, tokens.num_wanted, taken))
    taken = tf.concat([taken, [-1]], axis=0)  # a batch may have no word
    group = tf.gather(taken, tf.minimum(words.of_token, words.count))
    chosen = tokens.is_candidate & (group >= 0)
    return chosen, tf.maximum(group, 0)


def _draw_ngrams(words, draw, max_ngram):
    """Returns <int32>[W], how many words from each one on are to be taken together."""
    if max_ngram == 1:
        return tf.ones_like(words.start)
    sums = tf.constant(np.cumsum(1.0 / np.arange(1, max_ngram + 1)))  # 1 + 1/2 + ... + 1/n
    available = tf.minimum(words.num_following, max_ngram)
    place = tf.gather(draw.uniform(_NGRAM), words.start) * tf.gather(sums, available - 1)
    return tf.searchsorted(sums, place, side="right") + 1


def _at_most(chosen, group, key, long_row, width):
    """Returns <bool>[N], `chosen` without the groups that exceed `width` in their long row."""
    order = _sorted_by(long_row, ~chosen, key)
    first = tf.searchsorted(tf.gather(long_row, order), tf.range(tf.reduce_max(long_row) + 1))
    place = tf.range(tf.size(order)) - tf.gather(first, tf.gather(long_row, order))
    rank = tf.scatter_nd(order[:, None], place, tf.shape(order))
    last = tf.math.unsorted_segment_max(tf.where(chosen, rank, -1), group, tf.size(group))
    return chosen & (tf.gather(last, group) < width)
