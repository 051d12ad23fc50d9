# SPDX-License-Identifier: Apache-2.0
"""`--mode data_report`: what stands in the rows, looked at before any training.

    data_report.html       for a reader
    data_report.json       the same for programs
    data_report_rows.tsv   every row that repeats, contradicts or leaks, with the one it is like

`summary.py` counts a part of it in the log of every training.
"""

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from common.console import counted, format_duration, in_one_cell
from common.files import write_whole
from common.params.words import ANSWERING
from common.reports.data_page import data_page
from common.reports.metrics_file import to_json
from common.reports.prediction_files import table_of
from common.training.result import Result
from input import characters
from input.data_findings import findings_of
from input.length_report import compare_lengths, describe_lengths, whole_lengths
from input.same_rows import Reference, compare
from input.token_cache import Tokens
from input.tokenizers.offsets import split_text

FORMAT = 1  # of the JSON
NAME = "data_report"
MAX_EXAMPLES = 20  # of a kind, in the page and in the JSON
MAX_PRINTED = 10  # findings, unless there are more problems
MAX_SKIPPED = 100  # bad rows listed there
MAX_UNKNOWN_ROWS = 5000  # rows whose unknown words are counted
MAX_UNKNOWN_WORDS = 30
MAX_SHOWN = 400  # characters of a text in an example
# Why a row cannot be used, as the sources say it. A report without texts has `...` where values of
# the row stand between two groups; of a reason that is not among these it has the place alone.
REASONS = tuple(
    re.compile(reason, re.DOTALL)
    for reason in (
        r"([^:'\"]+? is (?:empty|not UTF-8 at character \d+))",
        r"(has no [\w ]+)(?:[,;] .*)?",
        r"(has a word without a label|has a label that is no name|damaged or missing;.*)",
        r"(has [\d,]+ columns?, (?:the row of names|other lines) [\d,]+)",
        r"(is not (?:CSV|JSON)\b.*)",
        r"([^:'\"]*?\bis ).*(; (?:text|an object|a name or a number) is wanted)\b.*",
        r"([^:'\"]+? is ).*(, which stands for none)\b.*",
        r"(label is ).*(; (?:the labels are .*|a number is wanted))",
        r"(label is ).*; .*( is none of the labels) .*",
        r"(label ).*( is (?:outside|none of .*))",
        r"(answer ['\"]).*(['\"] is not in the (?:words of the )?context)\b.*",
    )
)
COLUMNS = ("finding", "split", "row", "place", "label", "text")
OTHER_COLUMNS = ("other_split", "other_row", "other_place", "other_label", "other_text")


@dataclass(frozen=True)
class SplitRows:
    """The rows of a split that a run would use."""

    split: str
    tokens: Tokens  # of whole texts
    rows: np.ndarray  # int [N], their numbers in the source
    texts: list[tuple[str, ...]]
    labels: list[str]  # of each row, for a reader
    counts: dict[str, int]  # how often each label is there; {} where labels are numbers
    skipped: list[str]  # a sentence for each row that cannot be used
    places: Callable  # numbers in the source -> file and line, or record, of each
    is_training: bool


def report_on_data(params, rows, reading, in_rows, source, sizes, folder, with_texts):
    """Writes the report. Returns the Result.

    Args:
        params: Params with a vocabulary.
        rows: list of SplitRows.
        reading: (tokenizer, Layout).
        in_rows: as of `compare_lengths`.
        source: str, what the rows are of.
        sizes: of the network, as of `compare_lengths`.
        folder: Path, where the files go.
        with_texts: bool. Whether they may have texts of the data.
    """
    started = time.monotonic()
    tokenizer, layout = reading
    of_split = {each.split: each for each in rows}
    tokens = {name: each.tokens for name, each in of_split.items()}
    within, across = compare(tokens, {name: each.labels for name, each in of_split.items()})
    splits = {}
    for name, each in of_split.items():
        lengths = whole_lengths(each.tokens, layout)
        splits[name] = {
            "rows": len(each.rows),
            "num_skipped": len(each.skipped),
            "skipped": [
                sentence if with_texts else without_values(sentence)
                for sentence in each.skipped[:MAX_SKIPPED]
            ],
            "labels": each.counts or None,
            "values": _values(each.labels) if params.task == "regression" else None,
            "tokens": describe_lengths(lengths),
            "empty": int((each.tokens.lengths.sum(axis=1) == 0).sum()),
            "unknown": _unknown(each, tokenizer, with_texts),
            "characters": _characters(each),
            **_of_within(within[name], name),
        }
    content = {
        "format": FORMAT,
        "task": params.task,
        "data": source,
        "has_texts": with_texts,
        "num_texts": rows[0].tokens.texts_per_row,
        "vocabulary": {
            "entries": tokenizer.vocab_size,
            "do_lower": tokenizer.do_lower,
            "notes": tokenizer.notes_on_case(np.concatenate([t.ids for t in tokens.values()])),
        },
        "splits": splits,
        "across": [_of_across(each, len(of_split[each.split].rows)) for each in across],
        "max_sequence_length": compare_lengths(params, tokens, in_rows, layout, sizes),
    }
    content["findings"] = findings_of(content)
    flagged = _flagged(within, across, of_split)
    labels_are_texts = params.task == ANSWERING
    resolve = _Resolver(of_split, [content, flagged], with_texts, labels_are_texts)
    content = resolve(content)
    content["seconds"] = round(time.monotonic() - started, 3)
    paths = [folder / f"{NAME}{suffix}" for suffix in (".html", ".json", "_rows.tsv")]
    columns = [*COLUMNS, *OTHER_COLUMNS, "similarity"]
    hidden = resolve.hidden_columns
    is_shown = [not column.endswith(hidden) for column in columns]
    table = [
        [cell for cell, shown in zip(row, is_shown, strict=True) if shown]
        for row in resolve.table(flagged)
    ]
    columns = [column for column, shown in zip(columns, is_shown, strict=True) if shown]
    contents = data_page(content), to_json(content, indent=2) + "\n", table_of(columns, table)
    for path, text in zip(paths, contents, strict=True):
        write_whole(path, text)
    return _result(params, content, paths, time.monotonic() - started)


