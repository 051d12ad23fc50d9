# SPDX-License-Identifier: Apache-2.0
"""The original's records of tagged words and of questions, written as its programs write them."""

import json

import numpy as np
import pytest

import data
from common.errors import UserError
from common.params import EvalInputParams, Params
from common.reports.listeners import standard_listeners
from common.training.checks import set_up
from common.training.trainer import Trainer
from input.question_rows import rows_of_questions
from input.tokenizers.wordpiece import WordPieceTokenizer
from session import open_session
from tests.reference.records import example, write_file
from utils import get_params

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcde", *(f"##{c}" for c in "abcde"), "-", "?"]
LABELS = {"[PAD]": 0, "B": 1, "I": 2, "O": 3, "X": 4, "[CLS]": 5, "[SEP]": 6}
LENGTH = 10
# The pieces of a sentence and their labels: a name of two words, one of them of three pieces.
ROWS = [
    ("a ##b c", "B X O"),
    ("d a ##b b - e c", "O B X I X X O"),
    ("[UNK] c", "O O"),
]
CUT = ("b c", "I O")  # the second record of a sentence that was cut within a name


def ids_of(pieces):
    return [VOCAB.index(piece) for piece in pieces.split()]


def padded(values, fill=0):
    return values + [fill] * (LENGTH - len(values))


def tagged(pieces, labels):
    ids = ids_of(f"[CLS] {pieces} [SEP]")
    names = ["[CLS]", *labels.split(), "[SEP]"]
    return {
        "input_ids": padded(ids),
        "input_mask": padded([1] * len(ids)),
        "segment_ids": [0] * LENGTH,
        "label_ids": padded([LABELS[name] for name in names]),
    }


def write_tagged(folder, rows, shards=1):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "label2id.json").write_text(json.dumps(LABELS))
    for n in range(shards):
        records = [
            example(row if isinstance(row, dict) else tagged(*row)) for row in rows[n::shards]
        ]
        write_file(folder / f"train_{n}.tfrecord", records)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return folder


def source_of(folder, **keys):
    cfg = {"data_processor": "NerDataProcessor", "data_dir": str(folder), "batch_size": 1}
    cfg |= {"vocab_file": str(folder / "vocab.txt"), "max_sequence_length": LENGTH}
    return data.get_source(EvalInputParams(**{**cfg, **keys}))


# ---- Tagged words --------------------------------------------------------------------------------


def test_records_are_words_with_the_label_of_their_first_piece(tmp_path):
    source = source_of(write_tagged(tmp_path, ROWS, shards=2))
    assert source.targets.label_names == ("B", "I", "O")  # and not seven classes
    tokens = source.tokenize("train", None)
    order = [0, 2, 1]  # file after file
    expected = [ids_of(ROWS[n][0]) for n in order]
    assert tokens.ids.tolist() == [each for row in expected for each in row]
    assert tokens.words.num_pieces.tolist() == [2, 1, 1, 1, 1, 2, 3, 1]
    assert tokens.words.labels.tolist() == [0, 2, 2, 2, 2, 0, 1, 2]
    assert source.read_texts("train") == [("ab c",), ("[UNK] c",), ("d ab b-e c",)]
    assert source.places("train", [1, 2]) == [
        f"the records in {tmp_path}, train_0.tfrecord, record 1",
        f"the records in {tmp_path}, train_1.tfrecord, record 0",
    ]


def test_the_vocabulary_as_file_of_labels_is_the_originals_slip(tmp_path):
    folder = write_tagged(tmp_path, ROWS)
    slip = source_of(folder, label_vocab_file=str(folder / "vocab.txt"))
    assert slip.targets.label_names == ("B", "I", "O")
    (folder / "label2id.json").rename(tmp_path / "labels.json")
    given = source_of(folder, label_vocab_file=str(tmp_path / "labels.json"))
    assert given.fingerprint("train") == slip.fingerprint("train")
    with pytest.raises(UserError, match=r"label2id\.json cannot be read"):
        source_of(folder)
    (tmp_path / "labels.json").write_text("[PAD]\nB\n")
    with pytest.raises(UserError, match="is no JSON of label names and their ids"):
        source_of(folder, label_vocab_file=str(tmp_path / "labels.json"))


