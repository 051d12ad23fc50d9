# SPDX-License-Identifier: Apache-2.0
"""report.html: the content of `run_report.py` for a reader."""

import json

import numpy as np
import yaml

from common.console import counted, format_duration
from common.metrics.row_metrics import figure_name
from common.reports.data_page import data_sections
from common.reports.html import (
    bar,
    contents,
    details,
    drawing,
    example,
    findings,
    page,
    paragraph,
    section,
    short_place,
    table,
    tag,
    text,
)
from common.reports.plots import ACCURACY_LABELS, BLUE, GREY, ORANGE, draw_curves, label_steps

MAX_MATRIX = 30  # classes of a matrix; of more, the commonest confusions are listed
MAX_CONFUSIONS = 40
MAX_POINTS = 600  # of a curve
MAX_CLASSES = 200
MAX_STARTS = 20


def run_page(content, curves, data_report):
    """Returns the page: str.

    Args:
        content: of `report_on_run`. curves: of `read_curves`.
        data_report: of data_report.json; {} without one.
    """
    sections = [
        section("Curves", _curves(curves, content["main"])),
        section("Classes", _classes(content)),
        section("Confusions", _confusions(content)),
        section("Calibration", _calibration(content["calibration"])),
        section("Surest mistakes", _mistakes(content)),
        section("Mistakes by length", _lengths(content)),
        section("Answers by the first word of the question", _first_words(content["first_words"])),
        section("Labels that may be wrong", _suspects(content["suspects"])),
        section("Words that moved predictions", _words(content.get("words"))),
        section("Compared with another run", _comparison(content.get("comparison"))),
        *_of_data(data_report),
        section("The run", _starts(content["starts"]), _saved(content["saved"])),
        section("Params", _params(content["params"])),
    ]
    step = "" if content["step"] is None else f"step {content['step']:,}"
    source = content["data"] or ""
    subtitle = "; ".join(part for part in (f"task {content['task']}", source, step) if part)
    head = [_verdict(content), _figures(content), contents(sections)]
    return page(f"Report: {content['name']}", subtitle, [*head, *sections])


# ---- The verdict ---------------------------------------------------------------------------------


def sentences_of_verdict(content):
    """Returns what a person wants to know first: list of (is_problem, sentence)."""
    verdict, found = content["verdict"], []
    name, value = verdict["figure"], verdict["value"]
    if value is None:
        return [(True, "there is no evaluation yet; --mode eval makes one")]
    rows = content["num_examples"]
    of_rows = f" on {counted(rows, 'row')}" if rows else ""
    intervals = {each["figure"]: each for each in verdict["intervals"]}
    found.append((False, f"{figure_name(name)} {value:.4f}{of_rows}{_interval(content, name)}"))
    for each in verdict["intervals"]:
        if each["figure"] != name:
            sentence = f"{figure_name(each['figure'])} {each['of_rows']:.4f}"
            found.append((False, f"{sentence}{_interval(content, each['figure'])}"))
    compared = intervals.get(verdict["baseline_figure"])
    if compared is not None:
        is_better = compared["interval"][0] > verdict["baseline"]
        verb = "better than" if is_better else "not surely better than"
        sentence = f"{verb} {verdict['baseline_text']}, which gives {verdict['baseline']:.4f}"
        if compared["figure"] != name:
            sentence = f"{figure_name(compared['figure'])} is {sentence}"
        found.append((not is_better, sentence))
    if not verdict["is_same"]:
        found.append((True, "eval/rows_*.tsv are of another evaluation than the figures"))
    suspects = content["suspects"]
    if suspects and suspects["number"]:
        number = counted(suspects["number"], "row")
        found.append((False, f"{number} may have a wrong label"))
    return found


def _interval(content, name):
    """Returns a clause on how far a figure would be off on other rows; "" where nothing says."""
    verdict = content["verdict"]
    for each in verdict["intervals"]:
        if each["figure"] == name:
            how = "normal" if content["task"] == "pretraining" else "bootstrap"
            lower, upper = each["interval"]
            return f"; interval {lower:.4f} to {upper:.4f} ({verdict['level']:.0%}, {how})"
    return ""


def _verdict(content):
    return findings(sentences_of_verdict(content))


def _figures(content):
    rows = [[text(name), f"{value:.6g}"] for name, value in content["figures"].items()]
    return details("all figures of this evaluation, as in metrics.jsonl", table(["", ""], rows))


