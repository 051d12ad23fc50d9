# SPDX-License-Identifier: Apache-2.0
"""The tokens of a split: the ids of all texts in one array, cached on disk between runs.

Tokenising SST-2 takes about a second, reading the cache a few milliseconds. All runs, epochs and
sequence lengths share it, because special tokens, truncation and padding come later.
"""

import contextlib
import hashlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.console import log
from common.errors import UserError
from common.files import delete_leftovers
from common.platform.seal import NotSealed, read_sealed, write_sealed
from common.signals import poll
from input.word_rows import Words

WORDS_PER_CALL = 16384
ROWS_PER_CALL = 1024  # rows tokenised at once: enough to amortise a call, small in memory
TARGETS, WORDS = "targets/", "words/"  # prefixes of their names in a file
# {path: Tokens} of the split whose batches a start has counted and is about to make.
_ahead = {}


@dataclass(frozen=True)
class Tokens:
    """Token ids of every text of a split, without special tokens.

    The ids of text k of row n begin at offsets[n * K + k] and end at the next offset.
    """

    ids: np.ndarray  # int32 [sum of lengths], text after text, row after row
    offsets: np.ndarray  # int64 [N * K + 1]
    targets: dict[str, np.ndarray]  # {name: [N, ...]}; empty for texts without labels
    texts_per_row: int  # K, 1 or 2
    skipped: tuple[str, ...] = ()  # a sentence for each row of the source that was skipped
    words: Words | None = None  # of the last text of each row, for tasks that answer for words
    # {name: int32, as long as ids}, what is true of each token; -1 where nothing is.
    token_targets: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self):
        return (len(self.offsets) - 1) // self.texts_per_row

    @property
    def lengths(self):
        """Tokens of each text, int64 [N, K]."""
        return np.diff(self.offsets).reshape(len(self), self.texts_per_row)

    def take(self, rows):
        """Returns the Tokens of some rows, in the order given. rows: int [M]."""
        words = None if self.words is None else self.words.take(rows)
        lengths = self.lengths[rows]
        starts = self.offsets[:-1].reshape(len(self), self.texts_per_row)[rows].ravel()
        offsets = np.concatenate([[0], np.cumsum(lengths.ravel())])
        places = np.repeat(starts - offsets[:-1], lengths.ravel()) + np.arange(offsets[-1])
        targets = {name: array[rows] for name, array in self.targets.items()}
        of_tokens = {name: array[places] for name, array in self.token_targets.items()}
        return replace(
            self,
            ids=self.ids[places],
            offsets=offsets,
            targets=targets,
            words=words,
            token_targets=of_tokens,
        )


def tokenize_rows(rows, tokenizer, texts_per_row):
    """Returns the Tokens of a tf.data.Dataset of (texts <string>[n, K], {target: [n, ...]})."""

    @tf.autograph.experimental.do_not_convert  # no control flow depends on a tensor
    def tokenize(texts, targets):
        ragged = tokenizer.traced(tf.reshape(texts, [-1]))
        return ragged.flat_values, ragged.row_lengths(), targets

    batches = rows.map(tokenize, num_parallel_calls=2).prefetch(2)
    ids, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    targets = {
        name: [np.zeros((0, *spec.shape[1:]), spec.dtype.as_numpy_dtype)]
        for name, spec in rows.element_spec[1].items()
    }
    for batch_ids, batch_lengths, batch_targets in batches.as_numpy_iterator():
        poll()
        ids.append(batch_ids)
        lengths.append(batch_lengths)
        for name, array in batch_targets.items():
            targets[name].append(array)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return Tokens(
        np.concatenate(ids).astype(np.int32),
        offsets.astype(np.int64),
        {name: np.concatenate(arrays) for name, arrays in targets.items()},
        texts_per_row,
    )


def tokenize_source(source, split, tokenizer):
    """Returns the Tokens of a split of a Source with texts."""
    texts_per_row = len(source.processor.text_keys)
    return tokenize_rows(source.read(split, ROWS_PER_CALL), tokenizer, texts_per_row)


def tokenize_texts(rows, tokenizer):
    """Returns Tokens without targets of texts: a list of at least one tuple of K str.

    As `tokenize_rows`, without a Dataset: to make one and its iterator takes 0.13 s.
    """
    texts = [text for row in rows for text in row]
    ids, lengths = _tokenize_in_calls(texts, tokenizer, ROWS_PER_CALL)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Tokens(ids, offsets.astype(np.int64), {}, len(rows[0]))


def _tokenize_in_calls(texts, tokenizer, texts_per_call):
    """Returns the tokens of all texts, int32 [T], and how many each has, int64 [N]."""
    ids, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    for start in range(0, len(texts), texts_per_call):
        poll()
        ragged = tokenizer.traced(tf.constant(texts[start : start + texts_per_call], tf.string))
        ids.append(ragged.flat_values.numpy())
        lengths.append(ragged.row_lengths().numpy())
    return np.concatenate(ids).astype(np.int32), np.concatenate(lengths)


def tokenize_words(rows, labels, tokenizer, is_first_bare=False):
    """Returns the Tokens of texts that are split into words, with `words`.

    rows: list of sequences of str, the words of each text. labels: int [W], of all words, or -1.
    is_first_bare: bool, as of `in_sentence` of the tokenizer.
    """
    flat = [word for row in rows for word in tokenizer.in_sentence(row, is_first_bare)]
    ids, num_pieces = _tokenize_in_calls(flat, tokenizer, WORDS_PER_CALL)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    ends = np.concatenate([[0], np.cumsum(num_pieces)])
    words = Words(offsets, num_pieces.astype(np.int32), np.asarray(labels, np.int32))
    return Tokens(ids, ends[offsets].astype(np.int64), {}, 1, words=words)


