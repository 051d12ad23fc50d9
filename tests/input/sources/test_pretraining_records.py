# SPDX-License-Identifier: Apache-2.0
"""input/sources/pretraining_records.py: rows are the files', or the record at fault is named."""

import os
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.params import EvalInputParams
from input.records import index
from input.sources.pretraining_records import PretrainingRecords
from input.tokenizers.wordpiece import WordPieceTokenizer
from tests.reference.records import (
    MODEL_GARDEN,
    example,
    read_examples,
    sequence_example,
    write_file,
)

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopq"]
PAD, UNK, CLS, SEP, MASK = range(5)
PAIRS, STATIC, DYNAMIC = (
    "BertTfRecordsProcessor",
    "BertMlmOnlyTfRecordsStaticMaskProcessor",
    "BertMlmOnlyTfRecordsDynamicMaskProcessor",
)
LENGTH, MOST = 11, 3


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer(VOCAB)


def opened(folder, tokenizer, processor=PAIRS, **keys):
    keys = {
        "data_dir": str(folder),
        "max_sequence_length": LENGTH,
        "max_predictions_per_seq": MOST,
        "cache_dir": str(folder / "cache"),
        "vocab_file": "vocab.txt",
        "batch_size": 2,
    } | keys
    return PretrainingRecords(EvalInputParams(data_processor=processor, **keys), tokenizer)


def pair(first=(5, 6), second=(7, 8, 9), masks=((1, 6), (4, 7)), label=1, length=LENGTH):
    """The features of a record as the original stores them. masks: of (position, id)."""
    ids = [CLS, *first, SEP, *second, SEP]
    size, rest = len(ids), [0] * (length - len(ids))
    for position, _ in masks:
        ids[position] = MASK
    unused = [0] * (MOST - len(masks))
    return {
        "input_ids": ids + rest,
        "input_mask": [1] * size + rest,
        "segment_ids": [0] * (len(first) + 2) + [1] * (len(second) + 1) + rest,
        "masked_lm_positions": [position for position, _ in masks] + unused,
        "masked_lm_ids": [token for _, token in masks] + unused,
        "masked_lm_weights": [1.0] * len(masks) + [0.0] * len(unused),
        "next_sentence_labels": [label],
    }


def of_rows(tokens, place):
    """(ids of each text, targets as lists) of a row of Tokens."""
    row = tokens.take([place])
    ends = np.cumsum(row.lengths[0]).tolist()
    texts = [row.ids[start:end].tolist() for start, end in zip([0, *ends], ends, strict=False)]
    return texts, {name: array[0].tolist() for name, array in row.targets.items()}


# ---- Rows ----------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(0, 999))
def test_any_rows_in_any_order_are_the_files(tokenizer, tmp_path_factory, sizes, seed):
    folder, random = tmp_path_factory.mktemp("records"), np.random.default_rng(seed)
    rows = []
    for number, size in enumerate([*sizes, 1]):
        of_file = [
            pair(random.integers(5, 20, random.integers(1, 6)).tolist(), (7,), label=i % 2)
            for i in range(size)
        ]
        write_file(folder / f"{number}.tfrecord", map(example, of_file))
        rows += of_file
    records = opened(folder, tokenizer)
    assert len(records) == len(rows)
    order = random.integers(0, len(rows), 7)
    tokens = records.read(order)
    np.testing.assert_array_equal(tokens.lengths, records.lengths(order))
    for place, row in enumerate(order.tolist()):
        texts, targets = of_rows(tokens, place)
        wanted, size = rows[row], sum(rows[row]["input_mask"])
        assert texts[0] + texts[1] == wanted["input_ids"][:size]
        assert len(texts[1]) == sum(wanted["segment_ids"])
        assert targets["masked_lm_positions"] == wanted["masked_lm_positions"]
        assert targets["masked_lm_ids"] == wanted["masked_lm_ids"]
        assert targets["masked_lm_weights"] == wanted["masked_lm_weights"]
        assert [targets["next_sentence_labels"]] == wanted["next_sentence_labels"]
    lengths = [sum(row["input_mask"]) for row in rows]
    assert records.length_counts.tolist() == np.bincount(lengths, minlength=LENGTH + 1).tolist()