def _result(params, content, paths, seconds):
    lines = []
    figures = {"data/problems": float(sum(f["is_problem"] for f in content["findings"]))}
    for name, split in content["splits"].items():
        tokens = split["tokens"]
        text = f"{counted(split['rows'], 'row')}; {tokens['least']} to {tokens['most']} tokens, "
        lines.append((name, text + f"median {tokens['quantiles']['0.5']}"))
        figures[f"data/rows_{name}"] = float(split["rows"])
        figures[f"data/repeated_{name}"] = float(split["repeated"]["rows"])
        figures[f"data/near_{name}"] = float(split["near"]["texts"])
        figures[f"data/contradicting_{name}"] = float(split["contradicting"]["texts"])
    for each in content["across"]:
        figures[f"data/leaked_{each['split']}_in_{each['other']}"] = float(each["rows"])
    found = content["findings"]
    shown = [each["text"] for each in found][
        : max(MAX_PRINTED, sum(f["is_problem"] for f in found))
    ]
    more = len(found) - len(shown)
    shown += [f"and {more} more in the report"] * bool(more)
    lines += [("" if n else "Findings", sentence) for n, sentence in enumerate(shown)]
    outcome = "Looked at the data"
    lines += [("Report", str(paths[0]))]
    return Result(
        mode="data_report",
        outcome=outcome,
        model_dir=str(params.runconfig.model_dir or ""),
        seconds=seconds,
        figures=figures,
        written=tuple(map(str, paths)),
        lines=(("Done", f"{outcome}, {format_duration(seconds)}"), *lines),
    )


# ---- Parts ---------------------------------------------------------------------------------------


def _values(labels):
    values = np.array(labels, np.float64)
    counts, edges = np.histogram(values, bins=20)
    return {
        "least": float(values.min()),
        "most": float(values.max()),
        "mean": float(values.mean()),
        "deviation": float(values.std()),
        "bars": counts.tolist(),
        "edges": edges.tolist(),
    }


def without_values(sentence):
    """Returns the place and the reason of a bad row, with ... for what stands in the row."""
    place, _, reason = sentence.partition(": ")
    for pattern in REASONS:
        found = pattern.fullmatch(reason)
        if found:
            return f"{place}: {'...'.join(filter(None, found.groups()))}"
    return place


def _unknown(split, tokenizer, with_texts):
    """Counts tokens that are [UNK], and the words that become one."""
    tokens = split.tokens
    is_unknown = tokens.ids == tokenizer.unk_id
    sums = np.concatenate([[0], np.cumsum(is_unknown)])
    in_text = np.diff(sums[tokens.offsets]).reshape(len(tokens), -1)
    rows = np.flatnonzero(in_text.sum(axis=1))
    words = Counter()
    for row in rows[:MAX_UNKNOWN_ROWS].tolist():
        for text in split.texts[row]:
            words.update(split_text(text, tokenizer.do_lower).strings())
    found = []
    if words and with_texts:
        ragged = tokenizer.traced(tf.constant(list(words), tf.string)).to_list()
        pairs = zip(words.items(), ragged, strict=True)
        found = [pair for pair, ids in pairs if tokenizer.unk_id in ids]
        found.sort(key=lambda pair: (-pair[1], pair[0]))
    return {
        "tokens": int(is_unknown.sum()),
        "share": float(is_unknown.mean()) if len(is_unknown) else 0.0,
        "rows": len(rows),
        "words": found[:MAX_UNKNOWN_WORDS],
        "examples": [Reference(split.split, row) for row in rows[:MAX_EXAMPLES].tolist()],
    }


def _characters(split):
    found = characters.examine(split.texts)
    return {
        "characters": found.num_characters,
        "scripts": found.scripts,
        "odd": {
            kind: {
                "meaning": characters.KINDS[kind],
                "rows": len(rows),
                "characters": [
                    (characters.named(character), count)
                    for character, count in found.examples.get(kind, ())[:MAX_EXAMPLES]
                ],
                "examples": [Reference(split.split, row) for row in rows[:MAX_EXAMPLES]],
            }
            for kind, rows in found.odd.items()
        },
    }


