# SPDX-License-Identifier: Apache-2.0
"""input/sources/text_files.py: every row of a file is read as it stands, or named with its line."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.params import EvalInputParams
from input.sources import text_files
from input.sources.processors import get_processor
from input.sources.text_files import TextFileSource, parse_rows
from model import TASKS

SUFFIXES = (".csv", ".tsv", ".jsonl")


def parse(content, suffix=".csv", text_columns=("text",), label_column="label"):
    content = content.encode() if isinstance(content, str) else content
    return parse_rows(content, suffix, text_columns, label_column, "file")


def make_source(folder, train=None, validation=None, suffix=".csv", **keys):
    """A TextFileSource of the given contents, str or bytes."""
    contents = {"train_file": train, "eval_file": validation}
    for key, content in contents.items():
        if content is not None:
            path = folder / f"{key}{suffix}"
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            keys[key] = str(path)
    keys = {"text_columns": "text", "max_sequence_length": 9, "batch_size": 2} | keys
    cfg = EvalInputParams(data_processor="TextFileDataProcessor", **keys)
    targets = TASKS[cfg.task].targets.of(cfg)
    return TextFileSource(cfg, get_processor(cfg), targets)


def written(rows, columns, suffix):
    """The bytes of a file as Python's standard writers produce it. rows: tuples of str."""
    if suffix == ".jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
        return "".join(line + "\n" for line in lines).encode()
    stream = io.StringIO()
    if suffix == ".csv":
        csv.writer(stream).writerows([columns, *rows])
    else:
        stream.writelines("\t".join(row) + "\r\n" for row in [columns, *rows])
    return stream.getvalue().encode()


# ---- Rows ----------------------------------------------------------------------------------------

# Any Unicode text; a tab-separated file has no way to hold tabs and line ends.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(str.strip)
plain_texts = texts.filter(lambda text: not set("\t\r\n") & set(text))
names = st.sampled_from(["good", "bad", "très bon", "2", "-1"])


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(suffix, data):
    text = plain_texts if suffix == ".tsv" else texts
    rows = data.draw(st.lists(st.tuples(text, names, text), min_size=1, max_size=6))
    content = written(rows, ["a", "label", "b"], suffix)
    if data.draw(st.booleans()):
        content = b"\xef\xbb\xbf" + content  # as Excel saves UTF-8
    read = parse(content, suffix, ("b", "a"))
    assert read.texts == [(b, a) for a, _, b in rows]
    assert read.labels == [label for _, label, _ in rows]
    assert read.faults == []
    assert read.columns == ("a", "label", "b")


def test_lines_are_those_of_an_editor():
    read = parse('text,label\r\n\r\n"two\nlines",x\nc,y\n', ".csv")
    assert read.texts == [("two\nlines",), ("c",)]
    assert read.lines == [3, 5]
    assert parse("text\tlabel\n\n\na\tx\n", ".tsv").lines == [4]
    assert parse('\n{"text": "a", "label": 0}\n \n{"text": "b", "label": 1}', ".jsonl").lines == [
        2,
        4,
    ]


def test_quotes_in_a_tab_separated_file_are_text():
    assert parse('text\tlabel\n"a\t1\n', ".tsv").texts == [('"a',)]


BAD_ROWS = [
    (".csv", "a", "has 1 column, the row of names 2"),
    (".csv", "a,b,c", "has 3 columns, the row of names 2"),
    (".csv", '"a" b,c', "is not CSV: "),
    (".csv", " ,x", "text is empty"),
    (".csv", "a,", "label is empty"),
    (".csv", b"caf\xe9,x", "text is not UTF-8 at character 4"),
    (".csv", b"a,\xff", "label is not UTF-8 at character 1"),
    (".csv", "a," + "x" * 201, "a name or a number is wanted"),
    (".csv", "x" * 1_000_001 + ",y", "is not CSV: field larger than"),
    (".tsv", "a", "has 1 column, the row of names 2"),
    (".tsv", "x" * 1_000_001 + "\ty", "text has 1,000,001 characters, more than 1,000,000"),
    (".jsonl", "{", "is not JSON: "),
    (".jsonl", "[" * 100_000, "is not JSON: "),
    (".jsonl", "9" * 5000, "is not JSON: "),
    (".jsonl", "[1]", r"is \[1\]; an object is wanted"),
    (".jsonl", '{"label": 1}', "has no text"),
    (".jsonl", '{"text": 5, "label": 1}', "text is 5; text is wanted"),
    (".jsonl", '{"text": "a"}', "has no label"),
    (".jsonl", '{"text": "a", "label": null}', "has no label"),
    (".jsonl", '{"text": "a", "label": NaN}', "label is NaN; a name or a number is wanted"),
    (".jsonl", '{"text": "a", "label": -Infinity}', "label is -Infinity; a name or a number"),
    (".csv", "a,NaN", "label is NaN, which stands for none"),
    (
        ".jsonl",
        '{"text": "a", "label": [1]}',
        r"label is \[1\]; a name or a number is wanted; several",
    ),
    (".jsonl", '{"text": "\\ud83d", "label": 1}', "text is not UTF-8 at character 1"),
]