def test_a_name_that_the_originals_program_cut_is_told_with_file_and_record(tmp_path):
    folder = write_tagged(tmp_path, [*ROWS, CUT])
    with pytest.raises(UserError) as caught:
        source_of(folder).num_rows("train")
    told = str(caught.value)
    assert f"the records in {tmp_path}: 1 sentence cannot be used\n" in told
    assert "  train_0.tfrecord, record 3: I " in told
    source = source_of(folder, on_bad_row="skip")
    assert source.num_rows("train") == 3
    assert "train_0.tfrecord, record 3: I" in source.skipped("train")[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"input_mask": padded([1, 0, 1, 1])}, "has no input_mask of ones and then zeros"),
        ({"label_ids": padded([5, 9, 4, 3, 6])}, "has a label id 9 without a name"),
        ({"label_ids": padded([5, 4, 4, 3, 6])}, "has the label X where a word begins"),
        ({"label_ids": padded([5, 1, 0, 3, 6])}, "has the label [PAD] where a word begins"),
        ({"label_ids": []}, "has no feature label_ids"),
        ({"input_ids": padded([4, 5, 3])}, "does not begin with [CLS] and end with [SEP]"),
    ],
)
def test_a_bad_record_is_named(change, reason, tmp_path):
    source = source_of(write_tagged(tmp_path, [ROWS[1], tagged(*ROWS[0]) | change]))
    with pytest.raises(UserError) as caught:
        source.num_rows("train")
    assert f"  train_0.tfrecord, record 1: {reason}" in str(caught.value)


def test_records_of_another_vocabulary_and_cut_files_are_told(tmp_path):
    folder = write_tagged(tmp_path, [tagged(*ROWS[0]) | {"input_ids": padded([2, 99, 5, 6, 3])}])
    with pytest.raises(UserError, match=r"ids from 0 to 99, but .*vocab\.txt has 0 to 15"):
        source_of(folder).num_rows("train")
    file = write_tagged(tmp_path, ROWS) / "train_0.tfrecord"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"train_0\.tfrecord, record 2: and the rest of the file"):
        source_of(folder).num_rows("train")
    with pytest.raises(UserError, match=r"data_dir: .* has no file \*.tfrecord\*"):
        (tmp_path / "empty").mkdir()
        source_of(folder, data_dir=str(tmp_path / "empty"))


# ---- Questions -----------------------------------------------------------------------------------


def window(question, text, start=0, end=0):
    ids = ids_of(f"[CLS] {question} [SEP] {text} [SEP]")
    number = len(question.split()) + 2
    return {
        "unique_ids": [1000000000],
        "input_ids": padded(ids),
        "input_mask": padded([1] * len(ids)),
        "segment_ids": padded([0] * number + [1] * (len(ids) - number)),
        "start_positions": [start],
        "end_positions": [end],
        "is_impossible": [0],
    }


WINDOWS = [
    window("a ?", "b ##c d e", 4, 5),
    window("a ?", "##c d e c a"),  # of the same text, without the answer
    window("e", "[UNK] a", 3, 4),
]


