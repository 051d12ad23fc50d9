# SPDX-License-Identifier: Apache-2.0
"""The ONNX graph under ONNX Runtime."""

import json

import numpy as np
import pytest
import tensorflow as tf

from common.BaseModel import PREDICT
from common.errors import UserError
from common.export import onnx as export_onnx
from common.export.export import export
from tests.reference.tiny_bert import random_features

onnx = pytest.importorskip("onnx", reason="pip install onnx onnxruntime brings what this needs")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")


def features_of(batch, tokens):
    """The documented features, input_mask 1 on padding."""
    features = random_features(batch, tokens)
    features["input_mask"] = 1 - features.pop("padding_mask")
    return {name: value.astype(np.int32) for name, value in features.items()}


def run(path, features):
    """{"logits", "probabilities"} of a model on disk."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, features), strict=True))


@pytest.mark.parametrize(
    "network",
    [
        *({"encoder_nonlinearity": name} for name in export_onnx.ACTIVATIONS),
        {"use_pre_normalization": True},
        {"use_position_embedding": False, "use_segment_embedding": False},
        {"num_hidden_layers": 1, "layer_norm_epsilon": 1e-2},
        {"embedding_size": 4, "position_embedding_type": "fixed"},
        {"attention_type": "dot_product", "use_ffn_bias": False},
        *({"pooler_type": name} for name in ("last", "mean", "max", "sum")),
        {"rows": {"invert_mask": False}},
        {"rows": {"invert_mask": False}, "pooler_type": "mean"},
    ],
    ids=str,
)
def test_onnx_runtime_computes_the_networks_logits_for_any_batch_and_length(
    make_classifier, tmp_path, network
):
    classifier = make_classifier(**network)
    folder, _ = export("onnx", classifier, tmp_path / "out")
    for batch, tokens in ((1, 3), (4, 7), (3, 19)):
        features = features_of(batch, tokens)
        if "rows" in network:
            features["input_mask"] = 1 - features["input_mask"]
        expected = classifier.model.build_model(features, PREDICT)["logits"].numpy()
        outputs = run(folder / "model.onnx", features)
        # Float32 against float32 by another program; values up to 3.
        np.testing.assert_allclose(outputs["logits"], expected, rtol=0, atol=1e-5)
        probabilities = tf.nn.softmax(expected).numpy()
        np.testing.assert_allclose(outputs["probabilities"], probabilities, rtol=0, atol=1e-6)


def test_the_file_says_what_it_takes_and_gives(make_classifier, tmp_path):
    folder, _ = export("onnx", make_classifier(), tmp_path / "out")
    model = onnx.load(folder / "model.onnx")
    for value in model.graph.input:
        assert [axis.dim_param for axis in value.type.tensor_type.shape.dim] == ["batch", "tokens"]
    assert [value.name for value in model.graph.input] == ["input_ids", "input_mask", "segment_ids"]
    assert [value.name for value in model.graph.output] == ["logits", "probabilities"]
    properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert properties["label_names"] == ["awful", "bad", "so so", "good", "père"]
    names = {initializer.name for initializer in model.graph.initializer}
    assert "encoder/layer_1/attention/key/kernel" in names


def test_int8_is_smaller_and_close(make_classifier, tmp_path):
    # Wide enough that kernels, not operations, make the size.
    classifier = make_classifier(quantize="int8", hidden_size=128, filter_size=512)
    folder, _ = export("onnx", classifier, tmp_path / "out")
    sizes = [(folder / name).stat().st_size for name in ("model.onnx", "model_int8.onnx")]
    assert sizes[1] < sizes[0] / 3
    features = features_of(4, 7)
    logits = [run(folder / name, features)["logits"] for name in ("model.onnx", "model_int8.onnx")]
    # A step of 8 bits is 1/127 of the largest value.
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.1 * np.abs(logits[0]).max()
    assert "model_int8.onnx" in (folder / "README.md").read_text()


def test_another_quantization_is_refused(make_classifier, tmp_path):
    with pytest.raises(UserError, match="'int4'; available: int8"):
        export("onnx", make_classifier(quantize="int4"), tmp_path / "out")


def test_the_engine_that_scores_it_gives_the_networks_logits(make_classifier, tmp_path):
    classifier = make_classifier()
    folder, _ = export("onnx", classifier, tmp_path / "out")
    features = features_of(4, 7)
    outputs = export_onnx.open_engine(folder / "model.onnx").run(features)
    expected = classifier.model.build_model(features, PREDICT)["logits"]
    np.testing.assert_allclose(outputs["logits"], expected, rtol=0, atol=1e-5)


def test_int8_of_an_unusual_network_is_close(make_classifier, unusual, tmp_path):
    classifier = make_classifier(quantize="int8", **unusual)
    folder, _ = export("onnx", classifier, tmp_path / "out")
    features = features_of(4, 7)
    logits = [run(folder / name, features)["logits"] for name in ("model.onnx", "model_int8.onnx")]
    expected = classifier.model.build_model(features, PREDICT)["logits"]
    np.testing.assert_allclose(logits[0], expected, rtol=0, atol=1e-5)
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.2 * np.abs(logits[0]).max()


# Keras asks whether a row of one token is meant.
@pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis:UserWarning")
@pytest.mark.parametrize("texts_per_row", [1, 2])
@pytest.mark.parametrize("rows", [{}, {"add_special_tokens": False, "invert_mask": False}], ids=str)
def test_the_example_of_the_card_gives_the_networks_label(
    make_classifier, tmp_path, run_alone, code_of, texts_per_row, rows
):
    pytest.importorskip("tokenizers", reason="pip install tokenizers brings what this needs")
    classifier = make_classifier(texts_per_row, rows=rows)
    folder, _ = export("onnx", classifier, tmp_path / "out")
    (example,) = code_of(folder, "python")
    features = classifier.text_features(tf.constant([classifier.example]))
    expected = classifier.model.build_model(features, PREDICT)["logits"].numpy()[0]
    label, logits = run_alone(f"{example}\nprint(logits[0].tolist())", folder).splitlines()
    assert label == classifier.label_names[expected.argmax()]
    np.testing.assert_allclose(json.loads(logits), expected, rtol=0, atol=1e-5)


def test_a_regression_gives_its_number_and_no_probabilities(make_classifier, tmp_path):
    classifier = make_classifier(num_classes=1)
    folder, _ = export("onnx", classifier, tmp_path / "out")
    features = features_of(3, 7)
    outputs = run(folder / "model.onnx", features)
    expected = classifier.model.build_model(features, PREDICT)["logits"].numpy()
    assert set(outputs) == {"logits"}
    np.testing.assert_allclose(outputs["logits"], expected, rtol=0, atol=1e-5)
    assert "probabilities" not in (folder / "README.md").read_text("utf-8")


def test_a_weight_that_the_graph_does_not_compute_is_named(make_classifier, tmp_path):
    classifier = make_classifier()
    classifier.weights["adapter/kernel"] = np.zeros((2, 2), np.float32)
    with pytest.raises(UserError, match=r"adapter/kernel, .* as saved_model or keras"):
        export("onnx", classifier, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_several_labels_a_row_have_a_probability_each(
    make_classifier, tmp_path, run_alone, code_of
):
    pytest.importorskip("tokenizers", reason="pip install tokenizers brings what this needs")
    classifier = make_classifier(num_classes=3, task="multi_label", quantize="int8")
    classifier.model.restore({"thresholds": [0.25, 0.5, 0.75]})
    folder, _ = export("onnx", classifier, tmp_path / "out")
    features = features_of(4, 7)
    outputs = run(folder / "model.onnx", features)
    expected = classifier.model.build_model(features, PREDICT)["logits"].numpy()
    np.testing.assert_allclose(outputs["logits"], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(outputs["probabilities"], 1 / (1 + np.exp(-expected)), atol=1e-6)
    properties = {
        p.key: json.loads(p.value) for p in onnx.load(folder / "model.onnx").metadata_props
    }
    assert properties["thresholds"] == [0.25, 0.5, 0.75] and properties["task"] == "multi_label"
    (example,) = code_of(folder, "python")
    logits = classifier.model.build_model(
        classifier.text_features(tf.constant([["text"]])), PREDICT
    )
    (record,) = classifier.model.predictions({"logits": logits["logits"].numpy()})
    expected = record["label"].split(", ") if record["label"] else []
    assert run_alone(example, folder).strip() == str(expected)
