# SPDX-License-Identifier: Apache-2.0
"""The text and the memory of `documents.py`."""

import subprocess
import sys

from benchmarks import documents


def test_the_text_has_its_size_its_documents_and_no_line_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "FILE_BYTES", 300)
    source = tmp_path / "text.txt"
    source.write_text("one line\nanother\n\na second document\n")
    documents.write_text([source], tmp_path / "many", 1000)
    texts = [path.read_text() for path in sorted((tmp_path / "many").iterdir())]
    assert len(texts) == 4 and 1000 <= sum(map(len, texts)) < 1000 + 50
    lines = [line for text in texts for line in text.splitlines() if line]
    assert len(set(lines)) == len(lines)
    assert texts[0].startswith("0 one line\n0 another\n\n0 a second document\n\n1 one line\n")


def test_memory_is_that_of_all_processes_of_a_command():
    """40 MB in a process, and 30 in one that it starts."""
    child = "b = b'x' * 30_000_000; print(flush=True); input()"
    code = (
        "import subprocess, sys; a = b'x' * 40_000_000\n"
        f"subprocess.run([sys.executable, '-c', {child!r}])"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **pipes) as parent:
        parent.stdout.readline()
        members = documents.group(parent.pid)
        assert parent.pid in members and len(members) == 2
        assert 70e6 < sum(map(documents.pss, members)) < 70e6 + 40e6
        parent.communicate(b"\n")
    assert documents.pss(parent.pid) == 0