@pytest.fixture
def records(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    write_file(tmp_path / "train.tf_record", map(example, WINDOWS))
    return tmp_path


def questions_of(folder, **keys):
    cfg = {"data_processor": "QuestionAnsweringDataProcessor", "batch_size": 1}
    cfg |= {"train_file": str(folder / "train.tf_record"), "max_sequence_length": LENGTH}
    return data.get_source(EvalInputParams(**cfg, vocab_file=str(folder / "vocab.txt"), **keys))


def test_windows_are_trained_on_with_the_ids_and_places_of_their_records(records):
    source = questions_of(records)
    tokens = source.tokenize("train", WordPieceTokenizer.from_vocab_file(records / "vocab.txt"))
    rows, _ = rows_of_questions(tokens, LENGTH, 64, 128, do_lower=True)
    assert len(rows) == len(WINDOWS)
    for n, record in enumerate(WINDOWS):
        question, text = np.split(rows.ids, rows.offsets[1:-1])[2 * n : 2 * n + 2]
        ids = [2, *question.tolist(), 3, *text.tolist(), 3]
        assert padded(ids) == record["input_ids"]
        assert [int(rows.targets["start_positions"][n])] == record["start_positions"]
        assert [int(rows.targets["end_positions"][n])] == record["end_positions"]
    assert source.read_texts("train")[0] == ("a ?", "bc d e")
    assert source.places("train", [2]) == [f"{records / 'train.tf_record'}, record 2"]


def test_windows_are_not_scored_as_if_they_were_questions(records):
    with pytest.raises(UserError, match=r"cannot be scored: .*; write eval_file, the \.json file"):
        questions_of(records).id_columns("train")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"start_positions": [9], "end_positions": [9]}, "has an answer outside its text"),
        ({"segment_ids": [0] * LENGTH}, "has no question and [SEP] before the text"),
        ({"end_positions": []}, "has no feature end_positions"),
    ],
)
def test_a_bad_window_is_named_with_its_record(change, reason, records):
    write_file(records / "train.tf_record", map(example, [WINDOWS[0], WINDOWS[0] | change]))
    with pytest.raises(UserError) as caught:
        questions_of(records).num_rows("train")
    assert f"train.tf_record, record 1: {reason}" in str(caught.value)


# ---- From end to end -----------------------------------------------------------------------------


def trained(folder, train_input, eval_input):
    rows = {"vocab_file": str(folder / "vocab.txt"), "cache_dir": str(folder / "cache")}
    rows |= {"max_sequence_length": LENGTH, "batch_size": 2}
    params = Params.model_validate(
        {
            "train_input": rows | train_input,
            "eval_input": rows | eval_input,
            "model": {
                **{"hidden_size": 8, "num_hidden_layers": 1, "num_heads": 2, "filter_size": 8},
                "max_position_embeddings": LENGTH,
            },
            "runconfig": {
                **{"model_dir": str(folder / "model"), "mode": "train_and_eval"},
                **{"tf_random_seed": 1, "max_steps": 2},
            },
        }
    )
    session = open_session(params)
    set_up(session.run)
    listeners = standard_listeners(session.model_dir)
    return Trainer(session, session.new_model(), listeners).train()


def test_records_of_words_are_trained_on_and_every_entity_is_scored(tmp_path):
    processor = {"data_processor": "NerDataProcessor"}
    folders = [write_tagged(tmp_path / split, ROWS * 2) for split in ("train", "dev")]
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    inputs = [processor | {"data_dir": str(folder)} for folder in folders]
    result = trained(tmp_path, *inputs)
    assert result.num_examples == 6
    assert 0 <= result.figures["eval/entity_f1"] <= 1
    keys = "batch_size: 2, max_sequence_length: 9, vocab_file: vocab.txt"
    file = tmp_path / "params.yaml"
    file.write_text(
        f"train_input: {{data_processor: NerDataProcessor, data_dir: {tmp_path}, {keys}}}"
    )
    with pytest.raises(UserError, match="is that of train_input, whose records would be scored"):
        get_params(file, {"runconfig.mode": "train_and_eval"})


def test_data_file_of_the_original_is_trained_on_and_a_json_file_scored(records):
    entry = {"question": "a ?", "context": "bc d e", "answers": ["bc d"]}
    (records / "dev.jsonl").write_text(json.dumps(entry) + "\n")
    processor = {"data_processor": "QuestionAnsweringDataProcessor"}
    train_input = processor | {"data_file": str(records / "train.tf_record")}
    result = trained(records, train_input, processor | {"data_file": str(records / "dev.jsonl")})
    assert result.num_examples == 1
    assert 0 <= result.figures["eval/f1"] <= 100
