# SPDX-License-Identifier: Apache-2.0
"""The page on which a person tries a model: files of page/, and what they ask for."""

import csv
from itertools import islice
from pathlib import Path

from starlette.responses import FileResponse

from serving import explain
from serving.protocols.query import bad_value
from serving.readers import RowReader
from serving.sources import CHECKPOINT
from utils import SAVED

HERE = Path(__file__).with_name("page")
FILES = ("index.html", "page.css", "page.js")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
NUM_EXAMPLES, MAX_CHARACTERS = 6, 2000
MAX_EXPLAINED = 20_000  # characters of a row: each of its words is told of


def file_response(name):
    return FileResponse(HERE / name, headers=HEADERS)


def describe(served, has_examples):
    """Returns what the page needs to know of a model. has_examples: whether it may show rows."""
    reader = served.reader
    return {
        "name": served.name,
        "version": served.number,
        "engine": served.version.engine,
        "task": reader.task,
        "texts": reader.text_names,
        "mask": getattr(reader, "mask_token", None),
        "explained": isinstance(reader, RowReader),
        "examples": examples_of(served) if has_examples else [],
    }


def examples_of(served):
    """Returns the texts of some rows that the training was evaluated on: list of tuples of str."""
    folder, names = served.version.folder, list(served.reader.text_names)
    if served.version.engine != CHECKPOINT:
        folder = folder.parents[1] if len(folder.parents) > 1 else folder
        if not (folder / SAVED).is_file():
            return []
    for path in sorted((folder / "eval").glob("rows_*.tsv")):
        try:
            with open(path, encoding="utf-8", newline="") as file:
                rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
                found = [tuple(row[name] for name in names) for row in islice(rows, 200)]
        except (OSError, ValueError, KeyError, csv.Error):
            continue
        fitting = [each for each in found if all(each) and sum(map(len, each)) <= MAX_CHARACTERS]
        if fitting:
            return fitting[:: max(1, len(fitting) // NUM_EXAMPLES)][:NUM_EXAMPLES]
    return []


async def explained(served, query, answers_to, most, in_thread):
    """Returns {"how", "label", "score", "words": [{"text", "start", "end", "weight"}]}.

    answers_to: async, texts -> their answers, of at most `most` texts. in_thread: async, runs
    what takes long.
    """
    reader = served.reader
    if not isinstance(reader, RowReader):
        raise bad_value(f"the answers of {reader.task} are not explained")
    (text,) = query.texts
    if sum(map(len, text)) > MAX_EXPLAINED:
        raise bad_value(f"texts of more than {MAX_EXPLAINED:,} characters are not explained")
    words = explain.words_of(text)
    (answer,) = await answers_to([text])
    target, label, value = explain.target_of(reader, answer)
    if served.loaded.model is not None:
        how = explain.GRADIENTS
        weights = await in_thread(
            lambda: explain.by_gradients(served.attribution(), reader, text, target)
        )
    else:
        how, words = explain.LEFT_OUT, words[: min(explain.MAX_WORDS, most)]
        others = [explain.without(text, word) for word in words]
        others = await answers_to(others) if others else []
        weights = [value - explain.value_of(reader, each, target) for each in others]
    listed = [
        {"text": number, "start": start, "end": end, "weight": weight}
        for (number, start, end), weight in zip(words, weights, strict=True)
    ]
    return {"how": how, "label": label, "score": value, "words": listed}
