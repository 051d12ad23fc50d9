# SPDX-License-Identifier: Apache-2.0
"""`--mode prepare_data` writes records of documents, and checks those that are there."""

import json
import resource

import pytest
import yaml

import run
from tests.reference.records import decoded_sha256, read_examples, read_tokens
from tests.reference.toy_records import DYNAMIC, PAIRS, write_records

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]


def call(capsys, path, train_input, disable_nsp=False):
    """Runs the command. Returns the exit code and what it printed."""
    model = {"disable_nsp": disable_nsp}
    path.write_text(yaml.safe_dump({"train_input": train_input, "model": model}))
    code = run.main(["--mode", "prepare_data", "--params", str(path), "--model_dir", "none"])
    return code, *capsys.readouterr()


@pytest.fixture
def keys(tmp_path):
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCAB))
    documents = ["a b c. D e", "f g", "h i j a", "", "b d f h j", "a c e g i. A b"]
    (tmp_path / "text.txt").write_text("\n".join(documents) + "\n")
    return {
        "data_processor": "DocumentDataProcessor",
        "train_documents": str(tmp_path / "text.txt"),
        "vocab_file": str(tmp_path / "vocab.txt"),
        "prepared_dir": str(tmp_path / "prepared"),
        "max_sequence_length": 13,
        "batch_size": 4,
        "write_records": True,
    }


def test_googles_records_come_out_of_the_command(shared_dir, tmp_path, capsys):
    folder = shared_dir / "fixtures" / "google_pretraining_data"
    digest = json.loads((folder / "digest.json").read_text())["whole_word"]["files"]
    keys = {
        "data_processor": "DocumentDataProcessor",
        "train_documents": str(folder / "input.txt"),
        "vocab_file": str(shared_dir / "vocab" / "bert_uncased_vocab.txt"),
        "prepared_dir": str(tmp_path),
        "max_sequence_length": 64,
        "max_predictions_per_seq": 10,
        "batch_size": 16,
        "mask_whole_word": True,
        "write_records": True,
        "dupe_factor": 2,
        "num_output_files": 1,
    }
    code, out, _ = call(capsys, tmp_path / "params.yaml", keys)
    assert code == 0
    assert "347 records of 26 documents, 11,035 tokens" in out
    rows = read_examples([tmp_path / "train" / "examples-1.tfrecords"])
    assert decoded_sha256(rows) == digest["examples.tfrecord"]["decoded_sha256"]


def test_single_texts_are_written_without_masks_once(keys, tmp_path, capsys):
    keys |= {"sentence_pairs": "none", "disable_masking": True, "num_output_files": 1}
    code, out, _ = call(capsys, tmp_path / "params.yaml", keys, disable_nsp=True)
    assert code == 0 and "2 documents" in out
    rows = read_tokens([tmp_path / "prepared" / "train" / "examples-1.tfrecords"])
    text = [
        "a",
        "b",
        "c",
        "[UNK]",
        "d",
        "e",
        "f",
        "g",
        "h",
        "i",
        "j",
        "a",
    ]  # a full stop is not in the vocabulary
    assert ["[CLS]", *text[:11], "[SEP]"] in rows
    assert sum(len(row) - 2 for row in rows) == 12 + 13


def test_sentences_end_at_punctuation_on_request(keys, tmp_path, capsys):
    """Defect P4: the original joins the lines of such a text without a blank."""
    keys |= {"sentence_boundary": "punctuation", "num_output_files": 1, "short_seq_prob": 0.0}
    call(capsys, tmp_path / "params.yaml", keys)
    rows = read_examples([tmp_path / "prepared" / "train" / "examples-1.tfrecords"])
    # "D e f g h i j a" is one sentence of eight words over three lines.
    words = [VOCAB.index(word) for word in "defghija"]
    for row in rows:
        positions = zip(row["masked_lm_positions"], row["masked_lm_ids"], strict=True)
        ids = list(row["input_ids"])
        for (position, token), weight in zip(positions, row["masked_lm_weights"], strict=True):
            ids[position] = token if weight else ids[position]
        row["ids"] = ids
    # Truncation may take words from either end.
    parts = [words[i:j] for i in range(3) for j in range(6, 9)]
    assert any(
        row["ids"][start : start + len(part)] == part
        for row in rows
        for part in parts
        for start in range(13)
    )


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"prepared_dir": None}, "prepared_dir: not given; write_records needs"),
        ({"sentence_pairs": "order"}, "sentence_pairs: is order, but records hold"),
        ({"disable_masking": True}, "disable_masking: goes with sentence_pairs: none"),
        ({"max_ngram": 2}, "max_ngram: is 2, but records are masked as by Google's program"),
        ({"data_processor": PAIRS, "data_dir": "x"}, "write_records: belongs to Document"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(changes, told, keys, tmp_path, capsys):
    code, _, err = call(capsys, tmp_path / "params.yaml", keys | changes)
    assert code == 2
    assert told in err


def test_a_folder_that_cannot_be_written_is_told(keys, tmp_path, capsys):
    (tmp_path / "prepared").write_text("a file")
    code, _, err = call(capsys, tmp_path / "params.yaml", keys)
    assert code == 1
    assert f"{tmp_path}/prepared/train: records cannot be written: Not a directory" in err


@pytest.mark.parametrize("missing", [8, 5000])
def test_a_disk_that_fills_up_leaves_the_records_that_were_there(missing, keys, tmp_path, capsys):
    """The last bytes of the records do not fit, or not even the tokens before them."""
    keys |= {"num_output_files": 1}
    assert call(capsys, tmp_path / "params.yaml", keys)[0] == 0
    folder = tmp_path / "prepared" / "train"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    largest = max(map(len, before.values()))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(10, largest - missing), limits[1]))
    try:
        code, _, err = call(capsys, tmp_path / "params.yaml", keys | {"random_seed": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1
    assert f"{folder}: records cannot be written: " in err and "too large" in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("processor, kind", [(PAIRS, "pairs"), (DYNAMIC, "tokens")])
def test_records_that_are_there_are_checked(processor, kind, tmp_path, capsys):
    write_records(tmp_path)
    keys = {
        "data_processor": processor,
        "data_dir": str(tmp_path / kind / "train"),
        "vocab_file": str(tmp_path / "vocab.txt"),
        "max_sequence_length": 13,
        "max_predictions_per_seq": 3,
        "batch_size": 4,
        "cache_dir": str(tmp_path / "cache"),
    }
    code, out, _ = call(capsys, tmp_path / "params.yaml", keys, disable_nsp=processor == DYNAMIC)
    assert code == 0 and "23 records are whole" in out
    path = tmp_path / kind / "train" / "part-1.tfrecord"
    path.write_bytes(path.read_bytes()[:-3])
    code, _, err = call(capsys, tmp_path / "params.yaml", keys, disable_nsp=processor == DYNAMIC)
    assert code == 2 and f"{path}, record 7: and the rest of the file: the file ends" in err