@pytest.mark.parametrize("suffix,row,message", BAD_ROWS)
def test_a_bad_row_is_named_with_its_line_and_the_others_are_kept(tmp_path, suffix, row, message):
    good = written([("a", "x"), ("b", "y")], ["text", "label"], suffix)
    row = row.encode() if isinstance(row, str) else row
    content = good + row + b"\n" + good.splitlines(keepends=True)[-1]
    source = make_source(tmp_path, content, suffix=suffix, on_bad_row="skip")
    assert source.read_texts("train") == [("a",), ("b",), ("b",)]
    line = len(good.splitlines()) + 1
    (skipped,) = source.skipped("train")
    assert skipped.startswith(f"{tmp_path}/train_file{suffix}, line {line}: ")
    assert source.places("train", [2]) == [f"{tmp_path}/train_file{suffix}, line {line + 1}"]
    with pytest.raises(UserError, match=rf"1 row cannot be used\n  line {line}: .*{message}"):
        make_source(tmp_path, content, suffix=suffix)


def test_a_quotation_mark_that_is_never_closed_says_how_far_it_goes():
    read = parse('text,label\na,x\n"b,y\nc,x\nd,y\n')
    assert read.texts == [("a",)]
    assert read.faults == [(3, "is not CSV up to line 5: unexpected end of data")]


def test_many_bad_rows_are_counted(tmp_path):
    rows = "text,label\na,x\nb,y\n" + "c\n" * 25
    with pytest.raises(UserError) as error:
        make_source(tmp_path, rows)
    lines = str(error.value).splitlines()
    assert lines[0].endswith("train_file.csv: 25 rows cannot be used")
    assert len(lines) == 1 + 20 + 1 + 1
    assert lines[-2] == "  and 5 more"
    assert "on_bad_row: skip" in lines[-1] and "--override '*_input.on_bad_row=skip'" in lines[-1]


BAD_FILES = [
    (".csv", b"", "file is empty"),
    (".csv", b"\n\n", "file is empty"),
    (".jsonl", b"", "file is empty"),
    (".csv", b"text,label\n", "file holds no rows"),
    (".csv", "text,label\na,b".encode("utf-16"), "file is UTF-16; save it as UTF-8"),
    (".csv", b"Text,label\na,b\n", "file, line 1 has no column text, .*did you mean Text?"),
    (".tsv", b"text,label\na,b\n", 'it has "text,label"'),
    (".csv", b"text,text,label\na,b,c\n", "two columns text"),
    (".csv", b"text,label,label\na,b,c\n", "two columns label"),
    (".csv", b"text;label\na;b\n", r'it has text;label, separated by ";": write delimiter: ";"'),
    (".csv", b'text;"a, b ""c""";label\na;b;c\n', 'separated by ";": write delimiter: ";"'),
    (".csv", b'"text"\t"label"\na\tb\n', r'separated by "\\t": write delimiter: "\\t"'),
    (".tsv", b"label,text\nb,a\n", 'separated by ",": write delimiter: ","'),
    (".csv", b'"text,label\na,b\n', "file, line 1: the row of names is not CSV up to line 2"),
    (".jsonl", b'\n{"sentence": "a"}\n', "file, line 2 has no column text, .*it has sentence"),
]


@pytest.mark.parametrize("suffix,content,message", BAD_FILES)
def test_a_file_that_is_of_no_use_is_refused(suffix, content, message):
    with pytest.raises(UserError, match=message):
        parse(content, suffix)


