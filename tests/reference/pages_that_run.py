# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/how_it_works: their code is run, and prints what stands below it.

    python -m tests.reference.pages_that_run

writes what the code prints now into the pages; a change of the code behind them shows as a diff.
"""

import contextlib
import io
import os
import re
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "how_it_works"
INDEX = FOLDER / "index.md"  # its code comes before that of every page
PAGES = sorted(path for path in FOLDER.glob("*.md") if path != INDEX)
# Code, and directly below it what it prints.
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
NUMBER = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?")
TOLERANCE = 0.002  # processors add in other orders


def blocks_of(page):
    """Returns [(code, what it prints)] of a page; "" where the page shows nothing."""
    return [(match[1], match[2] or "") for match in BLOCK.finditer(page.read_text("utf-8"))]


def run_blocks(page, names):
    """Runs the code of a page, block after block. Returns what each prints: list of str.

    names: dict, the names that its code knows, to which it adds.
    """
    printed = []
    for number, (code, _) in enumerate(blocks_of(page), 1):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(code, f"{page.name}, block {number}", "exec"), names)
        printed.append(output.getvalue())
    return printed


def are_alike(printed, shown):
    """Whether two outputs are the same but for the last digits of their decimals."""
    if NUMBER.sub("#", printed) != NUMBER.sub("#", shown):
        return False
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True)
    return all(abs(float(a) - float(b)) <= TOLERANCE * _scale(b) for a, b in pairs)


def _scale(number):
    """What the tolerance of a decimal is a share of: of 6.00e-05 the number, else at least 1."""
    size = abs(float(number))
    return size if "e" in number else max(1.0, size)


def rewrite(page, printed):
    """Writes what the code of a page prints below it."""
    outputs = iter(printed)

    def block(match):
        output = next(outputs)
        below = f"\n\n```text\n{output}```" if output else ""
        return f"```python\n{match[1]}```{below}"

    page.write_text(BLOCK.sub(block, page.read_text("utf-8")), "utf-8")


def main():
    os.chdir(tempfile.mkdtemp())
    begun = {}
    rewrite(INDEX, run_blocks(INDEX, begun))
    for page in PAGES:
        rewrite(page, run_blocks(page, dict(begun)))
        print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
