# SPDX-License-Identifier: Apache-2.0
"""The LiteRT file under the interpreter, with the operations of LiteRT alone."""

import json

import numpy as np
import pytest
import tensorflow as tf

from common.BaseModel import PREDICT
from common.export import tflite
from common.export.export import export
from model import make_model
from tests.reference.source_cases import FAMILIES
from tests.reference.tiny_bert import random_features, randomize, tiny_params

NAMES = ("roberta", "distilbert", "electra", "albert", "modernbert")
# In place of ai-edge-litert, which is no requirement: the same interpreter.
OF_TENSORFLOW = "import tensorflow as tf\nInterpreter = tf.lite.Interpreter"


def features_of(batch, tokens, is_inverted=True):
    """The documented features."""
    features = random_features(batch, tokens)
    padding_mask = features.pop("padding_mask")
    features["input_mask"] = 1 - padding_mask if is_inverted else padding_mask
    return {name: value.astype(np.int32) for name, value in features.items()}


def run(path, features):
    """{output: array} of a model on disk."""
    return tflite.make_interpreter(path).get_signature_runner()(**features)


@pytest.mark.parametrize(
    "network",
    [
        {"pooler_type": "last", "encoder_nonlinearity": "gelu_erf"},
        {"pooler_type": "mean", "encoder_nonlinearity": "gelu_tanh"},
        {"pooler_type": "max", "encoder_nonlinearity": "silu"},
        {"pooler_type": "sum", "embedding_size": 4, "position_embedding_type": "fixed"},
        {"use_pre_normalization": True, "use_segment_embedding": False},
        {"rows": {"invert_mask": False}},
        # RoBERTa's positions begin at row 2.
        *({**FAMILIES[name], "max_position_embeddings": 21} for name in NAMES),
    ],
    ids=str,
)
def test_litert_computes_the_networks_logits_for_any_batch_and_length(
    make_classifier, tmp_path, network
):
    classifier = make_classifier(**network)
    folder, _ = export("tflite", classifier, tmp_path / "out")
    for batch, tokens in ((1, 3), (4, 7), (3, 19)):
        features = features_of(batch, tokens, is_inverted="rows" not in network)
        expected = classifier.model.build_model(features, PREDICT)["logits"].numpy()
        outputs = run(folder / "model.tflite", features)
        assert set(outputs) == {"logits", "probabilities"}
        # Float32 against float32 by another program; values up to 3.
        np.testing.assert_allclose(outputs["logits"], expected, rtol=0, atol=1e-5)
        probabilities = tf.nn.softmax(expected).numpy()
        np.testing.assert_allclose(outputs["probabilities"], probabilities, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "family",
    ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES)],
)
@pytest.mark.parametrize(
    "task, num_classes, names",
    [
        ("regression", 1, {"logits", "value"}),
        ("multi_label", 3, {"logits", "probabilities", "predicted"}),
        ("token_classification", 5, {"logits", "probabilities"}),
        ("question_answering", None, {"start_logits", "end_logits"}),
    ],
)
def test_every_task_gives_its_outputs(make_classifier, tmp_path, task, num_classes, names, family):
    of_family = dict(FAMILIES[family])
    if task in ("token_classification", "question_answering"):
        of_family.pop("pooler_type", None)
    if task == "question_answering":
        from dataclasses import replace

        params = tiny_params(None, task=task, **of_family)
        network = make_model(params)
        randomize(network)
        classifier = replace(make_classifier(2), model=network, params=params)
    else:
        classifier = make_classifier(num_classes=num_classes, task=task, **of_family)
    folder, _ = export("tflite", classifier, tmp_path / "out")
    features = features_of(3, 7)
    outputs = run(folder / "model.tflite", features)
    assert set(outputs) == names
    is_token = features["input_mask"] == 0
    for name, theirs in classifier.model.build_model(features, PREDICT).items():
        ours, theirs = outputs[name], theirs.numpy()
        if ours.ndim > 1 and ours.shape[:2] == is_token.shape:
            ours, theirs = ours[is_token], theirs[is_token]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    has_labels = task != "question_answering"
    assert (folder / "labels.txt").exists() == has_labels
    assert (folder / "decode.py").exists() == (classifier.answer.decoder is not None)


def test_vocabulary_labels_and_settings_are_beside_it(make_classifier, tmp_path):
    classifier = make_classifier(rows={"invert_mask": False, "do_lower": True})
    folder, _ = export("tflite", classifier, tmp_path / "out")
    labels = (folder / "labels.txt").read_text("utf-8").splitlines()
    assert labels == ["awful", "bad", "so so", "good", "père"]
    assert (folder / "vocab.txt").read_text("utf-8").splitlines() == classifier.vocab
    assert json.loads((folder / "settings.json").read_text("utf-8")) == {
        "task": "classification",
        "label_names": labels,
        "max_sequence_length": 7,
        "do_lower_case": True,
        "add_special_tokens": True,
        "input_mask": "1 on tokens, 0 on padding",
    }
    assert not (folder / "model_int8.tflite").exists()


def test_int8_is_smaller_and_close(make_classifier, tmp_path):
    # Wide enough that kernels, not operations, make the size.
    classifier = make_classifier(quantize="int8", hidden_size=128, filter_size=512)
    folder, _ = export("tflite", classifier, tmp_path / "out")
    sizes = [(folder / name).stat().st_size for name in (tflite.MODEL_FILE, tflite.INT8_FILE)]
    assert sizes[1] < sizes[0] / 3
    features = features_of(4, 7)
    logits = [run(folder / name, features)["logits"] for name in ("model.tflite", tflite.INT8_FILE)]
    # A step of 8 bits is 1/127 of the largest value.
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.1 * np.abs(logits[0]).max()
    assert "model_int8.tflite" in (folder / "README.md").read_text()


def test_the_example_of_the_card_gives_the_networks_label(
    make_classifier, tmp_path, run_alone, code_of
):
    pytest.importorskip("tokenizers", reason="pip install tokenizers brings what this needs")
    classifier = make_classifier(texts_per_row=2)
    folder, _ = export("tflite", classifier, tmp_path / "out")
    (example,) = code_of(folder, "python")
    features = classifier.text_features(tf.constant([classifier.example]))
    expected = classifier.model.build_model(features, PREDICT)["logits"].numpy()[0]
    example = example.replace(tflite.LOADING, OF_TENSORFLOW)
    label, logits = run_alone(f"{example}\nprint(logits[0].tolist())", folder).splitlines()[-2:]
    assert label == classifier.label_names[expected.argmax()]
    np.testing.assert_allclose(json.loads(logits), expected, rtol=0, atol=1e-5)


def test_the_engine_that_scores_it_gives_the_networks_logits(make_classifier, tmp_path):
    classifier = make_classifier()
    folder, _ = export("tflite", classifier, tmp_path / "out")
    for tokens in (7, 11):  # the shapes of an evaluation differ
        features = features_of(4, tokens)
        outputs = tflite.TfliteEngine(folder / "model.tflite", num_threads=1).run(features)
        expected = classifier.model.build_model(features, PREDICT)["logits"]
        np.testing.assert_allclose(outputs["logits"], expected, rtol=0, atol=1e-5)