def test_a_column_with_a_comma_in_its_name_is_told_as_the_flag_takes_it():
    content = b'"Text, as sent",label\na,b\n'
    split = ("Text", "as sent")  # of --text_columns without the quotation marks
    message = (
        r"""no column Text, as sent, .*; it has "Text, as sent", label; """
        r"""a name with a comma .*: --text_columns '"Text, as sent"'$"""
    )
    with pytest.raises(UserError, match=message):
        parse(content, text_columns=split)


# ---- Labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_training_file_names_the_classes_of_both(tmp_path, suffix):
    columns = ["text", "label"]
    train = written([("a", "wet"), ("b", "dry"), ("c", "wet")], columns, suffix)
    source = make_source(tmp_path, train, written([("d", "wet")], columns, suffix), suffix)
    assert source.targets.label_names == ("dry", "wet")
    assert labels_of(source, "train") == [1, 0, 1]
    assert labels_of(source, "validation") == [1]


def test_white_space_around_a_label_does_not_make_another_class(tmp_path):
    assert make_source(tmp_path, "text,label\na,x\nb, x \nc,y\n").targets.label_names == ("x", "y")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_forms_of_a_label_do_not_make_another_class(tmp_path, suffix):
    """é in one code point and in two; whole numbers in every form, in the order of the numbers."""
    columns = ["text", "label"]
    rows = [("a", "caf\u00e9"), ("b", " cafe\u0301"), ("c", "tea\u00a0")]
    source = make_source(tmp_path, written(rows, columns, suffix), suffix=suffix)
    assert source.targets.label_names == ("caf\u00e9", "tea")
    assert labels_of(source, "train") == [0, 0, 1]
    rows = [(str(n), label) for n, label in enumerate(["11.0", "2", "0.0", "+2.0", " 0"])]
    source = make_source(tmp_path, written(rows, columns, suffix), suffix=suffix)
    assert source.targets.label_names == ("0", "2", "11.0")
    assert labels_of(source, "train") == [2, 1, 0, 1, 0]


def test_objects_may_lack_a_key_that_others_have(tmp_path):
    rows = ['{"id": 1}', '{"text": "a", "label": "x"}', '{"label": "y", "text": "b", "more": 0}']
    source = make_source(tmp_path, "\n".join(rows), suffix=".jsonl", on_bad_row="skip")
    assert source.read_texts("train") == [("a",), ("b",)]
    assert source.targets.label_names == ("x", "y")
    (skipped,) = source.skipped("train")
    assert skipped.endswith("line 1: has no text")
    rows[0] = '{"text": "c"}'
    with pytest.raises(UserError, match="1 row cannot be used\n  line 1: has no label"):
        make_source(tmp_path, "\n".join(rows), suffix=".jsonl")


def test_columns_may_be_separated_by_another_character(tmp_path):
    source = make_source(tmp_path, 'label;text\nx;"a;b, c"\ny;d\n', delimiter=";")
    assert source.read_texts("train") == [("a;b, c",), ("d",)]
    source = make_source(tmp_path, 'label|text\nx|"a\ny|d\n', suffix=".tsv", delimiter="|")
    assert source.read_texts("train") == [('"a',), ("d",)]


def labels_of(source, split):
    return source._rows(split)[1]["labels"].tolist()


def test_json_numbers_and_booleans_are_labels(tmp_path):
    rows = '{"text": "a", "label": true}\n{"text": "b", "label": false}\n'
    assert make_source(tmp_path, rows, suffix=".jsonl").targets.label_names == ("false", "true")
    rows = '{"text": "a", "label": 7}\n{"text": "b", "label": "5"}\n'
    assert make_source(tmp_path, rows, suffix=".jsonl").targets.label_names == ("5", "7")


def test_an_unknown_label_is_a_bad_row(tmp_path):
    train, validation = "text,label\na,x\nb,y\n", "text,label\nc,x\nd,z\n"
    source = make_source(tmp_path, train, validation)
    with pytest.raises(UserError, match="line 3: label is z; the labels are x, y"):
        source.num_rows("validation")
    source = make_source(tmp_path, train, validation, on_bad_row="skip")
    assert source.num_rows("validation") == 1
    assert source.skipped("validation")[0].endswith("line 3: label is z; the labels are x, y")


