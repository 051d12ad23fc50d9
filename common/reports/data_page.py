# SPDX-License-Identifier: Apache-2.0
"""data_report.html: the content of data_report.json for a reader."""

import numpy as np

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
from common.reports.plots import BLUE, GREEN, GREY, ORANGE, PURPLE

COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
MAX_LABELS = 60  # in a table
MAX_SCRIPTS = 12


def data_page(content):
    """Returns the page: str. content: of `report_on_data`, every row resolved."""
    title = f"Data report: {content['data']}"
    subtitle = (
        f"task {content['task']}; vocabulary of {content['vocabulary']['entries']:,} entries, "
        f"{'uncased' if content['vocabulary']['do_lower'] else 'cased'}"
    )
    sections = data_sections(content)
    listed = [(found["is_problem"], found["text"]) for found in content["findings"]]
    return page(title, subtitle, [findings(listed), contents(sections), *sections])


def data_sections(content):
    """Returns the sections of the page: list of HTML."""
    splits = content["splits"]
    return [
        section("Labels", *[_labels(name, split) for name, split in splits.items()]),
        section("Lengths", _lengths(content)),
        section("Across splits", *map(_across, content["across"])),
        section("Within splits", *[_within(name, split) for name, split in splits.items()]),
        section("Words and characters", _characters(splits)),
        section("Rows that cannot be used", *[_skipped(n, s) for n, s in splits.items()]),
    ]


def _labels(name, split):
    rows = split["rows"]
    head = f"<h3>{text(name)}: {rows:,} rows</h3>"
    if split["labels"]:
        labels = sorted(split["labels"].items(), key=lambda pair: -pair[1])
        total = max(sum(split["labels"].values()), 1)
        shown = [
            [text(label), bar(count / total), f"{count:,}", f"{count / total:.1%}"]
            for label, count in labels[:MAX_LABELS]
        ]
        more = len(labels) - MAX_LABELS
        rest = paragraph(f"and {more:,} more", kind="soft") if more > 0 else ""
        return head + table(["label", "", "number", "share"], shown, 2) + rest
    values = split["values"]
    if values is None:  # records of windows, whose answers may stand in another one
        return head
    names = ("least", "mean", "most", "deviation")
    figures = table(names, [[f"{values[n]:.4g}" for n in names]], 0)
    return head + figures + drawing(_draw_values(values), "How often each value is there.")


def _draw_values(values):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2), layout="constrained")
    axes = figure.add_subplot()
    edges = np.array(values["edges"])
    axes.bar(edges[:-1], values["bars"], np.diff(edges), align="edge", color=BLUE)
    _plain(axes)
    return figure


def _plain(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=GREY)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)


# ---- Lengths -------------------------------------------------------------------------------------


def _lengths(content):
    splits, lengths = content["splits"], content["max_sequence_length"]
    quantiles = list(next(iter(splits.values()))["tokens"]["quantiles"])
    columns = ["split", "least", *(f"{float(q):.0%}" for q in quantiles), "most", "mean"]
    rows = []
    for name, split in splits.items():
        tokens = split["tokens"]
        numbers = [tokens["least"], *tokens["quantiles"].values(), tokens["most"]]
        rows.append([text(name), *(f"{n:,}" for n in numbers), f"{tokens['mean']:.1f}"])
    return "\n".join(
        [
            paragraph(
                "Tokens of a row with its special tokens, before it is cut; 90% means that nine "
                "rows in ten have at most so many."
            ),
            table(columns, rows),
            drawing(_draw_lengths(splits, lengths), "Share of each split's rows by their tokens."),
            "<h3>max_sequence_length</h3>",
            _compared(content),
        ]
    )


def _draw_lengths(splits, lengths):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.add_subplot()
    for (name, split), colour in zip(splits.items(), COLOURS, strict=False):
        tokens = split["tokens"]
        shares = np.array(tokens["bars"]) / split["rows"] / tokens["bar_width"]
        edges = np.arange(len(shares) + 1) * tokens["bar_width"]
        axes.stairs(shares, edges, color=colour, linewidth=1.8, label=name)
    most = max(split["tokens"]["most"] for split in splits.values())
    for key, style in (("given", "-"), ("suggested", ":")):
        if key == "given" or lengths["suggested"] != lengths["given"]:
            label = f"{key}: {lengths[key]}"
            axes.axvline(lengths[key], color=GREY, linestyle=style, linewidth=1.4, label=label)
    axes.set_xlim(0, max(most, lengths["given"]) * 1.04)
    axes.set_xlabel("tokens", fontsize=10, color=GREY)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    axes.legend(frameon=False, fontsize=9)
    _plain(axes)
    return figure


