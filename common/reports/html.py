# SPDX-License-Identifier: Apache-2.0
"""Parts of a report as one HTML file, which asks no other host: no script, no fonts, no framework.

What comes from the data passes `text`, which escapes it. Everything else returns HTML.
"""

import html
import io
import re
import warnings

STYLE = """
:root { color-scheme: light; --ink: #1d2733; --soft: #5b6773; --line: #dfe4ea; --blue: #0072b2;
  --orange: #b34a00; --wash: #f5f7f9; --bar: 1rem; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; color: var(--ink);
  background: #fff; font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial,
  "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .75rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
.soft { color: var(--soft); }
.small { font-size: .875rem; }
table { border-collapse: collapse; margin: .75rem 0; font-size: .9375rem; }
.wide { overflow-x: auto; }
th, td { padding: .3rem .75rem .3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { font-weight: 600; color: var(--soft); font-size: .8125rem; white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
ul.findings { list-style: none; padding: 0; margin: 1rem 0; }
ul.findings li { padding: .4rem 0 .4rem 1.1rem; border-left: 3px solid var(--line);
  margin: .35rem 0; }
ul.findings li.problem { border-color: var(--orange); }
ul.findings li.note { border-color: var(--blue); }
details { margin: .4rem 0; }
summary { cursor: pointer; }
summary:hover { color: var(--blue); }
.bar { display: inline-block; height: .7rem; background: var(--blue); border-radius: 2px;
  margin-right: .5rem; min-width: 1px; }
figure { margin: 1rem 0; }
figure svg { max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .875rem; max-width: 46rem; }
.example { background: var(--wash); border-radius: 6px; padding: .5rem .75rem; margin: .5rem 0;
  font-size: .9375rem; overflow-wrap: anywhere; }
.example p { margin: .15rem 0; max-width: none; }
.tag { font-size: .8125rem; border: 1px solid var(--line); border-radius: 4px; padding: 0 .35rem;
  background: #fff; overflow-wrap: anywhere; }
.cell { display: none; }
.cell:target { display: block; }
.shade { display: inline-block; padding: 0 .35rem; border-radius: 3px; }
pre { font-size: .8125rem; overflow-x: auto; background: var(--wash); padding: .75rem; }
code { font-size: .875em; }
nav { margin: 1rem 0; font-size: .9375rem; }
nav a { margin-right: 1rem; white-space: nowrap; }
a { color: var(--blue); }
td:first-child { min-width: 5.5rem; }
@media (max-width: 40rem) { :root { --bar: .5rem; } th { white-space: normal; }
  .number .bar { display: none; } }
@media print { body { max-width: none; } details { break-inside: avoid; } }
"""


def text(value):
    """Escapes a value of the data for HTML."""
    return html.escape(str(value))


def page(title, subtitle, body):
    """Returns a whole page. title, subtitle: texts. body: list of HTML."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            # A report asks nobody for anything, whatever the texts in it say.
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">",
            f"<title>{text(title)}</title><style>{STYLE}</style></head><body>",
            f"<h1>{text(title)}</h1>",
            f'<p class="soft">{text(subtitle)}</p>',
            *body,
            "</body></html>\n",
        ]
    )


def section(heading, *parts):
    """Returns a part of a page under its heading; "" where nothing is in it."""
    content = "\n".join(part for part in parts if part)
    name = anchor(heading)
    return f'<h2 id="{name}">{text(heading)}</h2>\n{content}' if content else ""


def anchor(heading):
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def contents(sections):
    """Returns links to the sections that there are: their HTML, as of `section`."""
    headings = [re.search(r'<h2 id="([^"]+)">(.*?)</h2>', each) for each in sections if each]
    links = [f'<a href="#{found[1]}">{found[2]}</a>' for found in headings if found]
    return f"<nav>{' '.join(links)}</nav>" if links else ""


def paragraph(*parts, kind=""):
    return f'<p class="{kind}">{" ".join(parts)}</p>' if kind else f"<p>{' '.join(parts)}</p>"


def findings(items):
    """Returns a list of (is_problem, sentence)."""
    listed = [
        f'<li class="{"problem" if is_problem else "note"}">{text(sentence)}</li>'
        for is_problem, sentence in items
    ]
    return f'<ul class="findings">{"".join(listed)}</ul>' if listed else ""


def table(columns, rows, num_texts=1):
    """Returns a table; "" without rows.

    columns: list of texts. rows: lists of HTML. num_texts: int, columns from the left that are no
    numbers.
    """
    if not rows:
        return ""

    def line(cells, tag):
        kinds = [' class="number"' if n >= num_texts else "" for n in range(len(cells))]
        pairs = zip(cells, kinds, strict=True)
        return f"<tr>{''.join(f'<{tag}{kind}>{cell}</{tag}>' for cell, kind in pairs)}</tr>"

    head = line([text(column) for column in columns], "th")
    body = "\n".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def bar(share, most_rem=12):
    """Returns a bar whose length shows a share of 1."""
    length = max(share, 0) * most_rem  # on a telephone half as much
    return f'<span class="bar" style="width:calc({length:.3g} * var(--bar))"></span>'


def details(summary, *parts):
    """Returns what is shown when its summary, HTML, is clicked; "" where nothing is in it."""
    content = "\n".join(part for part in parts if part)
    return f"<details><summary>{summary}</summary>\n{content}</details>" if content else ""


def example(*lines):
    """Returns lines of HTML that belong together."""
    return f'<div class="example">{"".join(f"<p>{line}</p>" for line in lines)}</div>'


def tag(value):
    return f'<span class="tag">{text(value)}</span>'


def short_place(place):
    """A place of a row, file and line, without the folders of the file."""
    return place.rpartition("/")[2]


def drawing(figure, caption=""):
    """Returns a matplotlib Figure as an SVG in the page, its text as text. caption: text."""
    from matplotlib import rc_context

    content = io.StringIO()
    # Without dates and random names: the same figure gives the same bytes.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+")  # a label in a writing without a font
        figure.savefig(content, format="svg", metadata={"Date": None}, bbox_inches="tight")
    svg = content.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # names that several figures share
    shown = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f"<figure>{svg}{shown}</figure>"
