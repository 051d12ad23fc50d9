# SPDX-License-Identifier: Apache-2.0
"""`--mode train_vocab`: texts to a vocabulary in a folder, and how well it covers other texts."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

from common.checkpoints import extension
from common.console import counted, format_duration, log
from common.errors import UserError, printable
from common.files import write_whole
from common.training.result import Result
from input.sources.texts import TextFiles, TfdsTexts
from input.tokenizers import coverage
from input.tokenizers.entries import CONTINUATION
from input.tokenizers.extend import extend
from input.tokenizers.tokenizer import Tokenizer, count

REPORT = "report.json"
FILES = (
    *("vocab.txt", "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"),
    extension.NAME,
)
OURS = "this vocabulary"  # in the report
MAX_CAPITALS = 0.01  # share of entries; BERT's uncased vocabulary has none
SHOWN_WORDS = 5  # of those that were added, on the terminal


def train_vocab(params, model_dir):
    """Trains or extends a vocabulary and writes it. Returns the Result.

    Args:
        params: VocabularyParams. model_dir: path-like.
    Raises:
        UserError: texts cannot be read, the keys ask for what cannot be, or output_dir holds
            something else, which stays as it is.
    """
    started = time.monotonic()
    folder = Path(params.output_dir or Path(model_dir) / "vocab")
    check_folder(folder)
    texts, held_out = training_texts(params), held_out_texts(params)
    compared = {
        str(path): Tokenizer.from_vocab_file(path, params.lowers)
        for path in params.compare_with or ()
    }
    log(f"Counting the words of {texts}")
    found = {}
    if params.extend_vocab_file is None:
        words = count(texts, params)
        tokenizer = Tokenizer.of_words(words, params)
    else:
        base = Tokenizer.from_vocab_file(params.extend_vocab_file, params.lowers)
        check_case(base, params.extend_vocab_file)
        words = base.count(texts)
        tokenizer, added, new_words = extend(
            base, words, params.max_new_words, params.min_frequency, params.new_words_at
        )
        compared = {str(params.extend_vocab_file): base} | compared
        found = {"new_words": [asdict(word) for word in new_words]}
    for note in tokenizer.notes:
        log(note)
    rows = {} if held_out is None else coverage_rows({OURS: tokenizer} | compared, held_out)
    contents = tokenizer.files()
    if found:
        contents[extension.NAME] = as_text(added.content())
    check_same(folder, contents)
    report = {
        "algorithm": tokenizer.algorithm,
        "entries": tokenizer.vocab_size,
        "texts": printable(str(texts)),
        "words": words.total(),
        "different_words": len(words),
        "held_out_texts": None if held_out is None else printable(str(held_out)),
        "coverage": {printable(name): figures for name, figures in coverage.as_json(rows).items()},
        "notes": tokenizer.notes,
        **found,
    }
    for name, content in (contents | {REPORT: as_text(report)}).items():
        write_whole(folder / name, content)
    return result_of(tokenizer, report, rows, folder, model_dir, time.monotonic() - started)


def check_case(tokenizer, path):
    """Raises UserError where a vocabulary has capitals, which `do_lower` takes from all texts."""
    bodies = (entry.removeprefix(CONTINUATION) for entry in tokenizer.entries)
    words = [body for body in bodies if len(body) > 1 and not body.startswith("[")]
    capitals = sum(word != word.lower() for word in words)
    if tokenizer.do_lower and capitals > MAX_CAPITALS * len(words):
        raise UserError(
            f"{capitals:,} of the {len(words):,} longer entries of {path} have capitals, which "
            "do_lower takes from all texts; write do_lower: false"
        )


def training_texts(params):
    if params.dataset is not None:
        return TfdsTexts(params.dataset, params.data_dir, params.train_split, params.text_keys)
    return TextFiles(params.train_files, params.text_columns, params.delimiter)


def held_out_texts(params):
    """The texts to report the coverage of; None where there are none."""
    if params.eval_split is not None:
        return TfdsTexts(params.dataset, params.data_dir, params.eval_split, params.text_keys)
    if params.eval_files is None:
        return None
    return TextFiles(params.eval_files, params.text_columns, params.delimiter)


def check_folder(folder):
    """Raises UserError where a folder holds anything but a vocabulary."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is no folder; choose another vocabulary.output_dir")
    others = [] if not folder.exists() else sorted({*os.listdir(folder)} - {*FILES, REPORT})
    others = [name for name in others if not name.startswith(".")]
    if others:
        raise UserError(
            f"{folder} holds {', '.join(others[:3])}{' and more' if others[3:] else ''}, which is "
            "no part of a vocabulary; choose another vocabulary.output_dir"
        )


def check_same(folder, contents):
    """Raises UserError where a folder holds another vocabulary. contents: {name: str}."""
    for name in FILES:
        path = folder / name
        if path.exists() and path.read_text("utf-8", errors="replace") != contents.get(name):
            raise UserError(
                f"{path} is of another vocabulary, with which networks may have been trained; move "
                "it away, or choose another vocabulary.output_dir"
            )


def coverage_rows(tokenizers, texts):
    """{name: (number of entries, Coverage)} of tokenizers {name: Tokenizer} on held-out texts."""
    rows, words = {}, {}
    for name, each in tokenizers.items():
        splitting = each.algorithm, each.do_lower
        if splitting not in words:
            words[splitting] = each.count(texts)
        if not words[splitting]:
            raise UserError(f"{texts} holds no words; give files with text as eval_files")
        rows[name] = each.vocab_size, coverage.measure(each, words[splitting])
    return rows


def result_of(tokenizer, report, rows, folder, model_dir, seconds):
    outcome = f"{tokenizer.vocab_size:,} entries from {counted(report['words'], 'word')}"
    lines = [("Done", f"{outcome}, {format_duration(seconds)}"), ("Vocabulary", str(folder))]
    if new := report.get("new_words"):
        shown = [f"{each['word']} (was {' '.join(each['pieces'])})" for each in new[:SHOWN_WORDS]]
        more = ", ..." if new[SHOWN_WORDS:] else ""
        lines.append(("New words", f"{len(new):,}: {', '.join(shown)}{more}"))
    ours = asdict(rows[OURS][1]) if rows else {}
    return Result(
        mode="train_vocab",
        outcome=outcome,
        model_dir=str(model_dir),
        seconds=seconds,
        figures={f"vocab/{name}": float(value) for name, value in ours.items()},
        written=tuple(str(folder / name) for name in (*FILES, REPORT) if (folder / name).exists()),
        lines=tuple(lines),
        output=tuple(coverage.table(rows)) if rows else (),
    )


def as_text(content):
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
