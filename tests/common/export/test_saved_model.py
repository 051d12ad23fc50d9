# SPDX-License-Identifier: Apache-2.0
"""The SavedModel: its signatures, in a process that has nothing of this project."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from common.BaseModel import PREDICT
from common.export.export import export

TEXTS = ["never once dull", "", "It was bad, badly DRAGGED!", "café 漢字 \u0000 [SEP]", "good"]
PAIRS = [("it was good", "It dragged."), ("", ""), ("never " * 9, "dull " * 9), ("a", "b " * 9)]


@pytest.fixture(scope="module", params=[1, 2], ids=["texts", "pairs"])
def exported(request, make_classifier, tmp_path_factory):
    """Classifier, folder of its export, and rows of texts: list of tuples."""
    classifier = make_classifier(texts_per_row=request.param)
    folder, _ = export("saved_model", classifier, tmp_path_factory.mktemp("export") / "saved_model")
    return classifier, folder, [(text,) for text in TEXTS] if request.param == 1 else PAIRS


def model_def(folder):
    """The only MetaGraphDef of an export."""
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString((folder / "1" / "saved_model.pb").read_bytes())
    (meta_graph,) = saved_model.meta_graphs
    return meta_graph


def expected_logits(classifier, rows):
    features = classifier.text_features(tf.constant(rows))
    return classifier.model.build_model(features, PREDICT)["logits"].numpy()


def test_a_process_without_this_project_gets_the_networks_answers(exported, run_alone, code_of):
    classifier, folder, rows = exported
    example, *_ = code_of(folder, "python")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(classifier.text_names)}
    code = f"""
{example}
import sys, json
assert not [name for name in sys.modules if name.split(".")[0] in ("common", "input", "model")]
columns = {{name: tf.constant(column) for name, column in {columns!r}.items()}}
result = {{name: value.numpy() for name, value in classifier(**columns).items()}}
one_by_one = [
    classifier(**{{name: column[i : i + 1] for name, column in columns.items()}})["logits"][0]
    for i in range({len(rows)})
]
no_rows = classifier(**{{name: column[:0] for name, column in columns.items()}})["logits"]
print(json.dumps({{
    "label": [label.decode() for label in result["label"]],
    "label_names": [[name.decode() for name in names] for names in result["label_names"]],
    "probabilities": result["probabilities"].tolist(),
    "logits": result["logits"].tolist(),
    "one_by_one": [row.numpy().tolist() for row in one_by_one],
    "no_rows": no_rows.shape.as_list(),
}}))
"""
    result = json.loads(run_alone(code, folder).splitlines()[-1])
    logits = expected_logits(classifier, rows)
    # Float32, the same operations but for GELU, which the network has compiled.
    np.testing.assert_allclose(result["logits"], logits, rtol=0, atol=1e-5)
    # Alone a row is padded less.
    np.testing.assert_allclose(result["one_by_one"], logits, rtol=0, atol=1e-5)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(result["probabilities"], probabilities, rtol=0, atol=1e-6)
    assert result["label"] == [classifier.label_names[i] for i in logits.argmax(axis=1)]
    assert result["label_names"] == [list(classifier.label_names)] * len(rows)
    assert result["no_rows"] == [0, len(classifier.label_names)]


def test_the_documented_rest_body_fits_the_signature(exported, code_of):
    classifier, folder, _ = exported
    (body,) = map(json.loads, code_of(folder, "json"))
    signature = model_def(folder).signature_def[body["signature_name"]]
    for name, tensor in signature.inputs.items():
        assert tensor.dtype == tf.string.as_datatype_enum
        assert [axis.size for axis in tensor.tensor_shape.dim] == [-1]
        assert all(isinstance(row[name], str) for row in body["instances"])
    assert all(set(row) == set(signature.inputs) for row in body["instances"])
    card = (folder / "README.md").read_text()
    for name, tensor in signature.outputs.items():
        assert f"`{name}`" in card
        assert tensor.tensor_shape.dim[0].size == -1  # the row format needs rows in every output
        assert not name.endswith("_bytes")  # the REST interface would give those in base64
    # What TensorFlow Serving makes of the body.
    columns = {
        name: tf.constant([row[name] for row in body["instances"]])
        for name in classifier.text_names
    }
    served = tf.saved_model.load(str(folder / "1")).signatures[body["signature_name"]]
    rows = list(zip(*(column.numpy() for column in columns.values()), strict=True))
    np.testing.assert_allclose(
        served(**columns)["logits"], expected_logits(classifier, rows), rtol=0, atol=1e-5
    )


def test_token_ids_of_any_batch_and_length_give_the_networks_logits(exported):
    classifier, folder, _ = exported
    served = tf.saved_model.load(str(folder / "1")).signatures["token_ids"]
    generator = np.random.default_rng(0)
    for batch, tokens in ((1, 3), (5, 19), (2, 11)):  # 19 positions are all there are
        features = {
            "input_ids": generator.integers(0, 23, (batch, tokens)),
            "input_mask": (np.arange(tokens) > generator.integers(0, tokens, (batch, 1))),
            "segment_ids": generator.integers(0, 2, (batch, tokens)),
        }
        features = {name: tf.constant(value, tf.int32) for name, value in features.items()}
        expected = classifier.model.build_model(features, PREDICT)["logits"]
        np.testing.assert_allclose(served(**features)["logits"], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])  # evaluation compiles the latter
def test_the_graph_compiles_nothing_and_calls_no_python(make_classifier, tmp_path, policy):
    folder, _ = export("saved_model", make_classifier(mixed_precision=policy), tmp_path / "out")
    meta_graph = model_def(folder)
    functions = meta_graph.graph_def.library.function
    assert not any("_XlaMustCompile" in f.attr and f.attr["_XlaMustCompile"].b for f in functions)
    operations = {node.op for function in functions for node in function.node_def}
    assert [op for op in operations if "FastWordpiece" in op]
    assert not {op for op in operations if "PyFunc" in op}


def test_any_network_is_served_with_rows_of_any_layout(make_classifier, unusual, tmp_path):
    rows = {"add_special_tokens": False, "invert_mask": False, "pad_id": 5}
    classifier = make_classifier(rows=rows, **unusual)
    folder, _ = export("saved_model", classifier, tmp_path / "out")
    served = tf.saved_model.load(folder / "1").signatures
    texts = [(text,) for text in TEXTS]
    expected = expected_logits(classifier, texts)
    result = served["serving_default"](text=tf.constant(TEXTS))
    np.testing.assert_allclose(result["logits"], expected, rtol=0, atol=1e-5)
    features = classifier.text_features(tf.constant(texts))
    assert features["input_mask"][0, 0] == 1  # on tokens, as the card says
    assert "`input_mask` is 1 on tokens, 0 on padding" in (folder / "README.md").read_text()
    result = served["token_ids"](**features)
    np.testing.assert_allclose(result["logits"], expected, rtol=0, atol=1e-5)


def test_a_regression_gives_its_number(make_classifier, tmp_path, code_of):
    classifier = make_classifier(num_classes=1)
    folder, _ = export("saved_model", classifier, tmp_path / "out")
    signature = tf.saved_model.load(folder / "1").signatures["serving_default"]
    result = signature(text=tf.constant([*classifier.example, "it"]))
    features = classifier.text_features(tf.constant([classifier.example, ["it"]]))
    expected = classifier.model.build_model(features, PREDICT)["logits"].numpy()[:, 0]
    assert set(result) == {"value", "logits"}
    np.testing.assert_allclose(result["value"], expected, rtol=0, atol=1e-5)
    assert 'result["value"]' in code_of(folder, "python")[0]


def test_several_labels_a_row_are_served_with_their_thresholds(
    make_classifier, tmp_path, run_alone, code_of
):
    classifier = make_classifier(num_classes=3, task="multi_label")
    classifier.model.restore({"thresholds": [0.25, 0.5, 0.75]})
    folder, _ = export("saved_model", classifier, tmp_path / "out")
    features = classifier.text_features(tf.constant([["never once dull"]]))
    outputs = classifier.model.build_model(features, PREDICT)
    (record,) = classifier.model.predictions({"logits": outputs["logits"].numpy()})
    example = code_of(folder, "python")[0]
    expected = record["label"].split(", ") if record["label"] else []
    assert run_alone(example, folder).splitlines()[-1] == str(expected)
    card = (folder / "README.md").read_text("utf-8")
    assert "2 so so (from a probability of 0.75)" in card and "multi-label classifier" in card
    assert json.loads((folder / "export.json").read_text())["thresholds"] == [0.25, 0.5, 0.75]