def tokenize_questions(texts, spans, answers, tokenizer):
    """Returns the Tokens of questions and their texts, with `words` of the texts; and the tokens of
    answers, a list of lists. A text of several questions is tokenised once.

    texts: list of (question, context). spans: {context: [W, 2]}, where its words stand. answers:
    list of str.
    """
    contexts = {context: n for n, context in enumerate(spans)}
    rows = [[text[a:b] for a, b in spans[text].tolist()] for text in contexts]
    labels = np.full(sum(map(len, rows)), -1, np.int32)
    of_contexts = tokenize_words(rows, labels, tokenizer, is_first_bare=True)
    others = [question for question, _ in texts] + answers
    others = tokenize_texts([(text,) for text in others], tokenizer)
    of_others = np.split(others.ids, others.offsets[1:-1])
    numbers = np.array([contexts[context] for _, context in texts])
    taken = of_contexts.take(numbers)
    lengths = np.stack([others.lengths[: len(texts), 0], taken.lengths[:, 0]], axis=1).ravel()
    parts = [None] * len(lengths)
    parts[::2] = of_others[: len(texts)]
    parts[1::2] = np.split(taken.ids, taken.offsets[1:-1])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = Tokens(np.concatenate(parts), offsets, {}, 2, words=taken.words)
    return tokens, [ids.tolist() for ids in of_others[len(texts) :]]


def load_tokens(source, split, tokenizer, cache_dir, is_ahead=False):
    """Returns the Tokens of a split of a Source, from the cache or else tokenised and then cached.

    cache_dir: Path, created if absent. If it cannot be written, nothing is cached; what another
    user has written there is not read (`common/platform/seal.py`).
    is_ahead: bool. Whether the tokens are kept in memory until `forget_tokens`, for the next call.

    Raises:
        UserError: the source's files change while they are read.
    """
    content = source.fingerprint(split)
    fingerprint = hashlib.sha256(f"{content}|{tokenizer.fingerprint}".encode()).hexdigest()
    name = re.sub(r"[^\w.-]", "-", f"{source.processor.dataset}-{split}")
    path = Path(cache_dir) / f"{name}-{fingerprint[:16]}.safetensors"
    texts_per_row = len(source.processor.text_keys)
    tokens = _ahead.get(path)
    if tokens is None:
        tokens = _read(path, texts_per_row, fingerprint, tokenizer.vocab_size)
    if tokens is None:
        tokens = source.tokenize(split, tokenizer)
        tokens = replace(tokens, skipped=tuple(source.skipped(split)))
        check_unchanged(source, split, content)
        with contextlib.suppress(OSError):  # without a cache on a read-only or full disk
            write_sealed(path, _serialized(tokens), fingerprint)
            delete_leftovers(path.parent)
    if is_ahead:
        forget_tokens()
        _ahead[path] = tokens
    return tokens


def forget_tokens():
    """Frees the tokens that were read ahead."""
    _ahead.clear()


def check_unchanged(source, split, fingerprint):
    """Raises UserError if a split's files no longer have this fingerprint."""
    if source.fingerprint(split) != fingerprint:
        raise UserError(
            f"split {split} of {source} changed while it was read; start again when the program "
            "that writes it has finished"
        )


def _serialized(tokens):
    """Returns the content of a cache file, without its seal."""
    arrays = {"ids": tokens.ids, "offsets": tokens.offsets}
    arrays |= {f"{TARGETS}{name}": array for name, array in tokens.targets.items()}
    if tokens.words is not None:
        arrays |= {f"{WORDS}{name}": array for name, array in vars(tokens.words).items()}
    skipped = "\n".join(tokens.skipped).encode("utf-8", "backslashreplace")
    return save(arrays | {"skipped": np.frombuffer(skipped, np.uint8)})


def _read(path, texts_per_row, fingerprint, vocab_size):
    """Returns Tokens, or None if the file is absent, or not what this user's runs write."""
    try:
        arrays = load(read_sealed(path, fingerprint))
        skipped = arrays.pop("skipped").tobytes().decode()
        names = [name for name in arrays if name.startswith(WORDS)]
        words = {name.removeprefix(WORDS): arrays.pop(name) for name in names}
        tokens = Tokens(
            arrays.pop("ids"),
            arrays.pop("offsets"),
            {name.removeprefix(TARGETS): array for name, array in arrays.items()},
            texts_per_row,
            tuple(skipped.split("\n")) if skipped else (),
            Words(**words) if words else None,
        )
        _check_ranges(tokens, vocab_size)
        return tokens
    except OSError:
        return None
    except (NotSealed, KeyError, ValueError, TypeError, SafetensorError) as error:
        log(f"{path} is not used: {error}; the texts are tokenised again")
        return None


def _check_ranges(tokens, vocab_size):
    """Raises ValueError where ids are in no vocabulary, or offsets or targets in no row."""
    ids, offsets = tokens.ids, tokens.offsets
    is_whole = (
        (ids.dtype, offsets.dtype) == (np.int32, np.int64)
        and offsets[0] == 0
        and offsets[-1] == len(ids)
        and (np.diff(offsets) >= 0).all()
        and (len(offsets) - 1) % tokens.texts_per_row == 0
        and all(len(array) == len(tokens) for array in tokens.targets.values())
    )
    if not is_whole or (len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size):
        raise ValueError("it has ids, offsets or targets out of range")
    if tokens.words is not None:
        tokens.words.check(tokens.lengths[:, -1])
