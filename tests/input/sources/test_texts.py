# SPDX-License-Identifier: Apache-2.0
"""input/sources/texts.py: texts of any size, and what is said of files that cannot be used."""

import json
import tracemalloc

import pytest

from common.errors import UserError
from input.sources import texts
from input.sources.texts import GivenTexts, TextFiles, TfdsTexts, find_files


def lines_of(*paths, **keys):
    return "\n".join(TextFiles(paths, **keys).blocks()).split("\n")


def test_lines_come_in_order_whatever_the_size_of_a_block(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("one é\ntwo\n\nthree", "utf-8")
    for size in (1, 3, 7, 100):
        monkeypatch.setattr(texts, "BLOCK_BYTES", size)
        assert "".join(TextFiles([tmp_path / "a.txt"]).blocks()) == "one é\ntwo\n\nthree"


def test_columns_of_tables_and_keys_of_json_lines_are_texts(tmp_path):
    (tmp_path / "a.csv").write_text('id,text,note\n1,"x, ""y""\nz",n\n2,,m\n')
    (tmp_path / "a.tsv").write_text('text\tnote\n"x\tn\n')
    rows = [{"text": "x"}, {"text": ["first", "second"], "other": 1}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert lines_of(tmp_path / "a.csv") == ['x, "y"', "z", ""]
    assert lines_of(tmp_path / "a.csv", text_columns=("note", "text")) == [
        *("n", 'x, "y"', "z", "m", "")
    ]
    assert lines_of(tmp_path / "a.tsv") == ['"x']
    assert lines_of(tmp_path / "a.jsonl") == ["x", "first", "second"]
    (tmp_path / "b.csv").write_text("id;text\n1;x, y\n")
    assert lines_of(tmp_path / "b.csv", delimiter=";") == ["x, y"]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\n")
    assert lines_of(tmp_path / "a.txt") == ["one", ""]


def test_folders_and_patterns_name_their_files_once(tmp_path):
    for name in ("b.txt", "a.txt", "c.csv", ".hidden", "deep/d.txt", ".git/e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = find_files([tmp_path / "c.csv", tmp_path, str(tmp_path / "*.txt")])
    names = [file.removeprefix(f"{tmp_path}/") for file in found]
    assert names == ["c.csv", "a.txt", "b.txt", "deep/d.txt"]


BAD = {
    "not_utf8.txt": (b"one\ntwo\nthr\xffee\n", r"line 3: byte 4 of the line, 0xff, is not UTF-8"),
    "utf16.txt": ("one".encode("utf-16"), "is UTF-16; save it as UTF-8"),
    "packed.txt": (b"\x1f\x8b\x08\x00", "is compressed with gzip; unpack it"),
    "no_column.csv": (b"a,b\n1,2\n", "line 1 has no column text, .*it has a, b"),
    "short_row.csv": (b"text,b\n1,2\n3\n", "line 3: has 1 column, the row of names 2"),
    "no_json.jsonl": (b'{"text": "a"}\n{"text": \n', "line 2: is not JSON"),
    "no_key.jsonl": (b'{"a": 1, "b": 2}\n', "line 1: has no text, .*; it has a, b"),
    "no_text.jsonl": (b'{"text": 3}\n', "line 1: text is no text, and no list of texts"),
    "half.jsonl": (b'{"text": "a\\ud800"}\n', "line 1: text is half a character at 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(tmp_path, name):
    content, match = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}.*{match}"):
        list(TextFiles([tmp_path / name]).blocks())


def test_a_line_of_a_gigabyte_is_refused_without_being_read(tmp_path):
    with open(tmp_path / "a.txt", "wb") as file:
        file.write(b"one\n")
        file.truncate(1_000_000_000)  # a hole, which is read as NUL
    tracemalloc.start()
    with pytest.raises(UserError, match=r"a.txt, line 2: has more than 16,000,000 bytes; .*lines"):
        list(TextFiles([tmp_path / "a.txt"]).blocks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000_000


def test_a_path_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        TextFiles([tmp_path / "absent.txt"])
    with pytest.raises(UserError, match="holds no files"):
        TextFiles([tmp_path])


def test_half_a_character_of_given_texts_is_refused():
    with pytest.raises(UserError, match="half a character at 2"):
        list(GivenTexts(["a", "b\ud800"]).blocks())


def test_texts_of_a_tfds_split(tmp_path):
    keys = ("sample_glue/sst2", tmp_path)
    rows = "\n".join(TfdsTexts(*keys, "validation", ("sentence",)).blocks()).split("\n")
    assert len(rows) == 240 and all(rows)
    with pytest.raises(UserError, match="no rows in split dev; its splits are train, validation"):
        TfdsTexts(*keys, "dev")
    with pytest.raises(UserError, match=r"has no feature text; it has .*sentence"):
        TfdsTexts(*keys, "train")
    with pytest.raises(UserError, match="label that is no text"):
        list(TfdsTexts(*keys, "train", ("label",)).blocks())
