# SPDX-License-Identifier: Apache-2.0
"""The export for transformers: its files bit by bit, and what transformers computes with them."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import yaml
from safetensors.numpy import load_file

from common.BaseModel import PREDICT
from common.checkpoints.formats import huggingface
from common.checkpoints.formats.huggingface import huggingface_tensors
from common.checkpoints.huggingface_families import HUGGINGFACE_FAMILIES
from common.checkpoints.load import load_weights, open_checkpoint
from common.checkpoints.names import WEIGHTS, foreign_in
from common.checkpoints.standard_bert import CONFIG_KEYS
from common.errors import UserError
from common.export.export import export
from model import make_model
from tests.reference.tiny_bert import random_features, tiny_params

FIXTURES = Path(__file__).parents[5] / "shared" / "fixtures"
needs_fixtures = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason="../shared/fixtures, written by transformers, is not there"
)
GEOMETRY = (*CONFIG_KEYS.values(), "encoder_nonlinearity", "layer_norm_epsilon")
TEXTS = ["never once dull", "It was bad, badly DRAGGED!", "café 漢字", ""]


def transformers():
    return pytest.importorskip(
        "transformers", reason="pip install transformers torch brings what this needs"
    )


def assert_same_bits(actual, expected):
    assert set(actual) == set(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype and actual[name].shape == array.shape
        assert actual[name].tobytes() == array.tobytes(), name


@needs_fixtures
@pytest.mark.parametrize("folder", ["huggingface", "huggingface_classifier"])
def test_reading_and_writing_gives_every_bit_back(folder):
    weights = huggingface.read_weights(FIXTURES / folder)
    written = huggingface_tensors({name: np.asarray(w) for name, w in weights.items()})
    assert_same_bits(written, load_file(FIXTURES / folder / "model.safetensors"))


@needs_fixtures
def test_a_classifier_that_passed_through_the_network_has_every_bit(make_classifier, tmp_path):
    checkpoint = open_checkpoint(FIXTURES / "huggingface_classifier")
    params = tiny_params(3, **{key: checkpoint.config[key] for key in GEOMETRY})
    model = make_model(params, ("x", "y", "z"))
    load_weights(model, checkpoint)
    plain = make_classifier()
    classifier = type(plain)(model, params, plain.vocab, plain.text_features)
    folder, _ = export("huggingface", classifier, tmp_path / "out")
    source = FIXTURES / "huggingface_classifier"
    assert_same_bits(
        load_file(folder / "model.safetensors"), load_file(source / "model.safetensors")
    )
    ours, theirs = (json.loads((path / "config.json").read_text()) for path in (folder, source))
    for key in (*CONFIG_KEYS, "hidden_act", "layer_norm_eps", "model_type"):
        assert ours[key] == theirs[key]


def test_names_read_the_other_way_round_are_the_same():
    family = HUGGINGFACE_FAMILIES["bert"]
    for pattern in WEIGHTS:
        name = pattern.replace("{i}", "11")
        others = "encoder/final_layer_norm", "embeddings/projection", "mlm/projection"
        if (
            name.startswith((*others, "discriminator", "distillation", "pooler/layer_norm"))
            or "/gate/" in name
        ):
            continue  # transformers has no pre-norm BERT, and none with factorised embeddings
        assert family.neutral_name(foreign_in(family.foreign_names(), name)) == name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("activation", ["gelu_erf", "gelu_tanh", "relu", "silu", "tanh", "linear"])
def test_transformers_computes_the_networks_logits(make_classifier, tmp_path, activation):
    library = transformers()
    torch = pytest.importorskip("torch", reason="pip install torch brings what this needs")
    classifier = make_classifier(encoder_nonlinearity=activation, layer_norm_epsilon=1e-3)
    folder, _ = export("huggingface", classifier, tmp_path / "out")
    theirs = library.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    features = random_features(batch=4, tokens=7)
    expected = classifier.model(features).numpy()
    with torch.no_grad():
        logits = theirs(
            input_ids=torch.tensor(features["input_ids"]),
            attention_mask=torch.tensor(features["padding_mask"]),
            token_type_ids=torch.tensor(features["segment_ids"]),
        ).logits.numpy()
    # Float32 against float32 by another program; values up to 3.
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    assert list(theirs.config.id2label.values()) == list(classifier.label_names)


@pytest.mark.filterwarnings("ignore")
def test_transformers_computes_a_network_without_positions_and_segments(make_classifier, tmp_path):
    library = transformers()
    torch = pytest.importorskip("torch", reason="pip install torch brings what this needs")
    classifier = make_classifier(use_position_embedding=False, use_segment_embedding=False)
    folder, _ = export("huggingface", classifier, tmp_path / "out")
    theirs = library.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    features = random_features(batch=4, tokens=7)
    with torch.no_grad():
        logits = theirs(
            input_ids=torch.tensor(features["input_ids"]),
            attention_mask=torch.tensor(features["padding_mask"]),
            token_type_ids=torch.tensor(features["segment_ids"]),
        ).logits.numpy()
    np.testing.assert_allclose(logits, classifier.model(features).numpy(), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("texts_per_row", [1, 2])
@pytest.mark.parametrize("add_special_tokens", [True, False])
def test_auto_tokenizer_and_the_card_give_the_networks_label(
    make_classifier, tmp_path, run_alone, code_of, texts_per_row, add_special_tokens
):
    library = transformers()
    # Room for as many tokens of either text: of an odd number theirs gives one more to the second.
    rows = {"add_special_tokens": add_special_tokens, "max_sequence_length": 7}
    rows["max_sequence_length"] += not add_special_tokens
    classifier = make_classifier(texts_per_row, rows=rows)
    folder, notes = export("huggingface", classifier, tmp_path / "out")
    assert len(notes) == (not add_special_tokens)
    tokenizer = library.AutoTokenizer.from_pretrained(folder)
    columns = [TEXTS, [f"{text} it" for text in TEXTS]][:texts_per_row]
    settings = {"add_special_tokens": add_special_tokens, "truncation": True, "padding": True}
    rows = tokenizer(*columns, **settings)
    features = classifier.text_features(tf.stack(columns, axis=1))
    np.testing.assert_array_equal(rows["input_ids"], features["input_ids"])
    np.testing.assert_array_equal(rows["attention_mask"], 1 - features["input_mask"])
    np.testing.assert_array_equal(rows["token_type_ids"], features["segment_ids"])
    (example,) = code_of(folder, "python")
    features = classifier.text_features(tf.constant([classifier.example]))
    best = classifier.model.build_model(features, PREDICT)["logits"].numpy().argmax()
    assert run_alone(example, folder).split("\n")[-2] == classifier.label_names[best]


@pytest.mark.parametrize("format", ["huggingface", "tf1"])
@pytest.mark.parametrize(
    "network",
    [
        {"position_embedding_type": "fixed"},
        {
            "use_ffn_bias": False,
            "use_projection_bias_in_attention": False,
            "use_ffn_bias_in_attention": False,
            "use_segment_embedding": False,
        },
    ],
    ids=str,
)
def test_what_a_network_does_without_is_written_so_that_every_bert_computes_the_same(
    make_classifier, tmp_path, format, network
):
    classifier = make_classifier(encoder_nonlinearity="gelu_tanh", **network)
    folder, _ = export(format, classifier, tmp_path / "out")
    plain = make_model(tiny_params(encoder_nonlinearity="gelu_tanh"))
    report = load_weights(plain, open_checkpoint(folder))
    assert not report.fresh and not report.unused
    features = random_features()
    np.testing.assert_allclose(plain(features), classifier.model(features), rtol=0, atol=1e-6)


@pytest.mark.parametrize("format", ["huggingface", "tf1"])
@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"embedding_size": 4}, r"model\.embedding_size is 4"),
        ({"pooler_type": "mean"}, r"model\.pooler_type is mean, and .* knows first alone"),
        ({"attention_type": "dot_product"}, r"model\.attention_type is dot_product"),
        ({"use_pre_normalization": True}, r"model\.use_pre_normalization is true"),
    ],
    ids=str,
)
def test_a_network_that_the_program_would_compute_otherwise_is_refused_with_its_key(
    make_classifier, tmp_path, format, network, words
):
    with pytest.raises(UserError, match=words):
        export(format, make_classifier(**network), tmp_path / "out")


def test_a_card_begins_with_what_the_hub_reads(make_classifier, tmp_path):
    folder, _ = export("huggingface", make_classifier(), tmp_path / "out")
    _, head, _ = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["pipeline_tag"] == "text-classification"


def test_rows_without_special_tokens_are_noted(make_classifier, tmp_path):
    classifier = make_classifier(rows={"add_special_tokens": False})
    folder, notes = export("huggingface", classifier, tmp_path / "out")
    assert "add_special_tokens=False" in notes[0]
    assert ", add_special_tokens=False" in (folder / "README.md").read_text()


def test_one_output_is_written_as_a_regression(make_classifier, tmp_path):
    folder, _ = export("huggingface", make_classifier(num_classes=1), tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    assert config["problem_type"] == "regression" and len(config["id2label"]) == 1


@pytest.mark.parametrize("format", ["huggingface", "tf1"])
def test_a_layer_that_the_program_does_not_have_is_named(make_classifier, tmp_path, format):
    classifier = make_classifier()
    classifier.weights["encoder/layer_1/adapter/kernel"] = np.zeros((2, 2), np.float32)
    with pytest.raises(
        UserError, match=r"encoder/layer_1/adapter/kernel, .* as saved_model or keras"
    ):
        export(format, classifier, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["huggingface", "keras"])
def test_several_labels_a_row_are_read_back_with_their_thresholds(
    make_classifier, tmp_path, format
):
    classifier = make_classifier(num_classes=3, task="multi_label")
    classifier.model.restore({"thresholds": [0.25, 0.5, 0.75]})
    folder, _ = export(format, classifier, tmp_path / "out")
    config = open_checkpoint(folder).config
    assert config["task"] == "multi_label" and config["thresholds"] == [0.25, 0.5, 0.75]
    assert config["label_names"] == classifier.label_names
    if format == "huggingface":
        written = json.loads((folder / "config.json").read_text())
        assert written["problem_type"] == "multi_label_classification"
    for other in ([0.25, 0.5, 1.5], {"a": 0.5}, [0.25, None]):  # of another program
        file = folder / ("config.json" if format == "huggingface" else "export.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | {"thresholds": other}))
        assert "thresholds" not in open_checkpoint(folder).config


def test_several_labels_a_row_are_refused_as_tf1(make_classifier, tmp_path):
    classifier = make_classifier(
        num_classes=3, task="multi_label", encoder_nonlinearity="gelu_tanh"
    )
    with pytest.raises(UserError, match=r"is multi_label, .* for classification and question_answ"):
        export("tf1", classifier, tmp_path / "out")


@pytest.mark.filterwarnings("ignore")
def test_transformers_and_the_card_give_the_labels_of_a_row(
    make_classifier, tmp_path, run_alone, code_of
):
    transformers()
    classifier = make_classifier(num_classes=3, task="multi_label")
    classifier.model.restore({"thresholds": [0.25, 0.5, 0.75]})
    folder, _ = export("huggingface", classifier, tmp_path / "out")
    (example,) = code_of(folder, "python")
    features = classifier.text_features(tf.constant([["text"]]))
    outputs = classifier.model.build_model(features, PREDICT)
    (record,) = classifier.model.predictions({"logits": outputs["logits"].numpy()})
    expected = record["label"].split(", ") if record["label"] else []
    assert run_alone(example, folder).splitlines()[-1] == str(expected)
