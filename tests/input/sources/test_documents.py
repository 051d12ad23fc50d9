# SPDX-License-Identifier: Apache-2.0
"""input/sources/documents.py: files to documents, whatever the shards, and what is refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from input.sources import documents
from input.sources.documents import Found, TextCorpus, split_sentences


def read(corpus, found=None):
    """[lines] of all documents, shard after shard."""
    found = found or Found()
    return [d.lines for shard in corpus.shards for d in corpus.documents(shard, found)]


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


# ---- Which files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"\xff\xfea\0", "UTF-16; save it as UTF-8"),
        (b"\x1f\x8b\x08\x00", r"compressed \(gzip\); unpack it"),
    ],
)
def test_files_of_other_kinds_are_refused(write, content, reason):
    with pytest.raises(UserError, match=reason):
        TextCorpus([write("x.txt", content)])


# ---- Documents -----------------------------------------------------------------------------------


def test_blank_lines_end_documents(write):
    path = write("a.txt", "\ufeffone\r\n two \n\n\n \t\nthree\nfour")
    assert read(TextCorpus([path])) == [[b"one", b"two"], [b"three", b"four"]]


def test_a_file_is_a_document_and_an_empty_one_is_counted(write, tmp_path):
    write("a.txt", "one\n\ntwo\n")
    write("b.txt", " \n")
    write("c.txt", "")
    found = Found()
    corpus = TextCorpus([str(tmp_path)], document_boundary="file")
    assert read(corpus, found) == [[b"one", b"two"]] and found.num_empty == 2


def test_json_lines_hold_a_text_or_paragraphs(write):
    rows = [{"text": "one\ntwo"}, {"text": ["three", " ", "four"]}, {"text": ""}, {"text": []}]
    found = Found()
    corpus = TextCorpus([write("a.jsonl", "\n".join(map(json.dumps, rows)))])
    assert read(corpus, found) == [[b"one", b"two"], [b"three", b"four"]] and found.num_empty == 2


def test_a_long_document_is_cut_at_a_line_and_counted(write, monkeypatch):
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 7)
    found = Found()
    assert read(TextCorpus([write("a.txt", "abcd\nefg\nh\n\ni\n")]), found) == [
        [b"abcd", b"efg"],
        [b"h"],
        [b"i"],
    ]
    assert found.num_cut == 1


LINES = st.lists(st.sampled_from(["", " ", "a", "bc", "def ghi", "é" * 9]), max_size=40)


@settings(max_examples=60, deadline=None)
@given(
    files=st.lists(LINES, min_size=1, max_size=3),
    shard_bytes=st.integers(1, 60),
    boundary=st.sampled_from(["blank_line", "file"]),
    chunk=st.integers(1, 20),
)
def test_shards_hold_every_line_once_whatever_their_size(
    tmp_path_factory, files, shard_bytes, boundary, chunk
):
    folder = tmp_path_factory.mktemp("corpus")
    for n, lines in enumerate(files):
        (folder / f"{n}.txt").write_text("\n".join(lines), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "CHUNK_BYTES", chunk)
        one = TextCorpus([str(folder)], document_boundary=boundary, shard_bytes=10**6)
        many = TextCorpus([str(folder)], document_boundary=boundary, shard_bytes=shard_bytes)
        whole, parts = read(one), read(many)
    wanted = [line.strip().encode() for lines in files for line in lines if line.strip()]
    assert [line for lines in whole for line in lines] == wanted
    assert [line for lines in parts for line in lines] == wanted
    if boundary == "blank_line":  # a file may be cut, a document between blank lines is not
        assert parts == whole


@settings(max_examples=30, deadline=None)
@given(lines=LINES, shard_bytes=st.integers(1, 60))
def test_the_place_of_a_line_names_its_file_and_number(tmp_path_factory, lines, shard_bytes):
    path = tmp_path_factory.mktemp("corpus") / "a.txt"
    path.write_text("\n".join(lines), "utf-8")
    corpus = TextCorpus([str(path)], shard_bytes=shard_bytes)
    for shard in corpus.shards:
        for document in corpus.documents(shard, Found(), with_places=True):
            for line, place in zip(document.lines, document.places, strict=True):
                name, number = corpus.place_of(shard, place).split(", line ")
                assert name == str(path) and lines[int(number) - 1].strip().encode() == line


def test_sentences_end_at_punctuation_before_a_capital():
    line = 'He left. "Why?" she asked. At 3.5 p.m. it rained! (So.) É was ok. 42 came.'
    assert split_sentences(line.encode()) == [
        each.encode()
        for each in (
            "He left.",
            '"Why?" she asked.',
            "At 3.5 p.m. it rained!",
            "(So.)",
            "É was ok.",
            "42 came.",
        )
    ]
    assert split_sentences("是。不是。".encode()) == ["是。".encode(), "不是。".encode()]


# ---- Lines that cannot be used -------------------------------------------------------------------


def test_text_that_is_not_utf8_is_named_by_file_and_line(write):
    path = write("a.txt", b"one\n\ntwo\nthr\xe9e\nfour\n")
    with pytest.raises(UserError, match=r"a.txt, line 4 is not UTF-8: 0xe9 at its byte 4"):
        read(TextCorpus([path]))
    found = Found()
    assert read(TextCorpus([path], skips_bad_lines=True), found) == [[b"one"], [b"two", b"four"]]
    assert found.num_faults == 1


@pytest.mark.parametrize(
    "line, reason",
    [
        ("{", "is not JSON"),
        ("[1]", "is no object"),
        ('{"body": "x"}', "has no text; text_columns names the key"),
        ('{"text": 3}', "text is no text, and no list of paragraphs"),
        ('{"text": "\\ud800"}', "half a character"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_bad_json_lines_are_named(write, line, reason):
    path = write("a.jsonl", '{"text": "good"}\n' + line + "\n")
    with pytest.raises(UserError, match=rf"a.jsonl, line 2 .*{reason}"):
        read(TextCorpus([path]))
    found = Found()
    assert read(TextCorpus([path], skips_bad_lines=True), found) == [[b"good"]]
    assert found.num_faults == 1


def test_a_line_without_end_is_refused_in_bounded_memory(write, monkeypatch):
    monkeypatch.setattr(documents, "MAX_LINE_BYTES", 5000)
    monkeypatch.setattr(documents, "CHUNK_BYTES", 1000)
    path = write("a.txt", "one\n" + "x" * 20_000 + "\ntwo\n")
    with pytest.raises(UserError, match=r"a.txt, line 2 has more than 5,000 bytes"):
        read(TextCorpus([path]))
    found = Found()
    assert read(TextCorpus([path], skips_bad_lines=True), found) == [[b"one", b"two"]]
    assert found.num_faults == 1
    for shard_bytes in (3000, 7000):  # shards begin within the line
        corpus = TextCorpus([path], skips_bad_lines=True, shard_bytes=shard_bytes)
        assert [line for lines in read(corpus) for line in lines] == [b"one", b"two"]


def test_many_bad_lines_are_counted_and_the_first_listed(write):
    path = write("a.txt", b"\xff\n" * 50)
    with pytest.raises(UserError) as error:
        read(TextCorpus([path]))
    assert str(error.value).count("is not UTF-8") == documents.MAX_LISTED