def test_googles_own_records_are_read(shared_dir, tmp_path):
    folder = shared_dir / "fixtures" / "google_pretraining_data"
    vocab = WordPieceTokenizer.from_vocab_file(shared_dir / "vocab" / "bert_uncased_vocab.txt")
    path = folder / "single_piece"
    keys = {"max_sequence_length": 64, "max_predictions_per_seq": 10}
    records = opened(path, vocab, cache_dir=str(tmp_path), **keys)
    rows = read_examples([path / "examples.tfrecord"])
    tokens = records.read(np.arange(len(records)))
    assert len(records) == len(rows) == 354
    ids = [token for row in rows for token in row["input_ids"][: sum(row["input_mask"])]]
    assert tokens.ids.tolist() == ids
    for name in ("masked_lm_positions", "masked_lm_ids", "masked_lm_weights"):
        assert tokens.targets[name].tolist() == [row[name] for row in rows]
    labels = [row["next_sentence_labels"][0] for row in rows]
    assert np.bincount(tokens.targets["next_sentence_labels"]).tolist() == [116, 238]
    assert tokens.targets["next_sentence_labels"].tolist() == labels


def test_names_of_model_garden_and_compressed_files_among_others(tokenizer, tmp_path):
    rows = [pair((5 + i,), masks=((5, 10 + i),)) for i in range(4)]
    write_file(tmp_path / "a.tfrecord", map(example, rows[:2]))
    garden = [example(row, MODEL_GARDEN) for row in rows[2:]]
    write_file(tmp_path / "b.tfrecord-00000-of-00001", garden, "GZIP")
    records = opened(tmp_path, tokenizer)
    tokens = records.read([3, 0, 2, 1])
    for place, row in enumerate([3, 0, 2, 1]):
        texts, targets = of_rows(tokens, place)
        assert texts[0] == [CLS, 5 + row, SEP]
        assert targets["masked_lm_ids"] == rows[row]["masked_lm_ids"]
    assert records.places([3, 0]) == [
        f"{tmp_path}/b.tfrecord-00000-of-00001, record 1",
        f"{tmp_path}/a.tfrecord, record 0",
    ]


def test_folders_are_read_in_the_order_of_the_list_and_files_in_that_of_their_names(
    tokenizer, tmp_path
):
    for token, path in enumerate(["b/x.tfrecord", "a/2.tfrecords", "a/10.tfrecords"], start=10):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        write_file(tmp_path / path, [example(pair((token,), masks=()))])
    folders = [str(tmp_path / "b"), str(tmp_path / "a")]
    records = opened(tmp_path, tokenizer, data_dir=folders)
    firsts = [records.read([row]).ids[1] for row in range(3)]
    assert firsts == [10, 12, 11]
    places = [place.rpartition("/")[2] for place in records.places([0, 1, 2])]
    assert places == ["x.tfrecord, record 0", "10.tfrecords, record 0", "2.tfrecords, record 0"]


def test_masks_are_put_into_the_order_of_their_positions(tokenizer, tmp_path):
    row = pair(masks=((4, 7), (1, 6)))
    write_file(tmp_path / "a.tfrecord", [example(row)])
    targets = opened(tmp_path, tokenizer).read([0]).targets
    assert targets["masked_lm_positions"].tolist() == [[1, 4, 0]]
    assert targets["masked_lm_ids"].tolist() == [[6, 7, 0]]
    assert targets["masked_lm_weights"].tolist() == [[1, 1, 0]]


def test_the_densest_record_decides_how_many_a_packed_row_has_room_for(tokenizer, tmp_path):
    rows = [pair(), pair((5,), (6,), ((1, 7), (3, 8)))]  # 2 of 8 and 2 of 5
    write_file(tmp_path / "a.tfrecord", map(example, rows))
    masks = opened(tmp_path, tokenizer).masks
    assert masks.densest == 2 / 5
    assert masks.width(20, is_packed=True) == 8
    assert masks.width(20, is_packed=False) == MOST


