# SPDX-License-Identifier: Apache-2.0
"""input/row_stores.py and --mode prepare_data: from the keys of a file to prepared rows."""

import json
import shutil

import numpy as np
import pytest
import yaml

import run
from common.errors import UserError
from common.params import EvalInputParams, TrainInputParams
from input.features import STANDARD_LAYOUT
from input.row_stores import TRAIN, VALIDATION, open_row_store, row_settings
from input.samples import sample_glue
from input.tokenizers.wordpiece import WordPieceTokenizer

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'-"
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *(f"##{c}" for c in CHARACTERS)]
TOKENIZER = WordPieceTokenizer(VOCAB)


@pytest.fixture
def make_cfg(tmp_path):
    """make_cfg(section, **keys) -> InputParams of the documents in tmp_path."""
    documents = ["\n".join(f"ab {c} cd." for c in CHARACTERS[n : n + 5]) for n in range(12)]
    (tmp_path / "train.txt").write_text("\n\n".join(documents))
    (tmp_path / "eval.txt").write_text("\n\n".join(documents[:4]))
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB))

    def make(section=TrainInputParams, **keys):
        keys = {
            "data_processor": "DocumentDataProcessor",
            "train_documents": str(tmp_path / "train.txt"),
            "eval_documents": str(tmp_path / "eval.txt"),
            "cache_dir": str(tmp_path / "cache"),
            "max_sequence_length": 23,
            "batch_size": 4,
        } | keys
        return section.model_validate({k: v for k, v in keys.items() if v is not None})

    return make


def store_of(cfg, split=TRAIN):
    return open_row_store(cfg, split, TOKENIZER, STANDARD_LAYOUT)


def text_of(store):
    tokens = store.read(np.arange(len(store)))
    return "".join(VOCAB[i].removeprefix("##") for i in tokens.ids)


# ---- What the keys mean --------------------------------------------------------------------------


def test_rows_have_room_for_the_special_tokens(make_cfg):
    for pairs, room in (("next", 20), ("order", 20), ("none", 21)):
        settings = row_settings(make_cfg(sentence_pairs=pairs), TRAIN, TOKENIZER, STANDARD_LAYOUT)
        assert settings.room == room and settings.short_seq_prob == (0 if pairs == "none" else 0.1)
        assert store_of(make_cfg(sentence_pairs=pairs)).texts_per_row == (
            1 if pairs == "none" else 2
        )


def test_each_split_has_its_documents(make_cfg, tmp_path):
    cfg = make_cfg(sentence_pairs="none")
    for split, name in ((TRAIN, "train.txt"), (VALIDATION, "eval.txt")):
        written = (tmp_path / name).read_text()
        assert text_of(store_of(cfg, split)) == "".join(written.split())


def test_held_out_documents_are_not_trained_on(make_cfg):
    cfg = make_cfg(sentence_pairs="none", eval_documents=None, eval_fraction=0.4)
    parts = [text_of(store_of(cfg, split)) for split in (TRAIN, VALIDATION)]
    whole = text_of(store_of(make_cfg(sentence_pairs="none")))
    assert all(parts) and sum(map(len, parts)) == len(whole)


def test_a_data_set_of_tfds_has_a_document_a_record(make_cfg, tmp_path):
    cfg = make_cfg(
        train_documents=None,
        eval_documents=None,
        dataset="sample_glue/sst2",
        data_dir=str(tmp_path / "tfds"),
        text_keys="sentence",
        sentence_pairs="none",
    )
    for split in (TRAIN, VALIDATION):
        rows = (sample_glue.FOLDER / f"sst2_{split}.tsv").read_text("utf-8").splitlines()[1:]
        store = store_of(cfg, split)
        assert text_of(store).startswith("".join(rows[0].split("\t")[0].split()).lower()[:40])
        assert len(store) >= len(rows)


