# SPDX-License-Identifier: Apache-2.0
"""A run goes on when its terminal, or the program behind a pipe, is gone."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.platform.standard_streams import Outlasting

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import os, sys
from common.platform.standard_streams import outlast_readers
outlast_readers()
file = open(sys.argv[1], "w")
input()
for number in range(3):
    print("a line", flush=True)
    print("a line", file=sys.stderr)
    os.write(2, b"of a library")
    file.write("work")
    file.flush()
"""


@pytest.mark.parametrize("closes", ["pipes", "descriptors"])
def test_work_goes_on_without_its_streams(tmp_path, closes):
    shell = {"pipes": "exec ", "descriptors": "exec 1>&- 2>&-; exec "}[closes]
    process = subprocess.Popen(
        ["sh", "-c", f'{shell}"$@"', "sh", sys.executable, "-c", PROGRAM, tmp_path / "file"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    process.stderr.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    assert process.wait(60) == 0
    assert (tmp_path / "file").read_text() == 3 * "work"


class OnFullDisk(io.StringIO):
    """A text stream whose writes fail."""

    def __init__(self, descriptor):
        super().__init__()
        self.descriptor = descriptor

    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fileno(self):
        return self.descriptor


def test_results_that_cannot_be_written_are_an_error_and_progress_is_not(tmp_path):
    with open(tmp_path / "file", "w") as file:
        with pytest.raises(OSError, match="No space left"):
            Outlasting(OnFullDisk(file.fileno())).write("a result")
        assert os.fstat(file.fileno()).st_rdev == 0
        assert Outlasting(OnFullDisk(file.fileno()), any_error=True).write("a line") == 6
        assert os.fstat(file.fileno()).st_rdev == os.stat(os.devnull).st_rdev


def test_a_stream_is_otherwise_as_before():
    stream = Outlasting(io.StringIO())
    assert stream.write("text") == 4 and stream.getvalue() == "text" and not stream.isatty()
