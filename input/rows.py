# SPDX-License-Identifier: Apache-2.0
"""Which rows of a split a run uses: valid ones, held out or not, up to a limit."""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from common.console import counted
from common.errors import UserError
from common.files import cache_dir, write_whole
from input.sources.source import unreadable
from input.token_cache import check_unchanged, load_tokens

MAX_LISTED = 10  # skipped rows in the log; the file lists all


def load_rows(
    cfg,
    source,
    split,
    tokenizer,
    model_dir=None,
    label_names=None,
    is_training=False,
    is_ahead=False,
):
    """Reads a split of a Source and selects its rows.

    Args:
        cfg: InputParams.
        model_dir: path-like, where the file that lists skipped rows goes; None: no file.
        label_names: tuple of str, the network's outputs; None: those of the source.
        is_training: bool. Which side of `eval_fraction` and of `max_*_samples` applies.
        is_ahead: bool. Whether the rows are only counted now and used later: skipped ones are not
            reported yet, and the tokens are kept until `forget_tokens`.
    Returns:
        Tokens of the selected rows; their numbers in the split: int [N]; whether no limit left
        any out.
    Raises:
        UserError: the data cannot be read, no row is left, or rows lack a valid target although
            bad rows are not to be skipped.
    """
    of_rows = cfg, source, split, tokenizer, label_names, is_training, is_ahead
    *loaded, skipped = usable_rows(*of_rows)
    if skipped and not is_ahead:
        report_skipped(skipped, split, model_dir)
    return tuple(loaded)


def usable_rows(cfg, source, split, tokenizer, label_names=None, is_training=False, is_ahead=False):
    """As `load_rows`, and a sentence for each row that is left out as a bad one: list of str."""
    try:
        folder = Path(cfg.cache_dir or cache_dir())
        tokens = load_tokens(source, split, tokenizer, folder, is_ahead)
    except tf.errors.OpError as error:
        raise unreadable(source, split, error.message.splitlines()[0]) from error
    skipped, rows = list(tokens.skipped), np.arange(len(tokens))
    if source.needs_targets:
        faults = source.targets.faults(tokens.targets)
        if faults and (cfg.on_bad_row == "error" or len(faults) == len(tokens)):
            raise UserError(_about_faults(source, split, faults))
        rows = np.delete(rows, list(faults))
        places = source.places(split, list(faults)) if faults else []
        skipped += [
            f"{place}: {fault} is outside"
            for place, fault in zip(places, faults.values(), strict=True)
        ]
    rows, is_whole = _selected_rows(cfg, len(tokens), is_training, rows)
    if not len(rows):
        rows = counted(len(tokens), "row")
        raise UserError(f"of {rows} in split {split} of {source} none is left")
    if label_names and tokens.words is not None:
        labels = source.targets.in_order_of(label_names, {"labels": tokens.words.labels})
        tokens = replace(tokens, words=replace(tokens.words, **labels))
    elif label_names:
        tokens = replace(tokens, targets=source.targets.in_order_of(label_names, tokens.targets))
    tokens = tokens if len(rows) == len(tokens) else tokens.take(rows)
    return tokens, rows, is_whole, skipped


@dataclass(frozen=True)
class Origins:
    """Where the rows of a split come from, and what stands there beside their tokens."""

    texts: list[tuple[str, ...]]  # one or two of each row
    places: Callable[[], list[str]] = list  # file and line or record of each; none in a command
    columns: dict[str, list[str]] = field(default_factory=dict)  # of id_columns
    words: list | None = None  # [(first character, the one after)] of each text that has words
    # The right answers of each question, lists of str; None where they are not known.
    answers: list | None = None


def origins_of(source, split, rows, content):
    """Returns the Origins of some rows of a split.

    Args:
        source: Source.
        split: str.
        rows: int [N], of `load_rows`.
        content: the source's fingerprint of the split when the rows were read.
    Raises:
        UserError: the source's files have changed since, or lack a column.
    """
    texts, rows = source.read_texts(split), rows.tolist()
    columns, words = source.id_columns(split), source.word_spans(split)
    answers = source.answers(split)
    check_unchanged(source, split, content)
    return Origins(
        [texts[row] for row in rows],
        functools.partial(source.places, split, rows),
        {name: [cells[row] for row in rows] for name, cells in columns.items()},
        None if words is None else [words[row] for row in rows],
        None if answers is None else [answers[row] for row in rows],
    )


def _about_faults(source, split, faults):
    row, fault = next(iter(faults.items()))
    (place,) = source.places(split, [row])
    return (
        f"row {row} of split {split} of {source} has {fault} ({counted(len(faults), 'such row')}, "
        f"the first in {place}); labels {source.targets.accepted}. A split without labels "
        f"({source.processor.label_key}) cannot be trained on or scored; on_bad_row: skip leaves "
        "out rows without one."
    )


def _selected_rows(cfg, num_rows, is_training, rows):
    """Selects the rows that eval_fraction and max_*_samples leave.

    Both use one random order of all rows, which depends only on their number. So training and
    evaluation agree for any seed of the run, and a smaller sample is part of a larger one.

    num_rows: int, of the split; rows: int [<= num_rows], the usable ones. Returns the selected
    ones in order, and whether they are all of that side.
    """
    order = np.random.Generator(np.random.Philox(key=[0, 0])).permutation(num_rows)
    if cfg.eval_fraction is not None and (is_training or cfg.scores_held_out):
        num_held_out = min(max(round(cfg.eval_fraction * num_rows), 1), num_rows - 1)
        order = order[num_held_out:] if is_training else order[:num_held_out]
    order = order[np.isin(order, rows)]
    selected = order[: cfg.max_train_samples if is_training else cfg.max_eval_samples]
    return np.sort(selected), len(selected) == len(order)


def report_skipped(sentences, split, model_dir):
    """Lists skipped rows: the first on stderr, all of them in a file of model_dir."""
    listed = [f"  {sentence}" for sentence in sentences[:MAX_LISTED]]
    where = ""
    if model_dir is not None:
        path = Path(model_dir) / f"skipped_rows_{split}.txt"
        where = f"; all are in {path}" if len(sentences) > MAX_LISTED else f"; see {path}"
        try:
            write_whole(path, "\n".join(sentences) + "\n")
        except OSError as error:  # a read-only model_dir
            where = f"; {path} could not be written: {error.strerror}"
    print(f"{len(sentences)} skipped in split {split}{where}", *listed, sep="\n", file=sys.stderr)
