# SPDX-License-Identifier: Apache-2.0
"""Every family from its checkpoint to exports, as somebody with lists of texts types it."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
import yaml

import run
from api import Classifier, new_evaluator
from common.checkpoints import store
from common.checkpoints.artefact import chosen_checkpoint
from common.checkpoints.inspect import inspect_checkpoint
from common.checkpoints.load import open_checkpoint
from common.checkpoints.vocab import pad_token, read_vocab
from common.params import Params
from common.training.inference import records_of
from serving.engines.checkpoint import load as load_checkpoint
from serving.engines.loaded import load_export
from serving.readers import make_reader
from session import open_session
from tests.reference.family_fixtures import FIXTURES, needs_fixtures
from tests.reference.source_cases import FAMILIES as NETWORKS
from tests.reference.tiny_bert import (
    HIDDEN_SIZE,
    INPUTS_OF_TASK,
    huggingface_tensors,
    save_huggingface,
)
from tests.reference.toy_session import bits_of
from tests.reference.toy_words import make_task_data

TEXTS = ["the treaty was good", "Nobody had expected so many people!"] * 12
LABELS = ["happy", "sad"] * 12
NEW = ["a good treaty", "Nobody, nobody!", "people"]
KEYS = {"batch_size": 8, "learning_rate": 1e-3, "max_sequence_length": 24}
OVERRIDES = {
    "runconfig.tf_random_seed": 1,
    "train_input.packing": "packed",
    "eval_input.packing": "packed",
    "model.cls_dropout_rate": 0.1,
    "model.mixed_precision": "float32",  # as exports compute
    "model.freeze": ["embeddings"],
}
FAMILIES = ["roberta", "distilbert", "electra", "albert", "modernbert"]


def encode(folder, vocab_file, texts):
    """The features of texts, as the card of an export makes them."""
    if vocab_file.endswith(".json"):
        vocab = read_vocab(folder / vocab_file)
        tokenizer, pad = tokenizers.Tokenizer.from_file(str(folder / vocab_file)), pad_token(vocab)
        tokenizer.enable_padding(pad_id=vocab.index(pad), pad_token=pad)
    else:
        tokenizer = tokenizers.BertWordPieceTokenizer(str(folder / vocab_file), lowercase=True)
        tokenizer.enable_padding()
    rows = tokenizer.encode_batch(texts)
    return {
        "input_ids": np.array([row.ids for row in rows], np.int32),
        "input_mask": 1 - np.array([row.attention_mask for row in rows], np.int32),
        "segment_ids": np.array([row.type_ids for row in rows], np.int32),
    }


@needs_fixtures
@pytest.mark.slow  # each compiles programs of its own: 50 s
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifier_of_every_family_is_trained_continued_and_exported(family, tmp_path):
    source = FIXTURES / f"hf_{family}" / "sequence_classification"
    model_dir = tmp_path / "run"
    clf = Classifier(str(source), overrides=OVERRIDES)
    clf.fit(TEXTS, LABELS, model_dir=model_dir, num_epochs=1, **KEYS)
    assert np.isfinite(clf.result_.figures["loss"])
    changes = {"runconfig.allow_changed_params": True}
    clf.fit(TEXTS, LABELS, model_dir=model_dir, num_epochs=2, overrides=changes, **KEYS)
    logits = clf.logits(NEW)
    again = Classifier.load(model_dir)
    np.testing.assert_array_equal(again.logits(NEW), logits)
    assert f"backbone                {family}" in inspect_checkpoint(model_dir)

    clf.export("huggingface", tmp_path / "huggingface")
    config = json.loads((tmp_path / "huggingface" / "config.json").read_text())
    before = json.loads((source / "config.json").read_text())
    assert config["architectures"] == before["architectures"]
    geometry = before.keys() & config.keys() - {"id2label", "label2id", "problem_type", "dtype"}
    different = {key for key in geometry if before[key] != config[key]}
    assert not {key for key in different if "drop" not in key}
    written = open_checkpoint(tmp_path / "huggingface")
    stored = open_checkpoint(chosen_checkpoint(model_dir))
    assert written.weights.keys() == stored.weights.keys()
    for name, each in stored.weights.items():
        np.testing.assert_array_equal(np.asarray(written.weights[name]), np.asarray(each))

    clf.export("saved_model", tmp_path / "saved_model")
    clf.export("onnx", tmp_path / "onnx")
    vocab_file = "vocab.txt" if family in ("distilbert", "electra") else "tokenizer.json"
    features = encode(tmp_path / "saved_model", vocab_file, NEW)
    network = tf.saved_model.load(str(tmp_path / "saved_model" / "1"))
    answered = network.signatures["token_ids"](**{n: tf.constant(x) for n, x in features.items()})
    np.testing.assert_allclose(answered["logits"], logits, rtol=0, atol=1e-5)
    for loaded in (load_export(tmp_path / "onnx", lambda: None), load_checkpoint(model_dir)):
        reader = make_reader(loaded.settings, loaded.vocab, loaded.texts)
        rows = [reader.prepare((text,)).rows[0] for text in NEW]
        served = reader.network_features(rows)
        for name in ("input_ids", "input_mask"):
            np.testing.assert_array_equal(served[name], features[name])
    np.testing.assert_allclose(loaded.engine.run(served)["logits"], logits, rtol=0, atol=1e-5)
    card = (tmp_path / "saved_model" / "README.md").read_text()
    assert (vocab_file == "vocab.txt") == ("takes token ids" not in card)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    (answered,) = session.run(["logits"], encode(tmp_path / "onnx", vocab_file, NEW))
    np.testing.assert_allclose(answered, logits, rtol=0, atol=1e-5)


@needs_fixtures
@pytest.mark.parametrize("family", ["roberta"])
def test_masked_words_are_filled_in_with_the_tokens_of_the_family(family, tmp_path):
    source = FIXTURES / f"hf_{family}" / "masked_lm"
    rows = [("The treaty was <mask> by the Senate",), ("no <mask> or <mask>",)]
    section = {
        **INPUTS_OF_TASK["pretraining"],
        "task": "pretraining",
        "max_sequence_length": 24,
        "batch_size": 2,
    }
    run = {"mode": "predict", "model_dir": str(tmp_path), "checkpoint_path": str(source)}
    params = {"eval_input": section, "model": {"disable_nsp": True}, "runconfig": run}
    session = open_session(Params.model_validate(params), texts=[row[0] for row in rows])
    evaluator = new_evaluator(session)
    evaluator.inference.load(session.checkpoint)
    batches, _ = session.data.predict_input_fn(session.params, session.texts)
    model, inference = evaluator.model, evaluator.inference
    ((split, found),) = inference.collect(batches, model.build_gathered, "predict").items()
    records = records_of(model, found, batches[split].origins())[0]
    assert [sum(bool(record.get(f"mask_{n}")) for n in (1, 2)) for record in records] == [1, 2]


@pytest.mark.slow  # four runs: 20 s
@pytest.mark.parametrize("family", ["bert", *FAMILIES])
def test_a_run_of_every_family_is_validated_kept_and_resumed_packed(family, tmp_path, capsys):
    """With the command line: the second run loads the programs of the first."""
    keys = {name: str(each) for name, each in make_task_data(tmp_path, "classification").items()}
    values = {
        "train_input": {
            **keys,
            "max_sequence_length": 12,
            "batch_size": 8,
            "packing": "packed",
            "cache_dir": str(tmp_path / "cache"),
        },
        "model": {
            **dict.fromkeys(("dropout_rate", "attention_dropout_rate", "cls_dropout_rate"), 0.1),
            "hidden_size": 8,
            "num_hidden_layers": 2,
            "num_heads": 2,
            "filter_size": 16,
            "max_position_embeddings": 16,
            **NETWORKS[family],
        },
        "optimizer": {"learning_rate": 0.02},
        "runconfig": {"tf_random_seed": 1},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    command = ["--mode", "train", "--params", str(tmp_path / "params.yaml"), "--model_dir"]
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    assert run.main([*command, whole, "--max_steps", "6", "--validate_only"]) == 0
    assert run.main([*command, whole, "--max_steps", "6"]) == 0
    capsys.readouterr()
    assert run.main([*command, parts, "--max_steps", "3"]) == 0
    assert "that an earlier run kept in" in capsys.readouterr().err
    assert run.main([*command, parts, "--max_steps", "6"]) == 0
    whole, parts = (store.newest_checkpoint(Path(path)) for path in (whole, parts))
    assert bits_of(whole) == bits_of(parts)


# ---- Large and unusual vocabularies of BERT ------------------------------------------------------


@pytest.mark.slow
def test_a_vocabulary_of_120000_entries_in_a_tokenizer_json_with_padded_embeddings(tmp_path):
    """As multilingual BERTs have it: cased, no vocab.txt, more rows than entries."""
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    entries += [f"W{i}" for i in range(120_000 - len(entries))]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({e: i for i, e in enumerate(entries)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    folder = tmp_path / "weights"
    tensors, rows = huggingface_tensors(), 120_064
    generator = np.random.default_rng(0)
    tensors["embeddings.word_embeddings.weight"] = generator.normal(
        0, 0.1, (rows, HIDDEN_SIZE)
    ).astype(np.float32)
    save_huggingface(folder, tensors, vocab_size=rows)
    tokenizer.save(str(folder / "tokenizer.json"))
    texts = [f"W{119_994 - i} W{i}" for i in range(40)]
    keys = {"batch_size": 4, "max_sequence_length": 8, "learning_rate": 1e-2}
    clf = Classifier(str(folder), overrides={"runconfig.tf_random_seed": 1})
    clf.fit(texts, ["a", "b"] * 20, model_dir=tmp_path / "run", max_steps=10, **keys)
    assert clf.result_.step == 10
    config = open_checkpoint(tmp_path / "run").config
    assert config["vocab_size"] == rows and config["do_lower_case"] is False
    clf.export("huggingface", tmp_path / "export")
    vocab = read_vocab(tmp_path / "export" / "vocab.txt")
    assert vocab == entries and "w0" not in vocab
    again = Classifier.load(tmp_path / "run")
    np.testing.assert_array_equal(again.logits(texts[:3]), clf.logits(texts[:3]))
