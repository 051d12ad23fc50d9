# SPDX-License-Identifier: Apache-2.0
"""Text -> files of pre-training records that Google's and the original's programs read, too."""

import contextlib
import json
import os
import random
import tempfile
from array import array
from dataclasses import asdict, dataclass
from pathlib import Path

import tensorflow as tf

from common.errors import UserError
from common.files import flush, write_whole
from common.signals import poll
from input.records.corpus import Corpus
from input.records.google import Masking, pairs
from input.records.mlm_only import masked, windows
from input.tokenizers.wordpiece import CLS, CONTINUATION, SEP

MASK = "[MASK]"
GOOGLE, MLM_ONLY = "google", "mlm_only"
DATA_PARAMS = "data_params.json"  # the original's, beside its records


@dataclass(frozen=True)
class RecordSettings:
    """How records are made; the params of the same names say what each means."""

    max_sequence_length: int
    max_predictions_per_seq: int
    masked_lm_prob: float = 0.15
    mask_whole_word: bool = False
    dupe_factor: int = 10
    short_seq_prob: float = 0.1
    min_short_seq_length: int | None = None
    random_seed: int = 12345
    records: str = GOOGLE
    # Of mlm_only
    overlap_size: int = 0
    buffer_size: int = 1_000_000
    allow_cross_document_examples: bool = False
    document_separator_token: str = SEP
    disable_masking: bool = False
    # Files
    name: str = "examples"
    num_output_files: int = 10


@dataclass(frozen=True)
class Written:
    """What `write_records` has made."""

    paths: list[Path]
    num_documents: int
    num_tokens: int  # of the documents
    num_examples: int


def write_records(documents, tokenizer, settings, folder):
    """Writes records of documents to a folder. Returns Written.

    The tokens of the documents, and the examples in the order of their creation, lie in temporary
    files of the folder: in memory are 16 bytes an example.

    Args:
        documents: iterable of documents, each an iterable of lines, str. A line is a sentence.
        tokenizer: WordPieceTokenizer.
        settings: RecordSettings.
        folder: path-like. Files of the same names are replaced, each when all are complete.
    Raises:
        UserError: the settings contradict each other, or there is no text.
        OSError: the folder cannot be written.
    """
    ids = _special_ids(tokenizer, settings)
    _check(settings)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(settings.random_seed)
    with (
        tempfile.TemporaryFile(dir=folder) as tokens,
        tempfile.TemporaryFile(dir=folder) as created,
    ):
        corpus = Corpus(documents, tokenizer, tokens)
        if not len(corpus):
            raise UserError("the documents have no word; records need text")
        examples = _examples(corpus, tokenizer, settings, ids, rng)
        places = array("q", [0])
        for example in examples:
            poll()
            created.write(example)
            places.append(places[-1] + len(example))
        created.flush()
        order = array("q", range(len(places) - 1))
        rng.shuffle(order)
        contents = (os.pread(created.fileno(), places[i + 1] - places[i], places[i]) for i in order)
        number = settings.num_output_files
        paths = [folder / f"{settings.name}-{i + 1}.tfrecords" for i in range(number)]
        _write(contents, paths)
    written = Written(paths, len(corpus), corpus.num_tokens, len(order))
    facts = asdict(settings) | {"n_examples": written.num_examples, "n_docs": written.num_documents}
    write_whole(folder / DATA_PARAMS, json.dumps(facts, indent=1) + "\n")
    return written


def _check(settings):
    """Raises UserError where windows could not go on."""
    if settings.records != MLM_ONLY:
        return
    room, overlap = settings.max_sequence_length - 2, settings.overlap_size
    shortest = settings.min_short_seq_length or 2 + overlap
    if not overlap < shortest <= room:
        raise UserError(
            f"overlap_size is {overlap} and min_short_seq_length {shortest}: the first has to be "
            f"the smaller one, and the second at most {room}, max_sequence_length without [CLS] "
            "and [SEP]"
        )


def _special_ids(tokenizer, settings):
    """Returns {token: id} of what the records need. Raises UserError where one is missing."""
    wanted = dict.fromkeys((MASK, CLS, SEP, settings.document_separator_token))
    missing = [token for token in wanted if token not in tokenizer.vocab]
    if missing:
        raise UserError(
            f"{tokenizer.source} has no entry {', '.join(missing)}, which records need; give a "
            "vocabulary that has"
        )
    return {token: tokenizer.vocab.index(token) for token in wanted}


def _examples(corpus, tokenizer, settings, ids, rng):
    """Yields the serialised examples, in the order of their creation: bytes."""
    special = ids[CLS], ids[SEP]
    never, continues = {ids[CLS], ids[SEP]}, ()
    if settings.mask_whole_word:
        continues = tuple(entry.startswith(CONTINUATION) for entry in tokenizer.vocab)
    if settings.records == MLM_ONLY:
        never.add(ids[settings.document_separator_token])
    masking = Masking(
        settings.masked_lm_prob,
        settings.max_predictions_per_seq,
        tokenizer.vocab_size,
        ids[MASK],
        frozenset(never),
        continues,
    )
    if settings.records == GOOGLE:
        order = list(range(len(corpus)))
        rng.shuffle(order)
        examples = pairs(corpus, order, settings, masking, special, rng)
    else:
        rows = windows(corpus, settings, ids[settings.document_separator_token], rng)
        if settings.disable_masking:
            entries = [entry.encode() for entry in tokenizer.vocab]
            for row in rows:
                yield _sequence_example(
                    [entries[token] for token in (special[0], *row, special[1])]
                )
            return
        examples = masked(rows, masking, special, rng)
    for example in examples:
        yield _serialized(example, settings)


def _serialized(example, settings):
    """Returns the bytes of a tf.train.Example, padded with zeros."""
    length, most = settings.max_sequence_length, settings.max_predictions_per_seq
    size, number = len(example.ids), len(example.positions)
    rest, unused = [0] * (length - size), [0] * (most - number)
    features = {
        "input_ids": example.ids + rest,
        "input_mask": [1] * size + rest,
        "masked_lm_positions": example.positions + unused,
        "masked_lm_ids": example.labels + unused,
    }
    if example.is_random_next is not None:
        first = example.num_first
        features["segment_ids"] = [0] * first + [1] * (size - first) + rest
        features["next_sentence_labels"] = [int(example.is_random_next)]
    message = tf.train.Example()
    for name, values in features.items():
        message.features.feature[name].int64_list.value.extend(values)
    weights = message.features.feature["masked_lm_weights"].float_list.value
    weights.extend([1.0] * number + [0.0] * len(unused))
    return message.SerializeToString(deterministic=True)


def _sequence_example(tokens):
    """Returns the bytes of a tf.train.SequenceExample of one token a step. tokens: of bytes."""
    message = tf.train.SequenceExample()
    steps = message.feature_lists.feature_list["tokens"].feature
    for token in tokens:
        steps.add().bytes_list.value.append(token)
    return message.SerializeToString(deterministic=True)


def _write(contents, paths):
    """Deals records to files in turns; they get their names when all are complete."""
    temporary = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in paths]
    try:
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(tf.io.TFRecordWriter(str(path))) for path in temporary]
            for number, content in enumerate(contents):
                poll()
                writers[number % len(writers)].write(content)
        for path, final in zip(temporary, paths, strict=True):
            flush(path)
            os.replace(path, final)
    except tf.errors.OpError as error:  # such as a full disk
        raise OSError(None, error.message, str(paths[0].parent)) from error
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)