def test_rows_of_one_text_need_neither_segments_nor_labels(tokenizer, tmp_path):
    row = pair()
    del row["segment_ids"], row["next_sentence_labels"]
    write_file(tmp_path / "a.tfrecord", [example(row)])
    records = opened(tmp_path, tokenizer, STATIC)
    tokens = records.read([0])
    assert tokens.ids.tolist() == row["input_ids"][:8]
    assert tokens.lengths.tolist() == [[8]]
    assert "next_sentence_labels" not in tokens.targets


def test_tokens_are_counted_as_they_were_before_masking(tokenizer, tmp_path):
    rows = [pair((5, 6), (7, 8, 9), ((1, 5), (4, 7))), pair((5,), (10,), ((3, 10),))]
    write_file(tmp_path / "a.tfrecord", [example(rows[0])])
    write_file(tmp_path / "b.tfrecord", [example(rows[1])])
    counts = opened(tmp_path, tokenizer).token_counts
    assert counts.tolist() == [0, 0, 0, 0, 0, 2, 1, 1, 1, 1, 1, *[0] * 11]
    write_file(tmp_path / "a.tfrecord", [sequence_example(["[CLS]", "a", "Q", "b", "a", "[SEP]"])])
    keys = {"data_dir": str(tmp_path / "a.tfrecord")}
    assert np.flatnonzero(opened(tmp_path, tokenizer, DYNAMIC, **keys).token_counts).tolist() == [
        UNK,
        *(5, 6),
    ]


def test_more_room_than_a_record_has_is_filled_up_with_zeros(tokenizer, tmp_path):
    write_file(tmp_path / "a.tfrecord", [example(pair())])
    keys = {"max_sequence_length": 512, "max_predictions_per_seq": 80}
    targets = opened(tmp_path, tokenizer, **keys).read([0]).targets
    assert targets["masked_lm_weights"].shape == (1, 80)
    assert targets["masked_lm_weights"].sum() == 2


# ---- Dynamic masks -------------------------------------------------------------------------------


def test_wordpieces_become_ids_without_the_outer_special_tokens(tokenizer, tmp_path):
    rows = [["[CLS]", *"abc", "[SEP]", *"de", "[SEP]"], ["[CLS]", "[SEP]"], ["[CLS]", "q", "[SEP]"]]
    write_file(tmp_path / "a.tfrecord", map(sequence_example, rows))
    records = opened(tmp_path, tokenizer, DYNAMIC)
    tokens = records.read([2, 0, 1])
    assert tokens.lengths.tolist() == records.lengths([2, 0, 1]).tolist() == [[1], [6], [0]]
    assert tokens.ids.tolist() == [21, 5, 6, 7, SEP, 8, 9]
    assert tokens.targets == {}
    assert records.notes == []
    assert (records.masks, records.has_special_tokens) == (None, False)


def test_unknown_wordpieces_are_counted_and_told(tokenizer, tmp_path):
    """Defect P7: in the original they vanish."""
    rows = [["[CLS]", *"abc", "##zz", "[SEP]"], ["[CLS]", *"ab", "##zz", "Q", "[SEP]"]]
    write_file(tmp_path / "a.tfrecord", map(sequence_example, rows))
    records = opened(tmp_path, tokenizer, DYNAMIC)
    assert records.read([0]).ids.tolist() == [5, 6, 7, UNK]
    (note,) = records.notes
    assert "3 tokens of the records" in note
    assert "(37.5%)" in note  # 3 of 8
    assert "##zz (2 times), Q (1 time)" in note


def test_records_of_another_vocabulary_are_refused(tokenizer, tmp_path):
    write_file(tmp_path / "a.tfrecord", [sequence_example(["[CLS]", *"XYZab", "[SEP]"])])
    with pytest.raises(UserError, match=r"3 tokens .*\(60.0%\) are not in vocab.txt, such as"):
        opened(tmp_path, tokenizer, DYNAMIC)