def test_given_names_fix_the_order_and_need_no_training_file(tmp_path):
    rows = "text,label\na,x\nb,y\nc,1\n"
    source = make_source(tmp_path, None, rows, label_names=["y", "x"])
    assert source.targets.label_names == ("y", "x")
    assert labels_of(source, "validation") == [1, 0, 1]
    with pytest.raises(UserError, match="neither label_names nor train_file is given"):
        make_source(tmp_path, None, rows)


@pytest.mark.parametrize(
    "content,count", [("a,x\n", 1), ("".join(f"a,{n}.5\n" for n in range(1001)), 1001)]
)
def test_too_few_and_too_many_classes_are_refused(tmp_path, content, count):
    with pytest.raises(
        UserError, match=rf"has {count:,} different labels? in column label; 2 to 1000"
    ):
        make_source(tmp_path, "text,label\n" + content)


def test_labels_of_a_regression_are_numbers(tmp_path):
    rows = "text,label\na,2.5\nb,-1e-3\nc, 4 \n"
    source = make_source(tmp_path, rows, task="regression")
    assert source.targets.label_names == ("value",)
    assert labels_of(source, "train") == np.float32([2.5, -1e-3, 4]).tolist()
    for label in ("good", "nan", "inf", "1e39"):
        source = make_source(tmp_path, rows + f"d,{label}\n", task="regression")
        reason = "which stands for none" if label == "nan" else "a number is wanted"
        with pytest.raises(UserError, match=f"line 5: label is {label}[;,] {reason}"):
            source.num_rows("train")


def test_lists_are_labels_of_several_a_row_alone(tmp_path):
    rows = '{"text": "a", "label": ["x", 1]}\n{"text": "b", "label": []}\n'
    files = {"task": "multi_label", "suffix": ".jsonl"}
    source = make_source(tmp_path, rows, **files)
    assert source.targets.label_names == ("1", "x")
    assert labels_of(source, "train") == [[1, 1], [0, 0]]
    for bad in ("[[1]]", '[""]', "{}"):
        with pytest.raises(UserError, match="line 3: label is"):
            make_source(tmp_path, rows + f'{{"text": "c", "label": {bad}}}\n', **files)
    for other in ({}, {"task": "regression"}):
        with pytest.raises(UserError, match=r'line 1: label is \["x", 1\]; a name or a number'):
            make_source(tmp_path, rows, suffix=".jsonl", **other).num_rows("train")


def test_an_empty_cell_is_a_row_without_any_of_several_labels(tmp_path):
    rows = "text,label\na,x|y\nb,\nc, y \n"
    source = make_source(tmp_path, rows, task="multi_label", label_separator="|")
    assert labels_of(source, "train") == [[1, 1], [0, 0], [0, 1]]
    source = make_source(
        tmp_path, rows + "d,z\n", task="multi_label", label_separator="|", label_names=["x", "y"]
    )
    with pytest.raises(UserError, match="line 5: label is z; z is none of the labels x, y"):
        source.num_rows("train")
    with pytest.raises(UserError, match="line 3: label is empty"):
        make_source(tmp_path, rows)


def test_a_file_without_labels_can_be_predicted_but_not_trained_on(tmp_path):
    source = make_source(tmp_path, None, "text\na\n", label_names=["x", "y"])
    assert labels_of(source, "validation") == [-1]
    source = make_source(tmp_path, None, "text\na\n", task="regression")
    assert np.isnan(labels_of(source, "validation")).all()
    with pytest.raises(UserError, match=r"has no column label; it has text\. Write"):
        make_source(tmp_path, "text\na\n")


# ---- Files ---------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_or_of_no_known_format_is_refused(tmp_path):
    keys = {"label_names": ["x", "y"]}
    source = make_source(tmp_path, **keys, eval_file=str(tmp_path / "absent.csv"))
    with pytest.raises(UserError, match=r"absent\.csv cannot be read: No such file"):
        source.num_rows("validation")
    source = make_source(tmp_path, **keys, eval_file=str(tmp_path))
    with pytest.raises(UserError, match=r"no known format; available: \.csv, \.tsv, \.jsonl"):
        source.num_rows("validation")
    (tmp_path / "folder.csv").mkdir()
    source = make_source(tmp_path, **keys, eval_file=str(tmp_path / "folder.csv"))
    with pytest.raises(UserError, match=r"folder\.csv is not a file"):
        source.num_rows("validation")
    with pytest.raises(UserError, match="train_file is not given"):
        source.num_rows("train")
    with pytest.raises(UserError, match=r"eval_file is not given; .* or eval_fraction"):
        make_source(tmp_path, **keys).num_rows("validation")


