# SPDX-License-Identifier: Apache-2.0
"""The original's records of tagged words and of questions: tf.train.Examples of ids.

    words       write_tfrecords_ner.py: input_ids, input_mask, segment_ids, label_ids [MSL], and
                label2id.json; a label for the first piece of a word, X for the others
    questions   json2tfrecords.py and google-research/bert run_squad.py: unique_ids, input_ids,
                input_mask, segment_ids, start_positions, end_positions; a window each

Rows keep their ids: they are not made again from words, of which records hold none.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from common.checkpoints.vocab import read_vocab
from common.errors import UserError
from common.files import sha256_once
from common.tasks.targets import LabelColumn
from input.questions import Answer
from input.records.tfrecord import RecordFault, scan
from input.sources.conll import Sentences, joined
from input.sources.file_source import read_bytes
from input.sources.squad import Question, Questions
from input.sources.tagged import TaggedSource
from input.sources.text_files import RowFault
from input.token_cache import Tokens
from input.tokenizers.wordpiece import CLS, SEP
from input.word_rows import Words

PATTERN = "*.tfrecord*"
LABELS = "label2id.json"  # beside the records, by the program that writes them
CONTINUES = "X"  # the label of a piece that is not a word's first
NO_LABELS = ("[PAD]", CONTINUES, "[CLS]", "[SEP]")
OF_ROWS = ("input_ids", "input_mask", "segment_ids")


def read_examples(paths, names):
    """Yields (path, record, {name: int64 [any]} or a fault) of the tf.train.Examples of files.

    names: the features of whole numbers that a record has to have. Raises UserError where a file
    cannot be read.
    """
    for path in paths:
        number = 0
        try:
            for _, contents in scan(path):
                for row in _rows(contents, names):
                    yield path, number, row
                    number += 1
        except RecordFault as fault:
            yield path, fault.record, f"and the rest of the file: {fault}"
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _rows(contents, names):
    """Returns {name: int64 [any]}, or a fault, of each record: list. contents: list of bytes."""
    spec = {name: tf.io.RaggedFeature(tf.int64) for name in names}
    try:
        parsed = tf.io.parse_example(contents, spec)
    except tf.errors.OpError:
        if len(contents) == 1:
            return ["is no tf.train.Example of whole numbers"]
        return [row for content in contents for row in _rows([content], names)]
    rows = []
    ends = {name: parsed[name].row_splits.numpy() for name in names}
    values = {name: parsed[name].flat_values.numpy() for name in names}
    for n in range(len(contents)):
        row = {name: values[name][ends[name][n] : ends[name][n + 1]] for name in names}
        missing = [name for name in names if not len(row[name])]
        rows.append(f"has no feature {', '.join(missing)}" if missing else row)
    return rows


@dataclass(frozen=True)
class Pieces:
    """The tokens of a window: of question and text, of each word of the text, of the answer."""

    question: np.ndarray
    text: np.ndarray
    num_pieces: np.ndarray
    answer: tuple[int, int]  # the first and the last one in the text, or -1 and -1


class TaggedRecordSource(TaggedSource):
    """A TaggedSource over the original's records.

    A word is its pieces together, and its label that of the first. [CLS], [SEP], padding and the
    pieces after the first have no labels here, so that the original's seven labels are three.

    Args:
        cfg: InputParams: data_dir, label_vocab_file, vocab_file, on_bad_row, tag_scheme.
        processor, targets, needs_targets: see Source.
    Raises:
        UserError: a file cannot be read, or its records cannot be used.
    """

    unit = "record"

    def __init__(self, cfg, processor, targets, needs_targets=True):
        self.processor, self.needs_targets = processor, needs_targets
        self._skips_bad_rows, self._scheme = cfg.on_bad_row == "skip", cfg.tag_scheme
        self._folders = [cfg.data_dir] if isinstance(cfg.data_dir, str) else list(cfg.data_dir)
        self._paths = record_files(self._folders)
        self._vocab_file, self._vocab = cfg.vocab_file, read_vocab(cfg.vocab_file)
        self._of_split, self._places, self._pieces = {}, [], {}
        path = _label_file(cfg, self._paths[0].parent)
        self._name_of = _label_ids(path)
        names = tuple(name for name in self._name_of.values() if name not in NO_LABELS)
        self.targets = targets.named(LabelColumn(str(path), "label_ids", "class", names))

    def __str__(self):
        return f"the records in {', '.join(self._folders)}"

    def damages(self, split):
        """Returns []: what cannot be read is among the faults of the rows."""
        del split
        return []

    def tokenize(self, split, tokenizer):
        del tokenizer  # the ids are those of the records
        rows = self._rows(split)
        number = {name: place for place, name in enumerate(self.targets.label_names)}
        labels = [number[label] for row in rows for label in row.labels]
        ids, num_pieces = zip(*(self._pieces[row.line] for row in rows), strict=True)
        offsets = np.cumsum([0, *map(len, num_pieces)])
        words = Words(
            offsets.astype(np.int64),
            np.concatenate(num_pieces).astype(np.int32),
            np.array(labels, np.int32),
        )
        ends = np.cumsum([0, *map(len, ids)]).astype(np.int64)
        return Tokens(np.concatenate(ids).astype(np.int32), ends, {}, 1, words=words)

    def _where(self, split):
        del split  # each input has the records of its own folder
        return str(self)

    def _name(self, number):
        path, record = self._places[number]
        return f"{path.name}, record {record}"

    def _settings(self, split):
        del split
        labels = list(self._name_of.items())
        return ["records", labels, hashlib.sha256("\n".join(self._vocab).encode()).hexdigest()]

    def _content(self, split):
        del split
        return "|".join(map(sha256_once, self._paths)).encode()

    def _parsed(self, split, content):
        del split, content
        rows, faults, self._places = [], [], []
        examples = read_examples(self._paths, (*OF_ROWS, "label_ids"))
        for number, (path, record, row) in enumerate(examples):
            self._places.append((path, record))
            try:
                rows.append(self._sentence(number, row))
            except RowFault as fault:
                faults.append((number, str(fault)))
        return Sentences(rows, faults)

    def _sentence(self, number, row):
        """Returns the Sentence of a record, and keeps its pieces. Raises RowFault."""
        tokens = tokens_of(row, self._vocab, f"{self._vocab_file}")
        label_ids = row["label_ids"]
        if len(label_ids) != len(row["input_ids"]):
            raise RowFault("has label_ids of another length than input_ids")
        names = [self._name_of.get(each) for each in label_ids[1 : 1 + len(tokens)].tolist()]
        if None in names:
            raise RowFault(f"has a label id {label_ids[1 + names.index(None)]} without a name")
        strange = next((name for name in names if name in NO_LABELS and name != CONTINUES), None)
        if strange is not None or not names or names[0] == CONTINUES:
            raise RowFault(f"has the label {strange or CONTINUES} where a word begins")
        begins = np.flatnonzero([name != CONTINUES for name in names])
        parts = np.split(tokens, begins[1:])
        self._pieces[number] = tokens, np.array(list(map(len, parts)))
        words = [self._text(part) for part in parts]
        return joined(words, tuple(names[place] for place in begins.tolist()), number)

    def _text(self, ids):
        """Returns the word that some pieces are."""
        return "".join(self._vocab[each].removeprefix("##") for each in ids.tolist())


def tokens_of(row, vocab, vocab_file):
    """Returns the ids between [CLS] and the last [SEP] of a record, int64 [any].

    row: of `read_examples`, with OF_ROWS. Raises RowFault; UserError for another vocabulary.
    """
    if isinstance(row, str):
        raise RowFault(row)
    ids, mask = row["input_ids"], row["input_mask"]
    count = int((mask != 0).sum())
    if {len(row[name]) for name in OF_ROWS} != {len(ids)} or mask[:count].min(initial=1) != 1:
        raise RowFault("has no input_mask of ones and then zeros, as many as input_ids")
    if not 0 <= ids.min() <= ids.max() < len(vocab):
        raise UserError(
            f"a record has ids from {ids.min()} to {ids.max()}, but {vocab_file} has 0 to "
            f"{len(vocab) - 1}; give the vocabulary that the records were made with"
        )
    ends = [vocab[each] for each in ids[[0, max(count - 1, 0)]].tolist()]
    if count < 2 or ends != [CLS, SEP]:
        raise RowFault(f"does not begin with {CLS} and end with {SEP}")
    return ids[1 : count - 1]


def parse_question_records(path, vocab_file):
    """Parses a file of the original's records of questions. Returns Questions, whose `pieces` are
    those of the records: a window is a question of its own, its text that of the window.

    Raises UserError where it cannot be read.
    """
    vocab, rows, faults, pieces = read_vocab(vocab_file), [], [], {}
    names = (*OF_ROWS, "start_positions", "end_positions")
    for _, record, row in read_examples([path], names):
        place = f"{path}, record {record}"
        try:
            row, of_row = _window(row, vocab, vocab_file, place)
            rows.append(row)
            pieces[row.id] = of_row
        except RowFault as fault:
            faults.append(f"{place}: {fault}")
    if not rows and not faults:
        raise UserError(f"{path} holds no record")
    return Questions(rows, faults, [], pieces)


def _window(row, vocab, vocab_file, place):
    """Returns the Question of a record, and its Pieces. Raises RowFault."""
    tokens = tokens_of(row, vocab, vocab_file)
    is_text = row["segment_ids"][1 : 1 + len(tokens)] != 0
    number = int((~is_text).sum()) - 1  # of the question; [SEP] follows it
    if number < 0 or is_text[:number].any() or vocab[tokens[number]] != SEP:
        raise RowFault(f"has no question and {SEP} before the text, whose segment_ids are 1")
    question, text = tokens[:number], tokens[number + 1 :]
    first, last = (int(row[f"{side}_positions"][0]) - number - 2 for side in ("start", "end"))
    if (first, last) != (-number - 2,) * 2 and not 0 <= first <= last < len(text):
        raise RowFault("has an answer outside its text")
    entries = [vocab[each] for each in text.tolist()]
    begins = [not (entry.startswith("##") and n) for n, entry in enumerate(entries)]
    num_pieces = np.diff([*np.flatnonzero(begins), len(text)])
    words = [
        "".join(entry.removeprefix("##") for entry in entries[a : a + n])
        for a, n in zip(np.flatnonzero(begins).tolist(), num_pieces.tolist(), strict=True)
    ]
    answers = ()
    if first >= 0:
        answer = " ".join(entries[first : last + 1]).replace(" ##", "")
        answers = (Answer(answer, -1),)  # where it stands, the tokens say
    asked = " ".join(vocab[each] for each in question.tolist()).replace(" ##", "")
    name = place.rpartition(" ")[2]
    of_row = Pieces(question, text, num_pieces, (first, last) if first >= 0 else (-1, -1))
    return Question(name, asked, " ".join(words), answers, place), of_row


def tokens_of_records(rows, pieces):
    """Returns the Tokens of Questions of records, as `QuestionSource.tokenize` says.

    pieces: {id: Pieces}.
    """
    of_rows = [pieces[row.id] for row in rows]
    ids = [part for each in of_rows for part in (each.question, each.text)]
    num_pieces = np.concatenate([each.num_pieces for each in of_rows]).astype(np.int32)
    words = np.cumsum([0, *(len(each.num_pieces) for each in of_rows)]).astype(np.int64)
    labels = np.full(len(num_pieces), -1, np.int32)
    offsets = np.cumsum([0, *map(len, ids)]).astype(np.int64)
    targets = {"answer_tokens": np.array([each.answer for each in of_rows], np.int32)}
    ids = np.concatenate(ids).astype(np.int32)
    return Tokens(ids, offsets, targets, 2, words=Words(words, num_pieces, labels))


def record_files(folders):
    """Returns the files of records in folders, each folder's by name. Raises UserError."""
    paths = []
    for folder in map(Path, folders):
        found = sorted(path for path in folder.glob(PATTERN) if path.is_file())
        if not found:
            what = f"has no file {PATTERN}" if folder.is_dir() else "is no folder"
            raise UserError(f"data_dir: {folder} {what}; write the folder of the records")
        paths += found
    return paths


def _label_file(cfg, folder):
    """Returns the file of label names. The original's files name the vocabulary of words there,
    which its reader never opens."""
    path = cfg.label_vocab_file
    return folder / LABELS if path in (None, cfg.vocab_file) else Path(path)


def _label_ids(path):
    """Returns {id: name} of a file {name: id}, in the order of the ids. Raises UserError."""
    content = read_bytes(path)
    try:
        found = json.loads(content)
        is_ids = all(type(each) is int for each in found.values())
        names = {number: name for name, number in found.items()}
    except (ValueError, AttributeError, RecursionError):
        is_ids, found, names = False, {}, {}
    if not is_ids or len(names) != len(found) or not names:
        raise UserError(
            f"{path} is no JSON of label names and their ids, such as the {LABELS} that "
            'write_tfrecords_ner.py writes: {"B": 1, "I": 2, ...}; write label_vocab_file'
        )
    return dict(sorted(names.items()))