def test_longer_rows_are_cut_and_that_is_told(tokenizer, tmp_path):
    rows = [["[CLS]", *"abcdefghijkl", "[SEP]"], ["[CLS]", *"ab", "[SEP]"]]
    write_file(tmp_path / "a.tfrecord", map(sequence_example, rows))
    records = opened(tmp_path, tokenizer, DYNAMIC)  # of 11 tokens, 9 without [CLS] and [SEP]
    tokens = records.read([0, 1])
    assert tokens.lengths.tolist() == records.lengths([0, 1]).tolist() == [[9], [2]]
    assert tokens.ids.tolist() == [*range(5, 14), 5, 6]
    (note,) = records.notes
    assert note == "max_sequence_length cuts 1 of 2 rows (50.0%), tokens lost: 3"


# ---- Records that cannot be used -----------------------------------------------------------------

GOOD = pair()
FAULTS = {
    "outside its tokens": {"masked_lm_positions": [9, 0, 0], "masked_lm_weights": [1.0, 0.0, 0.0]},
    "an id outside 0": {"input_ids": [2, -1, *GOOD["input_ids"][2:]]},
    "a masked_lm_id outside 0": {"masked_lm_ids": [6, -7, 0]},
    "an input_mask other than": {"input_mask": [1, 0, *GOOD["input_mask"][2:]]},
    "segment_ids other than": {"segment_ids": [1, 0, *GOOD["segment_ids"][2:]]},
    "a next_sentence_label other": {"next_sentence_labels": [2]},
    "features of different length": {"input_mask": [1] * 8},
    "a weight that is no": {"masked_lm_weights": [1.0, float("nan"), 0.0]},
    "no token": {"input_mask": [0] * LENGTH},
    "is no tf.train.Example": None,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_record_is_named_and_left_out_on_request(fault, tokenizer, tmp_path):
    bad = b"\xff\xff" if FAULTS[fault] is None else example(GOOD | FAULTS[fault])
    path = write_file(tmp_path / "a.tfrecord", [example(GOOD), example(GOOD), bad, example(GOOD)])
    with pytest.raises(UserError) as caught:
        opened(tmp_path, tokenizer)
    first, second, third = str(caught.value).splitlines()
    assert first == f"the records in {tmp_path}: 1 record cannot be used"
    assert re.match(rf"  {path}, record 2: .*{fault}", second)
    assert "on_bad_row: skip" in third
    records = opened(tmp_path, tokenizer, on_bad_row="skip")
    assert len(records) == 3
    assert records.places([2]) == [f"{path}, record 3"]
    assert [sentence.partition(":")[0] for sentence in records.skipped] == [f"{path}, record 2"]
    assert len(records.read([0, 1, 2])) == 3


def test_a_bad_sequence_is_named(tokenizer, tmp_path):
    rows = [["[CLS]", "a", "[SEP]"], ["a", "b"]]
    write_file(tmp_path / "a.tfrecord", map(sequence_example, rows))
    with pytest.raises(UserError, match=r"record 1: does not begin with \[CLS\] and end with"):
        opened(tmp_path, tokenizer, DYNAMIC)


def test_a_file_that_is_cut_short_is_named_and_read_up_to_there_on_request(tokenizer, tmp_path):
    path = write_file(tmp_path / "a.tfrecord", [example(GOOD)] * 3)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match=r"a.tfrecord, record 2: .*the file ends within it"):
        opened(tmp_path, tokenizer)
    records = opened(tmp_path, tokenizer, on_bad_row="skip")
    assert len(records) == 2
    assert "the rest of the file" in records.skipped[0]


def test_an_id_beyond_the_vocabulary_is_named(tokenizer, tmp_path):
    write_file(tmp_path / "a.tfrecord", [example(GOOD)])
    write_file(tmp_path / "b.tfrecord", [example(GOOD), example(pair((22,), masks=()))])
    with pytest.raises(UserError, match=r"b.tfrecord, record 1: it has the id 22, but vocab.txt"):
        opened(tmp_path, tokenizer)
    write_file(tmp_path / "b.tfrecord", [example(pair((2**31 - 1,), masks=()))])
    with pytest.raises(UserError, match="it has the id 2147483647, but"):
        opened(tmp_path, tokenizer)


def test_records_longer_than_the_params_allow_are_refused(tokenizer, tmp_path):
    path = write_file(tmp_path / "a.tfrecord", [example(GOOD)])
    with pytest.raises(UserError, match=rf"{path}, record 0: it has 8 tokens, but max_sequence"):
        opened(tmp_path, tokenizer, max_sequence_length=7)
    with pytest.raises(UserError, match="2 tokens to predict, but max_predictions_per_seq is 1"):
        opened(tmp_path, tokenizer, max_predictions_per_seq=1)