def test_a_file_without_a_row_that_can_be_used_is_refused_even_where_bad_rows_are_skipped(tmp_path):
    keys = {"label_names": ["x", "y"], "on_bad_row": "skip"}
    source = make_source(tmp_path, None, "text,label\na,z\n\n,x\n", **keys)
    with pytest.raises(UserError, match="holds no row that can be used; 2 cannot"):
        source.num_rows("validation")


def test_the_fingerprint_follows_all_that_decides_the_rows(tmp_path):
    train = "text,label,other\na,x,y\nb,y,x\n"
    cases = [
        {},
        {"label_column": "other"},
        {"label_names": ["y", "x"]},
        {"text_columns": "other"},
        {"on_bad_row": "skip"},
        {"delimiter": ","},
        {"task": "regression"},
    ]
    prints = {make_source(tmp_path, train, **keys).fingerprint("train") for keys in cases}
    prints.add(make_source(tmp_path, train + "\n").fingerprint("train"))
    assert len(prints) == len(cases) + 1
    assert make_source(tmp_path, train).fingerprint("train") in prints


# ---- Any bytes -----------------------------------------------------------------------------------

pieces = [
    b"text",
    b"label",
    b",",
    b"\t",
    b'"',
    b"\n",
    b"\r",
    b"\r\n",
    b"\0",
    b"{",
    b"}",
    b"[",
    b":",
]
pieces += [b'{"text": "a", "label": 1}\n', b"a,b\n", b"\xff", b"\xef\xbb\xbf", b"\\ud800", b"1e999"]
any_bytes = st.lists(st.sampled_from(pieces) | st.binary(max_size=5), max_size=30).map(b"".join)


@given(any_bytes, st.sampled_from(SUFFIXES), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_rows_or_a_sentence(content, suffix, has_names):
    if has_names and suffix != ".jsonl":
        content = {".csv": b"text,label\n", ".tsv": b"text\tlabel\n"}[suffix] + content
    try:
        read = parse(content, suffix)
    except UserError as error:
        assert str(error).startswith("file")
        return
    assert len(read.texts) == len(read.lines)
    assert all(text.strip() and text.encode() for (text,) in read.texts)
    lines = [*read.lines, *(line for line, _ in read.faults)]
    assert len(set(lines)) == len(lines)  # a row is read or refused, never both
    assert max(lines) <= content.count(b"\n") + 1


def test_a_file_is_parsed_once(tmp_path, monkeypatch):
    content = "text,label\nonce,x\nonly,y\n"
    source = make_source(tmp_path, content)
    before = text_files.parse_rows.cache_info().misses
    source.num_rows("train")
    source.read_texts("train")
    assert text_files.parse_rows.cache_info().misses == before


def test_a_question_mark_beside_words_is_a_row_without_a_label(tmp_path):
    train = "text,label\na,good\nb,?\nc,bad\nd, ? \n"
    with pytest.raises(UserError, match=r"2 rows cannot be used\n  line 3: label is \?, which st"):
        make_source(tmp_path, train)
    source = make_source(tmp_path, train, on_bad_row="skip")
    assert source.targets.label_names == ("bad", "good") and source.num_rows("train") == 2
    assert [text.split("line ")[1][:1] for text in source.skipped("train")] == ["3", "5"]
    named = make_source(tmp_path, train, label_names=["good", "bad", "?"])
    assert named.num_rows("train") == 4  # as written, it is a class
    marks = make_source(tmp_path, "text,label\nwho,?\nstop,!\nyes,.\n")
    assert marks.targets.label_names == ("!", ".", "?")  # so is it among marks alone
    several = '{"text":"a","label":["good","bad"]}\n{"text":"b","label":["?"]}\n'
    keys = {"task": "multi_label", "on_bad_row": "skip", "suffix": ".jsonl"}
    assert make_source(tmp_path, several, **keys).targets.label_names == ("bad", "good")