def _of_within(within, name):
    times = Counter(twins.second for twins in within.repeated)
    most = [
        {"times": count + 1, "row": reference}
        for reference, count in times.most_common(MAX_EXAMPLES)
    ]
    num_rows = sum(map(len, within.contradicting))
    return {
        "repeated": {"rows": len(within.repeated), "texts": len(times), "examples": most},
        "near": {
            "texts": len(within.near),
            "other_label": len(within.conflicts),
            "examples": _examples(within.conflicts or within.near),
        },
        "contradicting": {
            "texts": len(within.contradicting),
            "rows": num_rows,
            "ceiling": float(within.ceiling),
            "examples": [
                [Reference(name, row) for row in rows[:MAX_EXAMPLES]]
                for rows in within.contradicting[:MAX_EXAMPLES]
            ],
        },
    }


def _of_across(across, num_rows):
    return {
        "split": across.split,
        "other": across.other,
        "rows": len(across.same),
        "share": len(across.same) / num_rows,
        "other_label": sum(not twins.has_same_label for twins in across.same),
        "near_rows": len(across.near),
        "near_other_label": sum(not twins.has_same_label for twins in across.near),
        "shared_texts": across.shared_texts,
        "examples": _examples(across.same),
        "near_examples": _examples(across.near),
    }


def _examples(twins):
    """Returns the twins to show, those with different labels first: dicts for JSON."""
    order = sorted(twins, key=lambda each: (each.has_same_label, -each.similarity))
    return [
        {"rows": [each.first, each.second], "similarity": round(each.similarity, 4)}
        for each in order[:MAX_EXAMPLES]
    ]


def _flagged(within, across, of_split):
    """Returns (finding, Reference, other Reference or None, similarity) of every such row."""
    flagged = []
    for name, each in within.items():
        flagged += [("repeats a row", t.first, t.second, t.similarity) for t in each.repeated]
        for rows in each.contradicting:
            first = Reference(name, rows[0])
            labels = of_split[name].labels
            for row in rows[1:]:
                if labels[row] != labels[rows[0]]:
                    flagged.append(("contradicts a row", Reference(name, row), first, 1.0))
        flagged += [("nearly repeats a row", t.first, t.second, t.similarity) for t in each.near]
        of_conflicts = "nearly repeats a row with another label"
        flagged += [(of_conflicts, t.first, t.second, t.similarity) for t in each.conflicts]
    for each in across:
        where = f"split {each.other}"
        flagged += [(f"is in {where}", t.first, t.second, t.similarity) for t in each.same]
        flagged += [(f"is nearly in {where}", t.first, t.second, t.similarity) for t in each.near]
    return flagged


class _Resolver:
    """Puts what a reader needs of a row in place of its Reference.

    of_split: {name: SplitRows}. contents: values with References, all that will be resolved: the
    places of a split's rows are read at once. with_texts: bool. labels_are_texts: bool, parts of
    the texts, which are left out with them.
    """

    def __init__(self, of_split, contents, with_texts, labels_are_texts):
        self.of_split, self.with_texts = of_split, with_texts
        self.with_labels = with_texts or not labels_are_texts
        wanted = {name: set() for name in of_split}
        _collect(contents, wanted)
        self.places = {}
        for name, rows in wanted.items():
            rows, split = sorted(rows), of_split[name]
            places = split.places(split.rows[rows].tolist()) if rows else []
            self.places |= {
                Reference(name, row): place for row, place in zip(rows, places, strict=True)
            }

    def __call__(self, value):
        if isinstance(value, Reference):
            split = self.of_split[value.split]
            found = {
                "split": value.split,
                "row": int(split.rows[value.row]),
                "place": self.places[value],
            }
            if self.with_labels:
                found["label"] = _shortened(split.labels[value.row])
            texts = [_shortened(text) for text in split.texts[value.row]]
            return found | ({"texts": texts} if self.with_texts else {})
        if isinstance(value, dict):
            return {key: self(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self(item) for item in value]
        return value

    @property
    def hidden_columns(self):
        """How the names of columns end that the TSV leaves out: tuple of str."""
        return ("text",) * (not self.with_texts) + ("label",) * (not self.with_labels)

    def table(self, flagged):
        """Returns the rows of the TSV, with texts."""
        rows = []
        for finding, first, second, similarity in flagged:
            cells = [finding]
            for reference in (first, second):
                split = self.of_split[reference.split]
                text = " | ".join(split.texts[reference.row])
                row = str(split.rows[reference.row]), self.places[reference]
                cells += [reference.split, *row, split.labels[reference.row], text]
            rows.append([*cells, similarity])
        return rows


def _collect(value, wanted):
    """Adds the rows of all References in a value to {split: set of rows}."""
    if isinstance(value, Reference):
        wanted[value.split].add(value.row)
    elif isinstance(value, dict):
        _collect(list(value.values()), wanted)
    elif isinstance(value, list | tuple):
        for item in value:
            _collect(item, wanted)


def _shortened(text):
    text = in_one_cell(text)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
