# SPDX-License-Identifier: Apache-2.0
"""`--mode report`: the page of a run, written from what its model_dir holds."""

import time
from pathlib import Path

from common.console import format_duration
from common.errors import UserError
from common.files import write_whole
from common.reports.metrics_file import to_json
from common.reports.run_facts import read_run_facts
from common.reports.run_page import run_page, sentences_of_verdict
from common.reports.run_report import report_on_run, rows_to_explain, shown_row
from common.training.result import Result

NAME = "report"
HOW = (
    "Integrated gradients from a row whose text is [PAD] (Sundararajan et al. 2017): the shares of "
    "all words add up to what the text changes of the probability of the answer. Blue words speak "
    "for it, orange ones against it. First the surest mistakes, then rows that are right."
)


def write_report(model_dir, folder=None, compared=None, with_texts=True, explain=None, num=20):
    """Writes report.html and report.json. Returns the Result.

    Args:
        model_dir: path-like, of a training or an evaluation.
        folder: path-like, where the files go; None: model_dir.
        compared: path-like, the model_dir of a run to compare with, or None.
        with_texts: bool. Whether they may have texts of the data.
        explain: (list of tuples of texts, list of their answers) -> what `words_that_moved` gives
            of them; None: no words.
        num: int, rows that are explained.
    Raises:
        UserError: a model_dir has nothing to report on, a file of it cannot be read, or the other
            run is of another task.
    """
    started = time.monotonic()
    facts = read_run_facts(model_dir)
    other = None if compared is None else read_run_facts(compared)
    if other is not None and facts.params and other.params and facts.task != other.task:
        raise UserError(
            f"--compare {compared} is a run of task: {other.task}, and {model_dir} of task: "
            f"{facts.task}, so that no figure is the same; name a run of the same task"
        )
    content = report_on_run(facts, with_texts, other)
    if explain is not None and with_texts and is_explained(facts):
        content["words"] = _explained(facts, explain, num)
    data_report = facts.data_report
    if not with_texts and data_report.get("has_texts"):
        data_report = {}  # it would bring them back
    paths = [Path(folder or model_dir) / f"{NAME}{suffix}" for suffix in (".html", ".json")]
    pages = run_page(content, facts.curves, data_report), to_json(content, indent=2) + "\n"
    for path, text in zip(paths, pages, strict=True):
        write_whole(path, text)
    seconds, outcome = time.monotonic() - started, f"Reported on {model_dir}"
    sentences = [sentence for _, sentence in sentences_of_verdict(content)]
    lines = [("Verdict" if not n else "", sentence) for n, sentence in enumerate(sentences)]
    done = "Done", f"{outcome}, {format_duration(seconds)}"
    return Result(
        mode="report",
        outcome=outcome,
        model_dir=str(model_dir),
        seconds=seconds,
        step=content["step"],
        figures=facts.figures,
        num_examples=content["num_examples"],
        checkpoint=content["checkpoint"],
        written=tuple(map(str, paths)),
        lines=(done, *lines, ("Report", str(paths[0]))),
    )


def is_explained(facts):
    """Whether a run has a network that answers once for texts, and texts that it answered."""
    has_texts = any(rows.texts(0) for rows in facts.rows)
    return facts.task == "classification" and bool(facts.checkpoint) and has_texts


def _explained(facts, explain, num):
    """Returns what `run_page` shows of words: {"how", "rows"}; without rows, why there are none."""
    chosen = rows_to_explain(facts.rows, num)
    try:
        answers = [rows[rows.answer_column][n] for rows, n in chosen]
        words = explain([tuple(rows.texts(n)) for rows, n in chosen], answers)
    except UserError as error:  # such as a checkpoint that was deleted
        return {"how": f"The network could not be asked: {error}", "rows": []}
    pairs = zip(chosen, words, strict=True)
    return {"how": HOW, "rows": [shown_row(*each, True, words=found) for each, found in pairs]}
