# SPDX-License-Identifier: Apache-2.0
"""Only what this user's own runs have written is trusted, and only as they wrote it."""

import hashlib
import os
import stat

import pytest

from common.files import write_whole
from common.platform.seal import (
    KEY,
    NotSealed,
    check_own,
    make_own,
    read_sealed,
    write_sealed,
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The folder of a user's cache, empty at first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bert_classifier"


@pytest.fixture
def file(tmp_path):
    """A sealed file."""
    write_sealed(tmp_path / "file", "content", "list of folder")
    return tmp_path / "file"


def test_the_key_is_drawn_once_and_only_its_user_can_read_it(home, file):
    key = (home / KEY).read_bytes()
    assert len(key) == 32 and stat.S_IMODE((home / KEY).stat().st_mode) == 0o600
    write_sealed(file, "more", "another")
    assert (home / KEY).read_bytes() == key
    assert read_sealed(file, "another") == b"more"


def test_the_seal_is_blake2b_with_the_key(home, file):
    key = (home / KEY).read_bytes()
    expected = hashlib.blake2b(b"list of folder\ncontent", key=key, digest_size=32).hexdigest()
    assert file.read_text() == f"content\n{expected}\n"


def test_every_changed_byte_and_every_cut_is_seen(file):
    whole = file.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        for content in (bytes(changed), whole[:place]):
            write_whole(file, content, mode=0o644)
            with pytest.raises(NotSealed, match="damaged, or another user or version wrote it"):
                read_sealed(file, "list of folder")


def test_content_for_something_else_and_of_another_user_is_not_trusted(file, tmp_path, monkeypatch):
    with pytest.raises(NotSealed):
        read_sealed(file, "list of another folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache of another user"))
    with pytest.raises(NotSealed):
        read_sealed(file, "list of folder")


def test_a_key_that_others_could_read_is_drawn_anew(home, file):
    former = (home / KEY).read_bytes()
    (home / KEY).chmod(0o640)
    with pytest.raises(NotSealed):
        read_sealed(file, "list of folder")
    assert (home / KEY).read_bytes() != former
    assert stat.S_IMODE((home / KEY).stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_what_others_can_write_is_not_trusted(file, mode):
    file.chmod(mode)
    with pytest.raises(NotSealed, match="other users can write to it"):
        read_sealed(file, "list of folder")


def test_what_belongs_to_another_user_is_not_trusted(file, tmp_path, monkeypatch):
    make_own(tmp_path / "folder")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    for check in (check_own, make_own):
        with pytest.raises(NotSealed, match="it belongs to another user"):
            check(tmp_path / "folder")
    with pytest.raises(NotSealed, match="it belongs to another user"):
        read_sealed(file, "list of folder")


def test_links_are_not_followed(file, tmp_path):
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(NotSealed, match="symbolic link"):
        read_sealed(tmp_path / "link", "list of folder")
    (tmp_path / "folder").symlink_to(tmp_path / "cache")
    with pytest.raises(NotSealed, match="symbolic link"):
        make_own(tmp_path / "folder")


def test_a_folder_of_this_user_is_closed_to_others(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(0o777)
    make_own(tmp_path / "folder")
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o755


def test_without_a_place_for_the_key_nothing_is_kept(file, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    with pytest.raises(OSError, match="Not a directory"):
        write_sealed(file, "content", "list of folder")
