# SPDX-License-Identifier: Apache-2.0
"""`--mode report`: is the run good, where is it wrong, is its data sound. The content, for JSON.

All of it comes from files of model_dir: nothing is trained, and nothing evaluated anew.
"""

import numpy as np

from common.console import in_one_cell
from common.metrics.calibration import expected_calibration_error, reliability
from common.metrics.intervals import LEVEL, pearson_interval, ratio_interval
from common.metrics.label_errors import suspects

FORMAT = 1
MAX_MISTAKES = 30
MAX_SUSPECTS = 30
MAX_CHANGED = 15  # rows of each kind in a comparison
MAX_CHARACTERS = 300  # of a text that is shown
MAX_CELL_ROWS = 15  # of a cell of the confusion matrix
MAX_ALL_CELL_ROWS = 1200  # of all cells, so that the page stays small
MAX_BINS = 8  # of lengths
MAX_FIRST_WORDS, MIN_OF_FIRST_WORD = 12, 5  # of questions; the rows of one
# {task: {figure: how the kept rows make it up}}, the figure that counts first. Each is the quotient
# of two sums over the rows, such as an F1 of what each has (2 * hits, what is true and found), but
# for the correlation. Of SUMMED ones the evaluation has the interval, since no rows are kept.
RIGHT_ROWS, F1_OF_COUNTS, RIGHT_WORDS, MEAN_F1 = "rows", "counts", "words", "f1"
CORRELATION, SUMMED = "correlation", "summed"
OF_ROWS = {
    "classification": {"eval/accuracy_cls": RIGHT_ROWS},
    "multi_label": {"eval/micro_f1": F1_OF_COUNTS, "eval/exact_match": RIGHT_ROWS},
    "regression": {"eval/pearson": CORRELATION},
    "token_classification": {"eval/entity_f1": F1_OF_COUNTS, "eval/word_accuracy": RIGHT_WORDS},
    "question_answering": {"eval/f1": MEAN_F1, "eval/exact_match": RIGHT_ROWS},
    "pretraining": {"eval/accuracy_masked_lm": SUMMED, "eval/accuracy_cls": SUMMED},
}
PERCENT = 100.0  # figures of question answering are in percent


def report_on_run(facts, with_texts=True, other=None):
    """Returns the content of a report: a dict for JSON.

    Args:
        facts: RunFacts.
        with_texts: bool. Whether it may have texts of the data.
        other: RunFacts of a run to compare with, or None.
    """
    main = _main_figure(facts)
    names = [in_one_cell(each["label"]) for each in facts.report.get("per_class", ())]
    is_classifier = "confusion" in facts.report
    content = {
        "format": FORMAT,
        "name": facts.name,
        "task": facts.task,
        "has_texts": with_texts,
        "step": facts.report.get("step"),
        "checkpoint": facts.report.get("checkpoint"),
        "data": facts.report.get("source"),
        "num_examples": facts.report.get("num_examples"),
        "main": main,
        "figures": facts.figures,
        "verdict": _verdict(facts, main),
        "per_class": facts.report.get("per_class", []),
        "confusion": facts.report.get("confusion"),
        "confusions": facts.report.get("confusions", []),
        "cells": _cells(facts.rows, names, with_texts) if is_classifier else [],
        "calibration": _calibration(facts.rows, names) if is_classifier else None,
        "mistakes": _mistakes(facts.rows, with_texts),
        "lengths": _by_length(facts.rows),
        "first_words": _by_first_word(facts.rows) if with_texts else [],
        "suspects": _suspects(facts.rows, names, with_texts) if is_classifier else None,
        "starts": [_start(each) for each in facts.starts],
        "saved": facts.checkpoint,
        "params": facts.params,
    }
    if other is not None:
        content["comparison"] = _comparison(facts, other, main, with_texts)
    return content


def _main_figure(facts):
    """Returns the name of the figure that counts: of best_metric, or else of the task."""
    chosen = (facts.params.get("runconfig") or {}).get("best_metric")
    for each in (chosen, *OF_ROWS.get(facts.task, ()), "loss"):
        if each in facts.figures:
            return each
    return next(iter(facts.figures), None)


# ---- The verdict ---------------------------------------------------------------------------------


def _verdict(facts, main):
    """Returns the figure that counts, the intervals that the kept rows give it and others, and what
    is reached without a network: dict, of which parts are None where the rows do not say."""
    intervals = _intervals(facts)
    most = 1e-6 * _scale(facts.task)  # numbers of the rows have six decimals
    return {
        "figure": main,
        "value": facts.figures.get(main),
        "level": LEVEL,
        "interval": next((e["interval"] for e in intervals if e["figure"] == main), None),
        "intervals": intervals,
        **_baseline(facts.rows, facts.task),
        "is_same": all(abs(facts.figures[e["figure"]] - e["of_rows"]) <= most for e in intervals),
    }


