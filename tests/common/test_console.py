# SPDX-License-Identifier: Apache-2.0
"""Text for the user: its stream, alignment and rounding."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.console import closing_summary, format_duration, log


def test_lines_go_to_the_standard_error_stream_or_the_one_given(capsys):
    stream = io.StringIO()
    log("two\nlines")
    log("elsewhere", stream)
    assert capsys.readouterr() == ("", "two\nlines\n")
    assert stream.getvalue() == "elsewhere\n"


def test_closing_summary_is_aligned():
    text = closing_summary([("accuracy", "0.9106"), ("written to", "runs/sst2")])
    assert text == "  accuracy    0.9106\n  written to  runs/sst2"
    assert closing_summary([]) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (42.4, "42 s"),
        (59.4, "59 s"),
        (59.7, "1 min"),
        (14 * 60 + 10, "14 min"),
        (59.7 * 60, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (100 * 3600, "100 h 00 min"),
    ],
)
def test_durations_round_without_a_60(seconds, text):
    assert format_duration(seconds) == text


def test_what_a_terminal_cannot_show_is_escaped():
    program = "from common.console import escape_unencodable as e; e(); print('père \\udcff')"
    for encoding, expected in (("ascii", rb"p\xe8re \udcff"), ("utf-8", b"p\xc3\xa8re \\udcff")):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).resolve().parents[2],
            env=os.environ | {"PYTHONIOENCODING": encoding},
            capture_output=True,
            check=True,
        )
        assert done.stdout.strip() == expected
