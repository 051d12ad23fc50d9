# SPDX-License-Identifier: Apache-2.0
"""A file is complete or absent, whatever happens while it is written."""

import errno
import fcntl
import os
import pwd

import pytest

from common.files import cache_dir, delete_leftovers, held, is_abandoned, write_whole


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


def test_only_files_of_killed_processes_are_deleted_and_of_any_age(tmp_path):
    for name in (".best.json.123.tmp", ".hidden.tmp", "a.123.tmp", "best.json"):
        write_whole(tmp_path / name, "")
    for name in (".old.png.123.tmp", ".new.png.123.tmp", "old.png"):
        write_whole(tmp_path / "plots" / name, "")
    for name in ("run.json", ".run.json.123.tmp", "more/.run.json.123.tmp"):
        write_whole(tmp_path / "runs" / "one" / name, "")
    (tmp_path / ".checkpoint-2.123.tmp").mkdir()  # a folder: not written by write_whole
    with held(tmp_path / "plots" / ".new.png.123.tmp"):  # another process is writing it
        delete_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [
        ".checkpoint-2.123.tmp", ".hidden.tmp", "a.123.tmp", "best.json", "plots", "runs",
    ]  # fmt: skip
    assert sorted(os.listdir(tmp_path / "runs" / "one")) == ["more", "run.json"]
    assert sorted(os.listdir(tmp_path / "plots")) == [".new.png.123.tmp", "old.png"]


def test_without_a_home_nothing_can_be_kept(monkeypatch):
    def no_such_user(number):
        raise KeyError(number)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_such_user)
    with pytest.raises(OSError, match="Not a directory"):
        write_whole(cache_dir() / "file", "")


def test_a_file_that_is_being_written_is_not_abandoned(tmp_path, monkeypatch):
    seen = []
    fsync = os.fsync

    def look(descriptor):
        (temporary,) = tmp_path.iterdir()
        seen.append(is_abandoned(temporary))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    write_whole(tmp_path / "file.txt", "content")
    assert seen == [False] and is_abandoned(tmp_path / "file.txt")


def test_without_locks_old_temporary_files_are_abandoned(tmp_path, monkeypatch):
    def fail(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    write_whole(tmp_path / "file.txt", "content")
    assert not is_abandoned(tmp_path / "file.txt")
    os.utime(tmp_path / "file.txt", (0, 0))
    assert is_abandoned(tmp_path / "file.txt")


def test_no_link_is_followed_for_writing_or_deleting(tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    write_whole(elsewhere / ".notes.1.tmp", "of somebody else")
    write_whole(elsewhere / "notes", "of somebody else")
    (folder / "plots").symlink_to(elsewhere)
    (folder / ".file.txt.123.tmp").symlink_to(elsewhere / ".notes.1.tmp")
    (folder / f".file.txt.{os.getpid()}.tmp").symlink_to(elsewhere / "notes")
    (folder / "file.txt").symlink_to(elsewhere / "notes")
    delete_leftovers(folder)
    write_whole(folder / "file.txt", "content")
    assert (folder / "file.txt").read_text() == "content" and not (folder / "file.txt").is_symlink()
    assert {file.read_text() for file in elsewhere.iterdir()} == {"of somebody else"}
    assert len(os.listdir(elsewhere)) == 2