def test_rows_that_the_user_names_need_no_documents(make_cfg, tmp_path):
    named = {"prepared_dir": str(tmp_path / "prepared")}
    content = store_of(make_cfg(**named)).content
    (tmp_path / "train.txt").unlink()
    assert store_of(make_cfg(train_documents=None, **named)).content == content
    assert sorted(path.name for path in (tmp_path / "prepared").iterdir()) == ["train"]
    told = "max_sequence_length without special tokens was 20, is now 6"
    with pytest.raises(UserError, match=told):
        store_of(make_cfg(train_documents=None, max_sequence_length=9, **named))


def test_a_changed_file_is_prepared_anew_in_the_cache(make_cfg, tmp_path):
    content = store_of(make_cfg()).content
    with open(tmp_path / "train.txt", "a") as file:
        file.write("\nmore and more\n")
    assert store_of(make_cfg()).content != content


@pytest.mark.parametrize(
    "keys, split, message",
    [
        ({"eval_documents": None}, VALIDATION, "eval_documents is not given; .* or eval_fraction"),
        (
            {"train_documents": None, "prepared_dir": "nowhere"},
            TRAIN,
            "train_documents is not given, and nowhere/train/manifest.json is not there",
        ),
        ({"max_sequence_length": 4}, TRAIN, "leaves a row 1 tokens besides the special ones"),
        (
            {
                "sentence_pairs": "none",
                "allow_cross_document_examples": True,
                "document_separator_token": "[SEPARATOR]",
            },
            TRAIN,
            r"'\[SEPARATOR\]', which vocabulary has not",
        ),
    ],
)
def test_what_cannot_be_read_is_a_sentence(make_cfg, keys, split, message):
    section = TrainInputParams if split == TRAIN else EvalInputParams
    with pytest.raises(UserError, match=message):
        store_of(make_cfg(section, **keys), split)


# ---- --mode prepare_data -------------------------------------------------------------------------


@pytest.fixture
def prepare(make_cfg, tmp_path, capsys):
    """prepare(*flags) -> exit code, what was printed to stdout and to stderr."""
    keys = {key: str(tmp_path / f"{key[:5].rstrip('_')}.txt") for key in ("train_documents",)}
    keys |= {
        "data_processor": "DocumentDataProcessor",
        "eval_documents": str(tmp_path / "eval.txt"),
        "vocab_file": str(tmp_path / "vocab.txt"),
        "prepared_dir": str(tmp_path / "prepared"),
        "max_sequence_length": 23,
        "batch_size": 4,
    }
    make_cfg()
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"train_input": keys}))

    def call(*flags):
        code = run.main(["--mode", "prepare_data", "--params", str(path), *flags])
        return code, *capsys.readouterr()

    return call


def test_prepare_data_makes_both_splits_and_says_what_is_in_them(prepare, tmp_path):
    code, out, _ = prepare()
    assert code == 0 and "Prepared and checked" in out
    for split, documents in (("train", 12), ("validation", 4)):
        manifest = json.loads((tmp_path / "prepared" / split / "manifest.json").read_text())
        assert manifest["documents"] == documents
        rows = (
            f"{manifest['rows']} rows of {manifest['tokens']:,} tokens, from {documents} documents"
        )
        assert rows in out
    code, out, _ = prepare("--json")
    assert json.loads(out)["figures"]["prepared/rows_validation"] == manifest["rows"]


def test_prepare_data_finds_what_is_damaged(prepare, tmp_path):
    prepare()
    path = tmp_path / "prepared/train/shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    code, _, err = prepare()
    assert code == 2 and f"{path} is not what was written; delete its folder" in err
    shutil.rmtree(path.parent)
    assert prepare()[0] == 0


def test_prepare_data_refuses_what_it_is_not_for(prepare, tmp_path):
    code, _, err = prepare("--validate_only")
    assert code == 2 and "--validate_only is not for --mode prepare_data" in err
    processor = "train_input.data_processor=TextFileDataProcessor"
    flags = ["--override", processor, "--override", "train_input.text_columns=text"]
    keys = ("train_documents", "eval_documents", "prepared_dir")
    for key in keys:
        flags += ["--override", f"train_input.{key}=null"]
    code, _, err = prepare(*flags)
    assert code == 2 and "--mode prepare_data is for pre-training" in err