def _intervals(facts):
    """Returns what the kept rows, or the sums of an evaluation, say of figures: list of {"figure",
    "of_rows": float, "interval"}, the task's first."""
    found = {
        f"eval/{name}": (facts.report.get(name), interval)
        for name, interval in facts.report.get("intervals", {}).items()
    }
    for name, kind in OF_ROWS.get(facts.task, {}).items():
        columns = _joined([_columns_of(rows, kind, facts.task) for rows in facts.rows])
        if columns is not None and kind == CORRELATION:
            found[name] = facts.figures.get(name), pearson_interval(*columns)
        elif columns is not None:
            found[name] = _quotient(*columns), ratio_interval(*columns)
    return [
        {"figure": name, "of_rows": value, "interval": interval}
        for name, (value, interval) in found.items()
        if name in facts.figures
    ]


def _columns_of(rows, kind, task):
    """Returns two float64 [N] of KeptRows: the quotient of their sums is a figure, or else their
    correlation. None where the rows do not say. kind: of OF_ROWS."""
    if kind == RIGHT_ROWS and rows.is_right is not None:
        return _scale(task) * rows.is_right, np.ones(len(rows))
    if kind == MEAN_F1 and rows.has("f1"):
        return _scale(task) * rows.numbers("f1"), np.ones(len(rows))
    if kind == RIGHT_WORDS and rows.has("words", "wrong_words"):
        words = rows.numbers("words")
        return words - rows.numbers("wrong_words"), words
    if kind == F1_OF_COUNTS and rows.has("hits", "missed", "extra"):
        hits = 2 * rows.numbers("hits")
        return hits, hits + rows.numbers("missed") + rows.numbers("extra")
    if kind == CORRELATION and rows.has("value", "value_true"):
        return rows.numbers("value"), rows.numbers("value_true")
    return None


def _scale(task):
    return PERCENT if task == "question_answering" else 1.0


def _joined(columns):
    """Returns the columns of all splits as one; None without any, or where those of one are."""
    if not columns or None in columns:
        return None
    return [np.concatenate(each) for each in zip(*columns, strict=True)]


def _quotient(numerators, denominators):
    return float(numerators.sum()) / (float(denominators.sum()) or 1.0)


def _baseline(all_rows, task):
    """Returns what is reached without a network, and which figure that is: {"baseline",
    "baseline_text", "baseline_figure"}, None each where nothing is."""
    value = text = figure = None
    if all_rows and all(rows.true_column for rows in all_rows):
        true = [answer for rows in all_rows for answer in rows[rows.true_column]]
        figures = list(OF_ROWS.get(task, ()))
        if task in ("classification", "multi_label"):
            answers, counts = np.unique(true, return_counts=True)
            value, figure = float(counts.max() / len(true)), figures[-1]
            text = f"always answering {answers[counts.argmax()] or 'no label'}"
        elif task == "regression":
            value, text, figure = 0.0, "always answering the mean", figures[0]
        elif task == "question_answering" and "" in true:
            value, text = PERCENT * true.count("") / len(true), "never answering"
            figure = figures[0]
    return {"baseline": value, "baseline_text": text, "baseline_figure": figure}


# ---- Rows ----------------------------------------------------------------------------------------


def shown_row(rows, number, with_texts, **more):
    """Returns what is shown of a row: dict for JSON."""
    found = {"split": rows.split, "id": rows["id"][number], "place": rows.where(number)}
    for key, name in (("true", rows.true_column), ("answer", rows.answer_column)):
        if name in rows and (with_texts or _is_of_classes(rows)):
            found[key] = _shortened(rows[name][number])
    if with_texts:
        is_answer = rows.answer_column == "answer"  # a part of the text
        around = rows[rows.true_column][number].split(" | ")[0] if is_answer else ""
        found["texts"] = [_shortened(text, around) for text in rows.texts(number)]
    return found | more


def _is_of_classes(rows):
    """Whether true answers are names or numbers, and not parts of the texts."""
    return rows.true_column in ("label_true", "value_true")


