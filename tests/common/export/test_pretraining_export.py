# SPDX-License-Identifier: Apache-2.0
"""A pre-trained BERT with its heads, in the formats of other programs and back."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
import yaml
from safetensors.numpy import load_file

from common.BaseModel import EVAL
from common.checkpoints.containers import tf_bundle
from common.checkpoints.inspect import inspect_checkpoint
from common.checkpoints.load import load_weights, open_checkpoint
from common.errors import UserError
from common.export.export import check_format, export
from common.export.model_card import params_text
from model import make_model
from tests.reference.tiny_bert import (
    random_features,
    tiny_params,
)


@pytest.fixture
def make_pretrained(make_classifier):
    """A function that makes what `export` takes; keyword arguments are those of ModelParams."""

    def make(**model):
        plain = make_classifier(task="pretraining", **model)
        plain.model.vocab = tuple(plain.vocab)
        return replace(plain, metrics={"eval/mlm_perplexity": 12.5})

    return make


def logits_of(task):
    features = random_features()
    features["input_mask"] = 1 - features.pop("padding_mask")
    features["masked_lm_positions"] = np.array([[1, 2], [0, 3], [0, 0]], np.int32)
    outputs = task.build_model({k: np.asarray(v) for k, v in features.items()}, EVAL)
    return {name: np.asarray(each) for name, each in outputs.items()}


def read_again(folder, **model):
    """A fresh task with the weights of an export."""
    checkpoint = open_checkpoint(folder)
    task = make_model(tiny_params(task="pretraining", seed=11, **model))
    report = load_weights(task, checkpoint)
    assert not report.fresh
    return task, report


@pytest.mark.parametrize("format", ["huggingface", "keras", "tf1"])
@pytest.mark.parametrize("disable_nsp", [False, True])
def test_every_weight_of_both_heads_comes_back_bit_by_bit(
    make_pretrained, tmp_path, format, disable_nsp
):
    network = {"encoder_nonlinearity": "gelu_tanh", "disable_nsp": disable_nsp}
    pretrained = make_pretrained(**network)
    folder, notes = export(format, pretrained, tmp_path / "out")
    task, report = read_again(folder, **network)
    assert not report.unused
    for name, variable in task.weights_by_name().items():
        assert variable.numpy().tobytes() == pretrained.weights[name].tobytes(), name
    assert len(notes) == (format == "tf1" and disable_nsp)
    assert "mlm/transform/kernel" in inspect_checkpoint(folder)


@pytest.mark.parametrize(
    ("format", "network"),
    [
        ("huggingface", {}),
        ("keras", {}),
        ("keras", {"embedding_size": 4}),
        ("keras", {"use_output_bias_in_mlm": False}),
    ],
    ids=str,
)
def test_a_table_of_its_own_for_masked_words_comes_back(make_pretrained, tmp_path, format, network):
    network |= {"share_embedding_weights": False}
    pretrained = make_pretrained(**network)
    folder, _ = export(format, pretrained, tmp_path / "out")
    task, _ = read_again(folder, **network)
    for name, variable in task.weights_by_name().items():
        assert variable.numpy().tobytes() == pretrained.weights[name].tobytes(), name
    if format == "huggingface":
        assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
        tensors = load_file(folder / "model.safetensors")
        table, bias = (tensors[f"cls.predictions.decoder.{part}"] for part in ("weight", "bias"))
        np.testing.assert_array_equal(table, pretrained.weights["mlm/output_embeddings"])
        np.testing.assert_array_equal(bias, pretrained.weights["mlm/output_bias"])


@pytest.mark.parametrize("format", ["huggingface", "tf1"])
def test_biases_that_the_heads_lack_are_zeros(make_pretrained, tmp_path, format):
    keys = ("use_ffn_bias_in_mlm", "use_output_bias_in_mlm", "use_nsp_bias")
    network = {"encoder_nonlinearity": "gelu_tanh"}
    pretrained = make_pretrained(**network, **dict.fromkeys(keys, False))
    folder, _ = export(format, pretrained, tmp_path / "out")
    task, report = read_again(folder, **network)
    assert not report.unused
    expected = logits_of(pretrained.model)
    for name, logits in logits_of(task).items():
        np.testing.assert_allclose(logits, expected[name], rtol=0, atol=1e-6)


def test_names_of_google_are_those_that_its_pre_training_writes(make_pretrained, tmp_path):
    pretrained = make_pretrained(encoder_nonlinearity="gelu_tanh")
    folder, _ = export("tf1", pretrained, tmp_path / "out")
    shapes = {tensor.name: tensor.shape for tensor in tf_bundle.list_variables(
        tf_bundle.find_prefix(folder), lambda name, names: None)}  # fmt: skip
    heads = {name: shape for name, shape in shapes.items() if name.startswith("cls/")}
    assert heads == {  # run_pretraining.py, get_masked_lm_output and get_next_sentence_output
        "cls/predictions/output_bias": (23,),
        "cls/predictions/transform/LayerNorm/beta": (6,),
        "cls/predictions/transform/LayerNorm/gamma": (6,),
        "cls/predictions/transform/dense/bias": (6,),
        "cls/predictions/transform/dense/kernel": (6, 6),
        "cls/seq_relationship/output_bias": (2,),
        "cls/seq_relationship/output_weights": (2, 6),
    }
    assert not any(name.startswith("output_") for name in shapes)
    card = (folder / "README.md").read_text("utf-8")
    assert "`run_pretraining.py`" in card and "Pre-trained BERT in the format `tf1`" in card


def test_the_card_names_documents_without_their_folders():
    sections = {"train_input": {"train_documents": ["/home/me/a.txt", "/home/me/b.txt"]}}
    assert params_text(sections) == "train_input:\n  train_documents:\n  - a.txt\n  - b.txt\n"


def test_the_card_says_what_the_network_is_and_how_to_fill_a_mask(make_pretrained, tmp_path):
    folder, _ = export("huggingface", make_pretrained(), tmp_path / "out")
    _, head, card = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    assert yaml.safe_load(head)["pipeline_tag"] == "fill-mask"
    assert "# BERT masked language model, 2 layers of 6" in card
    assert 'AutoModelForPreTraining.from_pretrained(".")' in card and "prediction_logits" in card
    assert "12.5" in card and "[MASK]" in card
    assert json.loads((folder / "config.json").read_text())["architectures"] == [
        "BertForPreTraining"
    ]
    masked = make_pretrained(disable_nsp=True)
    folder, _ = export("huggingface", masked, tmp_path / "masked")
    assert "AutoModelForMaskedLM" in (folder / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("format", "network", "words"),
    [
        ("huggingface", {"mlm_nonlinearity": "relu"}, "mlm_nonlinearity is relu, and Hugging"),
        ("tf1", {"mlm_nonlinearity": "relu"}, "mlm_nonlinearity is relu, and google-research"),
        ("huggingface", {"nsp_nonlinearity": "relu"}, "nsp_nonlinearity is relu, .* tanh alone"),
        ("tf1", {"share_embedding_weights": False}, "share_embedding_weights is false, and google"),
        ("huggingface", {"embedding_size": 4}, "embedding_size is 4"),
    ],
)  # fmt: skip
def test_heads_that_the_program_would_compute_otherwise_are_refused(format, network, words):
    params = tiny_params(task="pretraining", **network)
    with pytest.raises(UserError, match=words):
        check_format(format, params, make_model(params))


def test_formats_that_answer_for_a_row_are_refused(make_pretrained):
    pretrained = make_pretrained()
    words = "tflite, but the task is pretraining; write one of saved_model, huggingface, keras"
    with pytest.raises(UserError, match=words):
        check_format("tflite", pretrained.params, pretrained.model)
    with pytest.raises(UserError, match="quantize is int8, but the task is pretraining; leave it"):
        check_format("onnx", pretrained.params, pretrained.model, "int8")


NETWORKS_AS_GRAPHS = [
    {},
    pytest.param({"disable_nsp": True, "mlm_nonlinearity": "relu"}, marks=pytest.mark.slow),
    {"share_embedding_weights": False, "use_output_bias_in_mlm": False},
    pytest.param({"embedding_size": 4, "disable_nsp": True}, marks=pytest.mark.slow),
    pytest.param(
        {"embedding_size": 4, "disable_nsp": True, "backbone": "albert"}, marks=pytest.mark.slow
    ),
]


def of_every_token(task, num_tokens=7):
    """The documented features, and {"mlm_logits": [B, T, V], "nsp_logits": [B, 2]} of them."""
    features = random_features(3, num_tokens)
    features["input_mask"] = 1 - features.pop("padding_mask")
    positions = np.tile(np.arange(num_tokens, dtype=np.int32), (3, 1))
    outputs = task.build_model(features | {"masked_lm_positions": positions}, EVAL)
    return features, {name: np.asarray(each) for name, each in outputs.items()}


@pytest.mark.parametrize("network", NETWORKS_AS_GRAPHS, ids=str)
def test_onnx_runtime_computes_the_logits_of_every_token(make_pretrained, tmp_path, network):
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    pretrained = make_pretrained(**network)
    folder, _ = export("onnx", pretrained, tmp_path / "out")
    features, expected = of_every_token(pretrained.model)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    names = [each.name for each in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, features), strict=True))
    # Float32 against float32 by another program; values up to 20.
    np.testing.assert_allclose(outputs["logits"], expected["mlm_logits"], rtol=0, atol=2e-5)
    assert ("nsp_logits" in outputs) == ("disable_nsp" not in network)
    if "nsp_logits" in outputs:
        np.testing.assert_allclose(outputs["nsp_logits"], expected["nsp_logits"], atol=1e-5)


@pytest.mark.parametrize("network", [*NETWORKS_AS_GRAPHS[:2], {"vocab_size": 61}], ids=str)
def test_a_saved_model_answers_with_the_likeliest_words(make_pretrained, tmp_path, network):
    """Of those that the vocabulary has, where the table has more rows."""
    pretrained = make_pretrained(**network)
    folder, _ = export("saved_model", pretrained, tmp_path / "out")
    features, expected = of_every_token(pretrained.model)
    signature = tf.saved_model.load(str(folder / "1")).signatures["token_ids"]
    answers = signature(**{name: tf.constant(each) for name, each in features.items()})
    best = np.argsort(-expected["mlm_logits"][..., : len(pretrained.vocab)], axis=-1)[..., :5]
    words = np.vectorize(pretrained.vocab.__getitem__)(best)
    assert np.char.decode(answers["tokens"].numpy().astype(bytes)).tolist() == words.tolist()
    all_shares = tf.nn.softmax(expected["mlm_logits"]).numpy()
    shares = np.take_along_axis(all_shares, best, axis=-1)
    np.testing.assert_allclose(answers["probabilities"].numpy(), shares, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(answers["input_ids"].numpy(), features["input_ids"])
    if "nsp_logits" in expected:
        is_next = tf.nn.softmax(expected["nsp_logits"])[:, 0]
        np.testing.assert_allclose(answers["is_next"].numpy(), is_next, rtol=0, atol=1e-5)


def test_the_lines_of_the_onnx_card_fill_a_mask(make_pretrained, tmp_path, run_alone, code_of):
    pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    pretrained = make_pretrained(disable_nsp=True)
    folder, _ = export("onnx", pretrained, tmp_path / "out")
    ids = [2, 1, 1, 9, 4, 15, 3]  # [CLS] the film was [MASK] . [SEP], of which two are unknown
    features = {name: np.zeros((1, 7), np.int32) for name in ("input_mask", "segment_ids")}
    features["input_ids"] = np.array([ids], np.int32)
    features["masked_lm_positions"] = np.array([[4]], np.int32)
    logits = np.asarray(pretrained.model.build_model(features, EVAL)["mlm_logits"])[0, 0]
    words = [pretrained.vocab[number] for number in np.argsort(-logits)[:5]]
    assert run_alone(code_of(folder, "python")[0], folder).strip() == str(words)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "network",
    [{}, {"disable_nsp": True}, {"share_embedding_weights": False}, {"encoder_nonlinearity": "relu",
     "mlm_nonlinearity": "relu"}],
    ids=str,
)  # fmt: skip
def test_transformers_computes_the_logits_of_both_heads(make_pretrained, tmp_path, network):
    library = pytest.importorskip(
        "transformers", reason="pip install transformers torch brings what this needs"
    )
    torch = pytest.importorskip("torch", reason="pip install torch brings what this needs")
    pretrained = make_pretrained(**network)
    folder, _ = export("huggingface", pretrained, tmp_path / "out")
    kind = "MaskedLM" if network.get("disable_nsp") else "PreTraining"
    theirs = getattr(library, f"AutoModelFor{kind}").from_pretrained(folder).eval()
    features = random_features()
    with torch.no_grad():
        outputs = theirs(
            input_ids=torch.tensor(features["input_ids"]),
            attention_mask=torch.tensor(features["padding_mask"]),
            token_type_ids=torch.tensor(features["segment_ids"]),
        )
    expected = logits_of(pretrained.model)
    logits = getattr(outputs, "prediction_logits", outputs.get("logits"))
    positions = np.array([[1, 2], [0, 3], [0, 0]])[:, :, None]
    actual = np.take_along_axis(logits.numpy(), positions, axis=1)
    real = features["padding_mask"].sum(axis=1) > 3  # where the positions are tokens
    np.testing.assert_allclose(actual[real], expected["mlm_logits"][real], rtol=0, atol=2e-5)
    if kind == "PreTraining":
        np.testing.assert_allclose(
            outputs.seq_relationship_logits.numpy(), expected["nsp_logits"], rtol=0, atol=1e-5
        )