def _curves(curves, main):
    if not curves:
        return ""
    figure = draw_curves({key: _thinned(curve) for key, curve in curves.items()}, "")
    parts = [drawing(figure)] if figure is not None else []
    curve = curves.get(("eval", main))
    if curve and main not in (*ACCURACY_LABELS, "loss"):
        parts.append(drawing(_draw_main(curve, figure_name(main))))
    return "\n".join(parts)


def _draw_main(curve, name):
    """Returns a Figure of the figure that counts, where `draw_curves` has no panel for it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        list(curve), list(curve.values()), color=ORANGE, linewidth=2, marker="o", markersize=4
    )
    label_steps(axes)
    axes.set_ylabel(name, fontsize=11)
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _thinned(curve):
    """The same curve with at most MAX_POINTS points, the last among them."""
    steps = list(curve)
    stride = -(-len(steps) // MAX_POINTS)
    return {step: curve[step] for step in sorted({*steps[::stride], *steps[-1:]})}


# ---- Classes -------------------------------------------------------------------------------------


def _classes(content):
    classes = content["per_class"]
    if not classes:
        return ""
    columns = [c for c in ("precision", "recall", "f1", "threshold") if c in classes[0]]
    rows = [
        [
            text(each["label"]),
            *(f"{bar(each[column], 4)}{each[column]:.4f}" for column in columns),
            f"{each['support']:,}",
        ]
        for each in sorted(classes, key=lambda each: each["f1"])[:MAX_CLASSES]
    ]
    notes = "" if content["task"] != "classification" else "Recall is one less the share of errors."
    support = "entities" if content["task"] == "token_classification" else "rows"
    return paragraph("The class with the lowest F1 comes first.", notes) + table(
        ["class", *columns, support], rows
    )


def _confusions(content):
    if content["confusion"]:
        return _matrix(content)
    pairs = content["confusions"]
    if not pairs:
        return ""
    columns = list(pairs[0])
    rows = [[text(each[column]) for column in columns] for each in pairs[:MAX_CONFUSIONS]]
    return table(columns, rows, len(columns) - 1)


def _matrix(content):
    """The confusion matrix; a cell with mistakes opens its rows, by the address of the page."""
    counts = np.array(content["confusion"])
    names = [each["label"] for each in content["per_class"]]
    opened = {(cell["true"], cell["answer"]): cell for cell in content["cells"]}
    parts = []
    if len(names) <= MAX_MATRIX:
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        rows = []
        for true, name in enumerate(names):
            cells = []
            for answer in range(len(names)):
                number = f"{counts[true, answer]:,}"
                if opened.get((true, answer), {}).get("rows"):
                    number = f'<a href="#cell-{true}-{answer}">{number}</a>'
                cells.append(_shaded(number, shares[true, answer], true == answer))
            rows.append([text(name), *cells])
        parts.append(
            paragraph("Rows are true classes, columns predicted ones; a number is a link.")
        )
        parts.append(table(["true \\ predicted", *names], rows))
    else:
        listed = [
            [
                text(names[cell["true"]]),
                text(names[cell["answer"]]),
                f'<a href="#cell-{cell["true"]}-{cell["answer"]}">{cell["number"]:,}</a>'
                if cell["rows"]
                else f"{cell['number']:,}",
            ]
            for cell in content["cells"][:MAX_CONFUSIONS]
        ]
        parts.append(table(["true", "predicted", "rows"], listed, 2))
    for cell in content["cells"]:
        if cell["rows"]:
            title = f"{text(names[cell['true']])} taken for {text(names[cell['answer']])}"
            more = cell["number"] - len(cell["rows"])
            rest = paragraph(f"and {more:,} more in eval/", kind="soft") if more else ""
            shown = "".join(example(_row(row)) for row in cell["rows"])
            # Shown where the address names it: no script is needed.
            parts.append(
                f'<div class="cell" id="cell-{cell["true"]}-{cell["answer"]}"><h3>{title}</h3>'
                f"{shown}{rest}</div>"
            )
    return "\n".join(parts)


def _shaded(number, share, is_right):
    colour = "0, 114, 178" if is_right else "179, 74, 0"
    strength = 0.55 * share if share else 0
    style = f"background:rgba({colour},{strength:.2f})"
    return f'<span class="shade" style="{style}">{number}</span>'


def _calibration(calibration):
    if calibration is None:
        return ""
    caption = (
        "Of rows with a confidence, the share that is right. On the line, probabilities can be "
        "taken at their word; below it they are too sure. The size of a point shows its rows."
    )
    error = calibration["error"]
    return paragraph(
        f"Expected calibration error {error:.4f}: probabilities are off by so much on average "
        "(15 bins; Guo et al. 2017). runconfig.calibrate_temperature corrects a part of it."
    ) + drawing(_draw_reliability(calibration), caption)


def _draw_reliability(calibration):
    from matplotlib.figure import Figure

    counts, confidence, accuracy = (
        np.array(calibration[name]) for name in ("counts", "confidence", "accuracy")
    )
    has_rows = counts > 0
    figure = Figure(figsize=(4.2, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    sizes = 12 + 240 * counts[has_rows] / counts.max()
    axes.scatter(confidence[has_rows], accuracy[has_rows], s=sizes, color=BLUE, alpha=0.7)
    axes.set_xlim(max(0, confidence[has_rows].min() - 0.08), 1.03)
    axes.set_ylim(-0.03, 1.05)
    axes.set_xlabel("confidence", fontsize=10, color=GREY)
    axes.set_ylabel("accuracy", fontsize=10, color=GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=GREY)
    return figure


# ---- Rows ----------------------------------------------------------------------------------------


def _row(row):
    """A row of an evaluation: what is true, what was answered, its texts, where it stands."""
    answers = []
    if "true" in row:
        answers.append(f"true {tag(row['true'] or '-')}")
    if "answer" in row:
        answers.append(f"answered {tag(row['answer'] or '-')}")
    if row.get("sure") is not None:
        answers.append(f'<span class="soft small">{row["sure"]:.3f}</span>')
    if "suggested" in row:
        answers.append(f"likelier {tag(row['suggested'])} {row['probability']:.3f}")
    if "other_answer" in row:
        answers.append(f"the other run {tag(row['other_answer'] or '-')}")
    where = (
        f'<span class="soft small">{text(row["split"])}, {text(short_place(row["place"]))}</span>'
    )
    texts = "<br>".join(map(text, row.get("texts", ())))
    return f"{texts}{'<br>' if texts else ''}{' '.join(answers)} {where}"


def _mistakes(content):
    mistakes = content["mistakes"]
    if not mistakes["rows"]:
        return ""
    what = "errors" if content["task"] == "regression" else "mistakes"
    listed = "".join(example(_row(row)) for row in mistakes["rows"])
    return paragraph(
        f"{mistakes['number']:,} rows have {what}; here are {len(mistakes['rows'])}, the surest "
        "first. eval/errors_*.tsv of the model_dir has all."
    ) + details("show them", listed)


def _lengths(content):
    lengths = content["lengths"]
    if len(lengths) < 2:
        return ""
    what = "mean error" if content["task"] == "regression" else "share of mistakes"
    most = max(each["wrong"] for each in lengths) or 1
    rows = [
        [
            f"{each['least']}"
            if each["least"] == each["most"]
            else f"{each['least']} to {each['most']}",
            bar(each["wrong"] / most),
            f"{each['wrong']:.4f}",
            f"{each['rows']:,}",
        ]
        for each in lengths
    ]
    return table(["words of the texts", "", what, "rows"], rows, 2)


def _first_words(found):
    rows = [
        [
            text(each["word"]),
            *(f"{bar(each[name] / 100, 6)}{each[name]:.2f}" for name in ("exact_match", "f1")),
            f"{each['rows']:,}",
        ]
        for each in found
    ]
    return table(["question begins with", "exact match, %", "F1, %", "rows"], rows)


def _suspects(suspects):
    if not suspects or not suspects["number"]:
        return ""
    listed = "".join(example(_row(row)) for row in suspects["rows"])
    return paragraph(
        f"{suspects['number']:,} rows count as of another class than their label, as the network "
        "sees it (confident learning, Northcutt et al. 2021): wrong labels, or rows it does not "
        f"understand. Here are {len(suspects['rows'])}, the surest first."
    ) + details("show them", listed)


def _words(words):
    """words: of each row [(word, share)] that moved its prediction; None without a network."""
    if not words:
        return ""
    shown = []
    for row in words["rows"]:
        most = max((abs(share) for _, share in row["words"]), default=0) or 1
        marked = " ".join(_marked(word, share / most) for word, share in row["words"])
        shown.append(example(marked, _row({k: v for k, v in row.items() if k != "texts"})))
    return paragraph(text(words["how"])) + details("show them", *shown)


def _marked(word, strength):
    colour = "0, 114, 178" if strength > 0 else "179, 74, 0"
    style = f"background:rgba({colour},{0.6 * abs(strength):.2f})"
    return f'<span class="shade" style="{style}">{text(word)}</span>'


# ---- Another run ---------------------------------------------------------------------------------


def _comparison(found):
    if not found:
        return ""
    rows = [
        [text(name), f"{ours:.4f}", f"{theirs:.4f}", f"{ours - theirs:+.4f}"]
        for name, ours, theirs in found["figures"]
    ]
    parts = [table(["figure", "this run", text(found["name"]), "difference"], rows)]
    if not found["is_same_data"]:
        parts.append(findings([(True, "the two were evaluated on different data")]))
    if found["num_common"]:
        parts.append(
            paragraph(
                f"On {found['num_common']:,} rows that both answered, this run is right in "
                f"{found['num_gained']:,} where the other is wrong, and wrong in "
                f"{found['num_lost']:,} where the other is right{_of_difference(found)}."
            )
        )
        for key, summary in (("gained", "right here alone"), ("lost", "right there alone")):
            parts.append(details(summary, *[example(_row(row)) for row in found[key]]))
    params = [
        [text(name), *(f"<code>{text(_plain(value))}</code>" for value in values)]
        for name, *values in found["params"]
    ]
    parts.append(details("params that differ", table(["key", "this run", "other"], params, 3)))
    return "\n".join(part for part in parts if part)


def _of_difference(found):
    """Returns a clause on the difference of the figure that counts; "" where the rows say none."""
    if found["interval"] is None:
        return ""
    lower, upper = found["interval"]
    is_sure = lower > 0 or upper < 0
    return (
        f": a difference of {found['difference']:+.4f} in {text(figure_name(found['figure']))}, "
        f"interval {lower:+.4f} to {upper:+.4f}, which {'is' if is_sure else 'may be'} more than "
        f"chance{'' if is_sure else ' or not'}"
    )


def _plain(value):
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# ---- The data and the run ------------------------------------------------------------------------


def _of_data(data_report):
    if not data_report:
        advice = "--mode data_report with the same model_dir adds what the rows hold: duplicates, "
        advice += "rows that leak between splits, contradictions, lengths."
        return [section("Data", paragraph(text(advice), kind="soft"))]
    listed = [(found["is_problem"], found["text"]) for found in data_report["findings"]]
    return [section("Data", findings(listed)), *data_sections(data_report)]


def _starts(starts):
    if not starts:
        return ""
    rows, versions = [], {}
    for start in starts[-MAX_STARTS:]:
        speed = start["examples_per_second"]
        rows.append(
            [
                text(start["mode"]),
                text(start["outcome"] or start["reason"] or ""),
                text(start["started"] or ""),
                "" if start["seconds"] is None else format_duration(start["seconds"]),
                "" if speed is None else f"{speed:,.1f}",
                ""
                if start["peak_memory_bytes"] is None
                else _gibibytes(start["peak_memory_bytes"]),
                "" if start["num_parameters"] is None else f"{start['num_parameters']:,}",
                "" if start["exit_code"] is None else str(start["exit_code"]),
            ]
        )
        versions = start["versions"] or versions
    columns = ["mode", "outcome", "started", "took", "examples/s", "peak memory"]
    columns += ["parameters", "exit code"]
    listed = [[text(name), text(version)] for name, version in versions.items()]
    of_starts = [
        [*(text(start[name]) for name in ("id", "host", "program", "params_sha256"))]
        for start in starts[-MAX_STARTS:]
    ]
    for row, start in zip(of_starts, starts[-MAX_STARTS:], strict=True):
        row.append(text(" ".join(start["command"] or ())))
    return "\n".join(
        [
            table(columns, rows, 3),
            details("versions", table(["", ""], listed, 2)),
            details(
                "commands and hashes",
                table(["run", "host", "program", "params SHA-256", "command"], of_starts, 5),
            ),
        ]
    )


def _gibibytes(number):
    return f"{number / 2**30:.2f} GiB"


def _saved(saved):
    if not saved:
        return ""
    rows = []
    for name, entry in saved["files"].items():
        digests = [f"{key} {value[:16]}" for key, value in entry.items() if key != "size"]
        rows.append([text(name), text(" ".join(digests)), f"{entry['size']:,}"])
    return f"<h3>{text(saved['name'])}</h3>" + table(
        ["file", "digest, its start", "bytes"], rows, 2
    )


def _params(params):
    if not params:
        return ""
    listed = yaml.safe_dump(params, sort_keys=False, allow_unicode=True)
    return details("params.yaml", f"<pre>{text(listed)}</pre>")
