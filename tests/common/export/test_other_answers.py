# SPDX-License-Identifier: Apache-2.0
"""A task that answers for every token is checked, completed and exported by what it says itself."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from common.backbones.backbone import make_backbone
from common.BaseModel import PREDICT, BaseModel
from common.errors import UserError
from common.export.export import check_format, export
from common.tasks.answer import Answer
from common.tasks.targets import Targets
from common.training.checks import check_network_size, check_trained
from tests.reference.tiny_bert import random_features, randomize, tiny_params

TAGS = ("O", "name", "place")


def without_classes(params):
    """The params of a task that has no number of classes."""
    inputs = {k: v.model_copy(update={"task": "tagging"}) for k, v in params.inputs.items()}
    model = params.model.model_copy(update={"num_cls_classes": None})
    return params.model_copy(update=inputs | {"model": model})


class Tagger(BaseModel):
    """A tag for each token."""

    head, task, label_names = {"classifier": "tags"}, "tagging", TAGS
    export_formats = ("huggingface", "onnx")
    answer = Answer(
        kind="tagger",
        description="a tag for each token",
        architecture="BertForTokenClassification",
        problem_type=None,
        probabilities=None,
        served=("tags",),
        reading=dict.fromkeys(("huggingface", "ids"), "print('tags')"),
    )

    def __init__(self, params):
        super().__init__(make_backbone(params.model, 0, 1), params.predict_input, name="tagger")
        self.classifier = keras.layers.Dense(len(TAGS), name="classifier")

    def build(self, input_shape=None):
        self.backbone.build()
        self.classifier.build((None, None, self.backbone.hidden_size))
        self.built = True

    def build_model(self, features, mode):
        x, _ = self.backbone(features, training=False)
        return {"tags": self.classifier(x)}

    def onnx_outputs(self):
        return {"tags": ["batch", "tokens", len(TAGS)]}

    def write_onnx(self, graph):
        x = graph.add("MatMul", graph.backbone(), graph.weight("classifier/kernel"))
        graph.add("Add", x, graph.weight("classifier/bias"), output="tags")


@pytest.fixture
def tagger(make_classifier):
    """A Classifier of a Tagger with random weights."""
    classifier = make_classifier()
    params = without_classes(classifier.params)
    model = Tagger(params)
    model.build()
    randomize(model)
    return replace(classifier, model=model, params=params)


def test_onnx_runtime_computes_what_the_network_answers_for_every_token(tagger, tmp_path):
    pytest.importorskip("onnx", reason="pip install onnx brings what this needs")
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    folder, _ = export("onnx", tagger, tmp_path / "out")
    features = random_features(4, 7)
    expected = tagger.model.build_model(dict(features), PREDICT)["tags"]
    features["input_mask"] = 1 - features.pop("padding_mask")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    assert [(each.name, each.shape) for each in session.get_outputs()] == [
        ("tags", ["batch", "tokens", 3])
    ]
    (tags,) = session.run(None, {k: v.astype(np.int32) for k, v in features.items()})
    is_token = features["input_mask"] == 0
    np.testing.assert_allclose(tags[is_token], np.asarray(expected)[is_token], rtol=0, atol=1e-5)
    assert "gives `tags` (float32,\n`[batch, tokens, 3]`)" in (folder / "README.md").read_text()


def test_the_folder_for_transformers_names_the_class_of_the_task(tagger, tmp_path):
    folder, _ = export("huggingface", tagger, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"]
    assert config["id2label"] == {"0": "O", "1": "name", "2": "place"}
    assert "problem_type" not in config
    assert 'AutoModelForTokenClassification.from_pretrained(".")' in (
        folder / "README.md"
    ).read_text("utf-8")


def test_a_format_that_cannot_hold_the_answers_is_refused_before_training(tagger):
    with pytest.raises(UserError, match="tf1, but the task is tagging; write one of huggingface,"):
        check_format("tf1", tagger.params, Tagger)


def test_a_network_without_classes_is_not_asked_for_their_number(tagger):
    completed = tagger.params.complete()
    assert completed.model.num_cls_classes is None
    check_network_size(completed)
    with pytest.raises(UserError, match="num_cls_classes: is 5, but task: tagging has no number"):
        tagger.params.complete(None, {"num_cls_classes": 5})
    with pytest.raises(UserError, match="num_cls_classes: not given, and the data"):
        params = tiny_params()
        model = params.model.model_copy(update={"num_cls_classes": None})
        params.model_copy(update={"model": model}).complete()


def test_a_checkpoint_without_its_head_is_refused_by_the_name_of_the_task(tagger):
    report = type("Report", (), {"fresh": {"classifier/bias": (3,)}, "path": "x"})
    with pytest.raises(
        UserError, match=r"classifier/bias; .* checkpoint of a model for task: tagg"
    ):
        check_trained(report, tagger.model)


def test_labels_do_not_decide_the_outputs_of_every_task():
    class NoNumber(Targets):
        default_outputs = None

    assert NoNumber(("a", "b")).num_outputs(("a",)) is None
    assert Targets().num_outputs() == 2  # nothing is known
    assert Targets(("a", "b", "c")).num_outputs() == 3
    assert Targets(("a", "b", "c")).num_outputs(("a", "b", "c", "d")) == 4  # the checkpoint's
