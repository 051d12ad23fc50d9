# SPDX-License-Identifier: Apache-2.0
"""A file is complete or absent, whatever happens while it is written."""

import errno
import os
import pwd

import pytest

from common.files import cache_dir, delete_leftovers, write_whole


def test_text_and_bytes_are_written_unchanged(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_whole(path, "é\r\n\n")
    assert path.read_bytes() == b"\xc3\xa9\r\n\n"
    write_whole(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, broken):
    path = tmp_path / "file.txt"
    write_whole(path, "old")

    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match=r"No space left on device: .*file\.txt'$"):
        write_whole(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]


def test_content_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("fsync") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda *a: calls.append("replace") or replace(*a))
    write_whole(tmp_path / "file.txt", "content")
    assert calls == ["fsync", "replace"]


def test_only_files_of_killed_processes_are_deleted(tmp_path):
    for name in (".best.json.123.tmp", ".hidden.tmp", "a.123.tmp", "best.json"):
        write_whole(tmp_path / name, "")
    for name in (".old.png.123.tmp", ".new.png.123.tmp", "old.png"):
        write_whole(tmp_path / "plots" / name, "")
    os.utime(tmp_path / "plots" / ".old.png.123.tmp", (0, 0))
    for name in ("run.json", ".run.json.123.tmp"):
        write_whole(tmp_path / "runs" / "one" / name, "")
    os.utime(tmp_path / "runs" / "one" / ".run.json.123.tmp", (0, 0))
    (tmp_path / ".checkpoint-2.123.tmp").mkdir()  # a folder: not written by write_whole
    delete_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [
        ".checkpoint-2.123.tmp", ".hidden.tmp", "a.123.tmp", "best.json", "plots", "runs",
    ]  # fmt: skip
    assert os.listdir(tmp_path / "runs" / "one") == ["run.json"]
    # Another process, which only evaluates, may be writing the new one.
    assert sorted(os.listdir(tmp_path / "plots")) == [".new.png.123.tmp", "old.png"]


def test_without_a_home_nothing_can_be_kept(monkeypatch):
    def no_such_user(number):
        raise KeyError(number)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_such_user)
    with pytest.raises(OSError, match="Not a directory"):
        write_whole(cache_dir() / "file", "")