def test_records_of_another_kind_are_refused_with_the_processor_that_reads_them(
    tokenizer, tmp_path
):
    row = pair()
    del row["segment_ids"], row["next_sentence_labels"]
    write_file(tmp_path / "a.tfrecord", [example(row)])
    with pytest.raises(UserError, match=f"no feature segment_ids or input_type_ids.*{STATIC}"):
        opened(tmp_path, tokenizer, PAIRS)
    with pytest.raises(
        UserError, match=r"no tf\.train\.SequenceExample with a feature list tokens"
    ):
        opened(tmp_path, tokenizer, DYNAMIC)
    write_file(tmp_path / "a.tfrecord", [sequence_example(["[CLS]", "[SEP]"])])
    with pytest.raises(UserError, match=f"no tf.train.Example.*{DYNAMIC}"):
        opened(tmp_path, tokenizer, PAIRS)


def test_a_folder_without_records_is_refused(tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"has no file \*.tfrecord\*"):
        opened(tmp_path, tokenizer)
    with pytest.raises(UserError, match="is no folder"):
        opened(tmp_path, tokenizer, data_dir=str(tmp_path / "missing"))
    write_file(tmp_path / "a.tfrecord", [])
    with pytest.raises(UserError, match="hold no record"):
        opened(tmp_path, tokenizer)


# ---- The index -----------------------------------------------------------------------------------


def refuse_to_scan(path):
    raise AssertionError(f"{path} is read again")


def test_files_are_read_whole_only_once(tokenizer, tmp_path, monkeypatch):
    write_file(tmp_path / "a.tfrecord", [example(pair((5,))), example(pair((6,)))])
    content = opened(tmp_path, tokenizer).content
    monkeypatch.setattr(index, "scan", refuse_to_scan)
    records = opened(tmp_path, tokenizer)
    assert records.content == content
    assert records.read([1]).ids.tolist()[2:] == pair((6,))["input_ids"][2:7]


def test_a_changed_file_is_read_again(tokenizer, tmp_path):
    path = write_file(tmp_path / "a.tfrecord", [example(pair(label=0))])
    before, size = opened(tmp_path, tokenizer).content, path.stat().st_size
    write_file(path, [example(pair(label=1))])  # of the same size
    os.utime(path, ns=(1, 1))
    assert path.stat().st_size == size
    assert opened(tmp_path, tokenizer).content != before


def test_the_content_does_not_depend_on_where_the_files_lie(tokenizer, tmp_path):
    contents = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        write_file(folder / "a.tfrecord", [example(GOOD)])
        contents.append(opened(folder, tokenizer).content)
    assert contents[0] == contents[1]
    assert contents[0].startswith("1 rows, ")


@pytest.mark.parametrize("suffix", ["json", "entries"])
def test_a_damaged_index_is_not_believed(suffix, tokenizer, tmp_path, capsys):
    write_file(tmp_path / "a.tfrecord", [example(GOOD)] * 3)
    opened(tmp_path, tokenizer)
    (path,) = (tmp_path / "cache" / "records").glob(f"*.{suffix}")
    damaged = bytearray(path.read_bytes())
    damaged[5] ^= 1
    path.write_bytes(damaged)
    records = opened(tmp_path, tokenizer)
    assert "is not used" in capsys.readouterr().err
    assert records.places([2]) == [f"{tmp_path}/a.tfrecord, record 2"]
    assert len(records.read([2]).ids) == 8


def test_without_a_place_for_the_index_the_records_are_read(tokenizer, tmp_path):
    write_file(tmp_path / "a.tfrecord", [example(GOOD)])
    records = opened(tmp_path, tokenizer, cache_dir="/dev/null/none")
    assert len(records) == 1
    write_file(tmp_path / "a.tfrecord", [example(GOOD)], "GZIP")
    with pytest.raises(UserError, match="cannot be expanded"):
        opened(tmp_path, tokenizer, cache_dir="/dev/null/none")