def _compared(content):
    splits, lengths = content["splits"], content["max_sequence_length"]
    has_work = any(row["relative"] is not None for row in lengths["lengths"])
    what = "longer" if lengths["is_windowed"] else "cut in"
    columns = ["max_sequence_length", "", *(f"{what} {name}" for name in splits)]
    columns += ["windows"] if lengths["is_windowed"] else ["tokens lost"]
    columns += ["work of a pass"] if has_work else []
    rows = []
    for row in lengths["lengths"]:
        notes = [key for key in ("given", "suggested") if row["length"] == lengths[key]]
        shares = [
            f"{row['cut'][name]:,} ({row['cut'][name] / split['rows']:.2%})"
            for name, split in splits.items()
        ]
        cells = [str(row["length"]), " ".join(map(tag, notes)), *shares]
        cells += [f"{row['rows' if lengths['is_windowed'] else 'lost']:,}"]
        if has_work:
            relative = row["relative"]
            cells.append("" if relative is None else f"{bar(relative / 2, 6)}{relative:.2f}")
        rows.append(cells)
    text_of_work = (
        "The work of a pass over the training rows counts the multiplications of the batches that "
        "training makes, with their padding, relative to the given length; time follows it."
    )
    held = (
        "of which 99% of the texts fit one window"
        if lengths["is_windowed"]
        else ("that cuts at most 1% of the rows")
    )
    suggested = f"Suggested is the least multiple of 8 {held}, up to {lengths['longest']}."
    return paragraph(suggested, text_of_work if has_work else "") + table(columns, rows, 2)


# ---- Rows that are the same ----------------------------------------------------------------------


def _row(found):
    """A row of the data: where it stands, its label, its texts."""
    where = f'<span class="soft small">{text(short_place(found["place"]))}</span>'
    texts = " <b>|</b> ".join(map(text, found.get("texts", ())))
    return f"{tag(found['label']) if found.get('label') else ''} {texts} {where}"


def _pairs(summary, examples):
    shown = []
    for each in examples:
        similarity = each["similarity"]
        note = [] if similarity == 1 else [f'<span class="soft">similarity {similarity:.2f}</span>']
        shown.append(example(*map(_row, each["rows"]), *note))
    return details(summary, *shown)


def _across(each):
    here, there = each["split"], each["other"]
    parts = [
        f"<h3>{text(here)} in {text(there)}</h3>",
        paragraph(
            f"{each['rows']:,} rows ({each['share']:.2%}) are the same as one of {text(there)}, "
            f"{each['other_label']:,} of them with another label; {each['near_rows']:,} more are "
            f"nearly the same, {each['near_other_label']:,} of them with another label."
        ),
    ]
    if each["shared_texts"]:
        first, second = each["shared_texts"]
        parts.append(
            paragraph(
                f"Of the pairs, {first:,} have a first text and {second:,} a second text that is "
                f"in {text(there)}, too."
            )
        )
    parts.append(_pairs("the same rows", each["examples"]))
    parts.append(_pairs("nearly the same rows", each["near_examples"]))
    return "\n".join(part for part in parts if part)


def _within(name, split):
    repeated, near, contradicting = (split[k] for k in ("repeated", "near", "contradicting"))
    rows = [[_row(each["row"]), str(each["times"])] for each in repeated["examples"]]
    contradictions = [example(*map(_row, rows)) for rows in contradicting["examples"]]
    return "\n".join(
        [
            f"<h3>{text(name)}</h3>",
            paragraph(
                f"{repeated['rows']:,} rows are the same as an earlier one ({repeated['texts']:,} "
                f"texts); {near['texts']:,} texts are nearly the same as an earlier one; "
                f"{contradicting['texts']:,} texts, in {contradicting['rows']:,} rows, have "
                "different labels."
            ),
            details("texts that are there most often", table(["row", "times"], rows)),
            details("texts with different labels", *contradictions),
            _pairs("nearly the same, those with different labels first", near["examples"]),
        ]
    )


# ---- Words and characters ------------------------------------------------------------------------


def _characters(splits):
    rows, odd, unknown = [], [], []
    for name, split in splits.items():
        found, scripts = split["unknown"], split["characters"]["scripts"]
        letters = max(sum(scripts.values()), 1)
        listed = ", ".join(
            f"{script.capitalize()} {_percent(count / letters)}"
            for script, count in list(scripts.items())[:MAX_SCRIPTS]
        )
        numbers = [f"{found['tokens']:,}", f"{found['share']:.3%}", f"{found['rows']:,}"]
        rows.append([text(name), text(listed), *numbers, f"{split['empty']:,}"])
        words = ", ".join(f"{text(word)} ({count:,})" for word, count in found["words"])
        if words:
            unknown.append(details(f"words of {text(name)} that become [UNK]", paragraph(words)))
        for each in split["characters"]["odd"].values():
            characters = "; ".join(f"{c} ({count:,})" for c, count in each["characters"])
            odd.append(
                f"<h3>{text(name)}: {each['rows']:,} rows with {text(each['meaning'])}</h3>"
                + (paragraph(text(characters), kind="small soft") if characters else "")
                + details("rows", *[example(_row(row)) for row in each["examples"]])
            )
    columns = ["split", "scripts of the letters", "[UNK]", "share", "rows with it", "empty rows"]
    return "\n".join([table(columns, rows, 2), *unknown, *odd])


def _percent(share):
    return f"{share:.1%}" if share >= 0.001 else "below 0.1%"


def _skipped(name, split):
    if not split["num_skipped"]:
        return ""
    listed = "".join(f"<li>{text(sentence)}</li>" for sentence in split["skipped"])
    more = split["num_skipped"] - len(split["skipped"])
    rest = paragraph(f"and {more:,} more", kind="soft") if more and split["skipped"] else ""
    return f"<h3>{text(name)}: {split['num_skipped']:,}</h3><ul>{listed}</ul>{rest}"