def _shortened(text, around=""):
    """Returns MAX_CHARACTERS of a text, those around a part of it where it has that."""
    most = MAX_CHARACTERS - 3
    if len(text) <= MAX_CHARACTERS:
        return text
    middle = text.find(around) + len(around) // 2
    begin = max(0, min(middle - most // 2, len(text) - most))
    end = "..." if begin + most < len(text) else ""
    return ("..." if begin else "") + text[begin : begin + most] + end


def _mistakes(all_rows, with_texts):
    """Returns the surest mistakes of all splits, and how many there are: dict."""
    found = []
    for rows in all_rows:
        probabilities = [rows.numbers(name) for name in rows.columns if name.startswith("p_")]
        if rows.answer_column == "label" and probabilities:
            sure = np.max(probabilities, axis=0)
        elif rows.answer_column == "answer" and rows.has("score"):
            sure = rows.numbers("score")
        elif "error" in rows:
            sure = np.array([abs(float(each or 0)) for each in rows["error"]])
        else:
            sure = np.full(len(rows), np.nan)
        found += [(sure[n], rows, n) for n in rows.mistakes]
    if all(np.isfinite(sure) for sure, _, _ in found):
        found.sort(key=lambda each: -each[0])  # of several splits; each is in order
    shown = [
        shown_row(rows, n, with_texts, sure=float(sure) if np.isfinite(sure) else None)
        for sure, rows, n in found[:MAX_MISTAKES]
    ]
    return {"number": len(found), "rows": shown}


def rows_to_explain(all_rows, number):
    """Returns (KeptRows, number) of rows that tell most: the surest mistakes, and as many rows that
    are right, from all over the splits."""
    mistakes = [(rows, n) for rows in all_rows for n in rows.mistakes[: number // 2]]
    mistakes = mistakes[: number // 2]
    right = [
        (rows, n)
        for rows in all_rows
        if rows.is_right is not None
        for n in np.flatnonzero(rows.is_right).tolist()
    ]
    places = np.linspace(0, len(right) - 1, min(number - len(mistakes), len(right)))
    return mistakes + [right[int(place)] for place in places]


def _by_length(all_rows):
    """Returns the share of mistakes, or the mean error, by the words of a row: list of dicts."""
    lengths, values = [], []
    for rows in all_rows:
        is_wrong = None if rows.is_right is None else ~rows.is_right
        if "error" in rows and "" not in rows["error"]:
            is_wrong = np.abs(rows.numbers("error"))
        if is_wrong is None or not rows.texts(0):
            return []
        lengths.append(rows.num_words)
        values.append(is_wrong.astype(np.float64))
    if not lengths:
        return []
    lengths, values = np.concatenate(lengths), np.concatenate(values)
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, MAX_BINS + 1), method="lower"))
    place = np.searchsorted(edges[1:-1], lengths, side="right") if len(edges) > 2 else lengths * 0
    return [
        {
            "least": int(lengths[place == n].min()),
            "most": int(lengths[place == n].max()),
            "rows": int((place == n).sum()),
            "wrong": float(values[place == n].mean()),
        }
        for n in np.unique(place).tolist()
    ]


def _by_first_word(all_rows):
    """Returns the exact and the overlapping answers by the first words of questions, such as who
    and when, the commonest first: list of dicts; [] of other tasks."""
    found = {}
    for rows in all_rows:
        if rows.answer_column == "answer" and rows.is_right is not None and rows.has("f1"):
            of_rows = zip(rows["text_a"], rows.is_right.tolist(), rows.numbers("f1"), strict=True)
            for question, *scores in of_rows:
                word = next(iter(question.lower().split()), "")
                found.setdefault(_shortened(word), []).append(scores)
    words = sorted(found, key=lambda word: -len(found[word]))[:MAX_FIRST_WORDS]
    means = {word: PERCENT * np.mean(found[word], axis=0) for word in words}
    return [
        {"word": word, "exact_match": float(exact), "f1": float(f1), "rows": len(found[word])}
        for word, (exact, f1) in means.items()
        if len(found[word]) >= MIN_OF_FIRST_WORD
    ]


# ---- Classes -------------------------------------------------------------------------------------


def _cells(all_rows, names, with_texts):
    """Returns the rows of the cells of the confusion matrix with mistakes: list of dicts."""
    places = {}
    for rows in all_rows:
        if "label_true" in rows and "label" in rows:
            pairs = zip(rows["label_true"], rows["label"], strict=True)
            for number, (true, answer) in enumerate(pairs):
                if true != answer and true in names and answer in names:
                    cell = names.index(true), names.index(answer)
                    places.setdefault(cell, []).append((rows, number))
    room, cells = MAX_ALL_CELL_ROWS, []
    for (true, answer), found in sorted(places.items(), key=lambda pair: -len(pair[1])):
        shown = [
            shown_row(rows, number, with_texts) for rows, number in found[:MAX_CELL_ROWS][:room]
        ]
        room -= len(shown)
        cells.append({"true": true, "answer": answer, "number": len(found), "rows": shown})
    return cells


def _of_classes(all_rows, names):
    """Returns (probabilities, labels) of all splits, or None where the rows do not say."""
    found = [rows.classes(names) for rows in all_rows]
    if not found or None in found:
        return None
    return [np.concatenate(each) for each in zip(*found, strict=True)]


def _calibration(all_rows, names):
    found = _of_classes(all_rows, names)
    if found is None:
        return None
    counts, confidence, accuracy = reliability(*found)
    bins = {"counts": counts, "confidence": confidence, "accuracy": accuracy}
    error = expected_calibration_error(*found)
    return {"error": error, **{name: values.tolist() for name, values in bins.items()}}


def _suspects(all_rows, names, with_texts):
    found = _of_classes(all_rows, names)
    if found is None:
        return None
    rows, classes = suspects(*found)
    ends = np.cumsum([len(each) for each in all_rows])
    shown = []
    for row, other in zip(rows[:MAX_SUSPECTS].tolist(), classes.tolist(), strict=False):
        split = int(np.searchsorted(ends, row, side="right"))
        number = row - int(ends[split] - len(all_rows[split]))
        probability = float(found[0][row, other])
        more = {"suggested": names[other], "probability": probability}
        shown.append(shown_row(all_rows[split], number, with_texts, **more))
    return {"number": len(rows), "rows": shown}


# ---- The run -------------------------------------------------------------------------------------


def _start(start):
    result = start["result"]
    kept = ("id", "mode", "command", "program", "host", "params_sha256", "started", "ended")
    kept = (*kept, "exit_code", "reason", "peak_memory_bytes")
    kept = {name: start.get(name) for name in kept}
    of_result = ("outcome", "seconds", "step", "examples_per_second", "num_parameters", "versions")
    return kept | {name: result.get(name) for name in of_result}


# ---- Another run ---------------------------------------------------------------------------------


def _comparison(facts, other, main, with_texts):
    """Returns the figures of both runs, and where their answers differ on the same rows."""
    names = [name for name in facts.figures if name in other.figures]
    found = {
        "name": other.name,
        "step": other.report.get("step"),
        "figures": [[name, facts.figures[name], other.figures[name]] for name in names],
        "params": _differing(facts.params, other.params),
        "num_common": 0,
        "is_same_data": facts.report.get("source") == other.report.get("source"),
    }
    gained, lost, num_common, columns = [], [], 0, []
    of_rows = OF_ROWS.get(facts.task, {})
    figure = main if main in of_rows else next(iter(of_rows), None)
    others = {rows.split: rows for rows in other.rows}
    for rows in facts.rows:
        theirs = others.get(rows.split)
        if theirs is None or rows.is_right is None or theirs.is_right is None:
            continue
        places = {_key(theirs, n): n for n in range(len(theirs))}
        pairs = [(n, places.get(_key(rows, n))) for n in range(len(rows))]
        pairs = [(n, there) for n, there in pairs if there is not None]
        num_common += len(pairs)
        columns.append(_columns_of_common(rows, theirs, pairs, of_rows.get(figure), facts.task))
        for n, there in pairs:
            ours_right, theirs_right = rows.is_right[n], theirs.is_right[there]
            if ours_right != theirs_right:
                answer = theirs[theirs.answer_column][there]
                shows = with_texts or _is_of_classes(rows)
                more = {"other_answer": _shortened(answer)} if shows else {}
                (gained if ours_right else lost).append(shown_row(rows, n, with_texts, **more))
    if num_common:
        found |= {
            "num_common": num_common,
            "figure": figure,
            **_difference(columns),
            "num_gained": len(gained),
            "num_lost": len(lost),
            "gained": gained[:MAX_CHANGED],
            "lost": lost[:MAX_CHANGED],
        }
    return found


def _columns_of_common(ours, theirs, pairs, kind, task):
    """Returns `_columns_of` both runs' rows of pairs of numbers: four float64 [pairs]; or None."""
    both = [_columns_of(rows, kind, task) for rows in (ours, theirs)]
    if None in both:
        return None
    numbers = np.array(pairs, np.int64).reshape(-1, 2).T
    return [values[n] for of_run, n in zip(both, numbers, strict=True) for values in of_run]


def _difference(columns):
    """Returns {"difference", "interval"} of a figure on the rows of both runs. columns: of each
    split, `_columns_of_common`."""
    columns = _joined(columns)
    if columns is None:
        return {"difference": None, "interval": None}
    ours, theirs = columns[:2], columns[2:]
    difference = _quotient(*ours) - _quotient(*theirs)
    return {"difference": difference, "interval": ratio_interval(*ours, less=theirs)}


def _key(rows, number):
    """What tells a row of two evaluations of the same data: its number, texts and answer."""
    true = rows[rows.true_column][number] if rows.true_column else ""
    return rows["id"][number], tuple(rows.texts(number)), true


def _differing(ours, theirs, prefix=""):
    """Returns [dotted key, our value, their value] of what differs between two mappings."""
    found = []
    for name in ours | theirs:
        before, after = ours.get(name), theirs.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differing(before, after, f"{prefix}{name}.")
        elif before != after:
            found.append([f"{prefix}{name}", before, after])
    return found
