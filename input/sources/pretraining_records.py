# SPDX-License-Identifier: Apache-2.0
"""Pre-training records of Google's, Model Garden's and the original's programs, read by position.

Their rows are `Blocks`: any of them is read by its number, so that the order of an epoch is a plan,
and a resume at any step is exact. Nothing is kept in memory but an index (`records/index.py`).
"""

import hashlib
from pathlib import Path

import numpy as np

from common.console import counted
from common.errors import UserError
from common.files import cache_dir
from common.params.pretraining import DYNAMIC, WITH_PAIRS
from input.records.examples import DynamicDecoder, StaticDecoder
from input.records.file_masks import FileMasks
from input.records.index import ENTRY, open_index
from input.records.tfrecord import read_records
from input.tokenizers.wordpiece import UNK

PATTERN = "*.tfrecord*"  # the original's
MAX_LISTED = 20
MAX_SHOWN_TOKENS = 5
MAX_UNKNOWN_SHARE = 0.5  # of the tokens; more come from another vocabulary


class PretrainingRecords:
    """The rows of one input section.

    Args:
        cfg: InputParams: data_processor, data_dir, max_sequence_length, max_predictions_per_seq,
            on_bad_row, cache_dir.
        tokenizer: WordPieceTokenizer.
    Attributes:
        texts_per_row: int. 2 for pairs.
        has_special_tokens: bool. Whether the ids of the rows include [CLS] and [SEP].
        masks: FileMasks, of the targets of the rows; None: they are to be drawn.
        length_counts: int [L + 1], how many rows have so many tokens, all texts together.
        content: str, how many rows there are, and a hash of them wherever the files lie.
        token_counts: int [V], how often the rows have each token before masking, but for [CLS],
            [SEP] and [PAD].
        skipped: list of sentences about records that are left out.
        notes: list of sentences for whoever trains on them.
    Raises:
        UserError: there is no file, one cannot be read, or has records that cannot be used.
    """

    def __init__(self, cfg, tokenizer):
        self._cfg, self._tokenizer = cfg, tokenizer
        if cfg.data_processor == DYNAMIC:
            self._room = cfg.max_sequence_length - 2
            self._decoder = DynamicDecoder(tokenizer, self._room)
        else:
            self._room = cfg.max_sequence_length
            has_pairs = cfg.data_processor == WITH_PAIRS
            self._decoder = StaticDecoder(has_pairs, cfg.num_predictions)
        self.texts_per_row = self._decoder.texts_per_row
        self.has_special_tokens = self._decoder.has_special_tokens
        folder = Path(cfg.cache_dir or cache_dir()) / "records"
        self._indexes = [open_index(path, self._decoder, folder) for path in _files(cfg.data_dir)]
        self._findings = [index.findings for index in self._indexes]
        self._paths = [index.readable for index in self._indexes]
        self._begins = np.cumsum([0, *(index.num_usable for index in self._indexes)])
        self.skipped = self._checked_faults()
        if not len(self):
            raise UserError(f"{self} hold no record that can be used")
        self.masks = None
        if self.has_special_tokens:
            self._check_sizes()
            densest = max(findings.densest for findings in self._findings)
            self.masks = FileMasks(cfg.num_predictions, densest)
        lengths = np.zeros(max(len(f.length_counts) for f in self._findings), np.int64)
        for findings in self._findings:
            lengths[: len(findings.length_counts)] += findings.length_counts
        cut = np.minimum(np.arange(len(lengths)), self._room)
        self.length_counts = np.bincount(cut, lengths, self._room + 1).astype(np.int64)
        self.token_counts = sum(f.counts_of_tokens(tokenizer.vocab_size) for f in self._findings)
        self.token_counts[[tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id]] = 0
        digest = hashlib.sha256()
        for findings in self._findings:
            digest.update(findings.content.encode())
        self.content = f"{len(self):,} rows, {digest.hexdigest()[:32]}"
        self.notes = [*self._about_unknown(), *self._about_cut(lengths)]

    def __str__(self):
        folders = self._cfg.data_dir
        return f"the records in {folders if isinstance(folders, str) else ', '.join(folders)}"

    def __len__(self):
        return int(self._begins[-1])

    def lengths(self, rows):
        """Returns the tokens of each text of some rows, int [M, K]. rows: int [M]."""
        return self._kept(self._entries(rows)[1])

    def read(self, rows):
        """Returns the Tokens of some rows. rows: int [M].

        Raises:
            UserError: a file is not there any more, or has other records than before.
        """
        files, entries = self._entries(rows)
        try:
            contents = read_records(self._paths, files, entries["start"], entries["size"])
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None
        groups = {}
        for place, file in enumerate(files.tolist()):
            names = self._indexes[file].findings.names
            groups.setdefault(tuple(names.items()), []).append(place)
        parts = [
            self._decoder.decode([contents[place] for place in places], dict(names))
            for names, places in groups.items()
        ]
        return parts[0] if len(parts) == 1 else _merged(parts, groups.values())

    def places(self, rows):
        """Returns the file and record of each row: list of str. Records count from 0."""
        files, entries = self._entries(rows)
        pairs = zip(files.tolist(), entries["record"].tolist(), strict=True)
        return [f"{self._indexes[file].path}, record {record}" for file, record in pairs]

    def _entries(self, rows):
        """Returns the file of each row, int [M], and its ENTRY."""
        rows = np.asarray(rows)
        files = np.searchsorted(self._begins, rows, side="right") - 1
        entries = np.empty(len(rows), ENTRY)
        for file in np.unique(files):
            is_here = files == file
            entries[is_here] = self._indexes[file].entries(rows[is_here] - self._begins[file])
        return files, entries

    def _kept(self, entries):
        """Returns the tokens of each text that max_sequence_length leaves, int [M, K]."""
        counts = [entries["first"], entries["second"]][: self.texts_per_row]
        return np.minimum(np.stack(counts, axis=1).astype(np.int64), self._room)

    # ---- What is found when they are opened ----

    def _checked_faults(self):
        """Returns sentences about bad records. Raises UserError unless they are to be skipped."""
        faults, number = [], 0
        for index in self._indexes:
            number += index.findings.num_faults
            faults += [
                f"{index.path}, record {record}: {text}" for record, text in index.findings.faults
            ]
        if number and self._cfg.on_bad_row == "error":
            listed = [f"  {fault}" for fault in faults[:MAX_LISTED]]
            if number > len(listed):
                listed.append(f"  and {number - len(listed):,} more")
            records = counted(number, "record")
            advice = "Make the files again; or write on_bad_row: skip to leave such records out"
            raise UserError("\n".join([f"{self}: {records} cannot be used", *listed, advice]))
        return faults

    def _largest(self, name):
        """Returns the largest value of a finding, and the place of its record."""
        of_files = [(getattr(index.findings, name), index.path) for index in self._indexes]
        (value, record), path = max(of_files, key=lambda finding: finding[0][0])
        return value, f"{path}, record {record}"

    def _check_sizes(self):
        """Raises UserError where a record has more than the params or the vocabulary allow."""
        cfg, size = self._cfg, self._tokenizer.vocab_size
        value, place = self._largest("largest_id")
        if value >= size:
            raise UserError(
                f"{place}: it has the id {value}, but {cfg.vocab_file} has the ids 0 to "
                f"{size - 1}; give the vocabulary that the records were made with"
            )
        value, place = self._largest("longest")
        if value > cfg.max_sequence_length:
            raise UserError(
                f"{place}: it has {value} tokens, but max_sequence_length is "
                f"{cfg.max_sequence_length}, and a row with its masks cannot be cut; write "
                f"max_sequence_length: {value}, or make the records again"
            )
        value, place = self._largest("most_masked")
        if value > self._cfg.num_predictions:
            raise UserError(
                f"{place}: it has {value} tokens to predict, but max_predictions_per_seq is "
                f"{self._cfg.num_predictions}; write max_predictions_per_seq: {value}"
            )

    def _about_unknown(self):
        """Returns sentences about tokens that the vocabulary lacks, where there are any.

        Raises:
            UserError: most tokens are unknown.
        """
        number = sum(each.num_unknown for each in self._findings)
        if not number:
            return []
        counts = {}
        for each in self._findings:
            for token, count in each.unknown.items():
                counts[token] = counts.get(token, 0) + count
        most = sorted(counts, key=counts.get, reverse=True)[:MAX_SHOWN_TOKENS]
        shown = ", ".join(f"{token} ({counted(counts[token], 'time')})" for token in most)
        share = number / max(1, sum(each.num_tokens for each in self._findings))
        text = (
            f"{counted(number, 'token')} of {self} ({share:.1%}) are not in "
            f"{self._cfg.vocab_file}, such as {shown}"
        )
        advice = "give the vocabulary that the records were made with"
        if share > MAX_UNKNOWN_SHARE:
            raise UserError(f"{text}; {advice}")
        return [f"{text}: each is read as {UNK}; {advice}"]

    def _about_cut(self, lengths):
        """Returns a sentence about rows that max_sequence_length cuts, if there are any.

        lengths: int [L], how many rows have 0, 1, ... tokens.
        """
        number = int(lengths[self._room + 1 :].sum())
        if not number:
            return []
        lost = int((np.maximum(np.arange(len(lengths)) - self._room, 0) * lengths).sum())
        return [
            f"max_sequence_length cuts {number:,} of {len(self):,} rows ({number / len(self):.1%}),"
            f" tokens lost: {lost:,}"
        ]


def _files(folders):
    """Returns the files of records in folders, one folder after the other, each sorted by name.

    folders: str, or several; one may be a file.

    Raises:
        UserError: there is none.
    """
    paths = []
    for folder in map(Path, [folders] if isinstance(folders, str) else folders):
        found = [folder] if folder.is_file() else sorted(folder.glob(PATTERN))
        found = [path for path in found if path.is_file()]
        if not found:
            what = f"has no file {PATTERN}" if folder.is_dir() else "is no folder"
            raise UserError(f"data_dir: {folder} {what}; write the folder of the records")
        paths += found
    return paths


def _merged(parts, places):
    """Returns the Tokens of rows that were decoded in parts. places: the rows of each part."""
    order = np.argsort(np.concatenate([np.array(each) for each in places]))
    lengths = np.concatenate([part.lengths for part in parts])
    first = parts[0]
    whole = type(first)(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([[0], np.cumsum(lengths.ravel())]),
        {name: np.concatenate([part.targets[name] for part in parts]) for name in first.targets},
        first.texts_per_row,
    )
    return whole.take(order)
