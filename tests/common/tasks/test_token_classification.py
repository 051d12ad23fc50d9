# SPDX-License-Identifier: Apache-2.0
"""Token classification from words to labels, against transformers and by hand."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from common.BaseModel import PREDICT, TRAIN
from common.checkpoints.load import load_weights, open_checkpoint
from common.errors import UserError
from common.export.export import export
from common.losses import WordLoss
from common.metrics.tagging import TaggingMetrics, tag_set, word_logits
from common.tasks.targets import LabelColumn
from common.tasks.token_classification import TagTargets
from input.batches import make_batches, make_packed_batches
from input.features import Layout
from input.packing import pack_every_row
from input.token_cache import Tokens, tokenize_words
from input.tokenizers.wordpiece import WordPieceTokenizer
from input.word_rows import Words, rows_of_words
from model import make_model, model_fn
from tests.reference.one_step import check_one_step
from tests.reference.tiny_bert import VOCAB_SIZE, random_features, randomize, tiny_params

NAMES = ("O", "B-x", "I-x")


def tagging_params(**network):
    return tiny_params(num_classes=3, task="token_classification", **network)


@pytest.fixture(scope="module")
def model():
    model = make_model(tagging_params(), NAMES)
    randomize(model)
    return model


def documented_features(**sizes):
    features = random_features(**sizes)
    features["input_mask"] = 1 - features.pop("padding_mask")
    return features


# ---- A checkpoint of transformers ----------------------------------------------------------------


@pytest.fixture(scope="module")
def fixture(shared_dir):
    return shared_dir / "fixtures" / "hf_bert_token_classification"


@pytest.fixture(scope="module")
def loaded(fixture):
    """The Checkpoint of transformers, its network, and the reference."""
    checkpoint = open_checkpoint(fixture)
    sizes = {
        key: checkpoint.config[key]
        for key in ("hidden_size", "num_hidden_layers", "num_heads", "filter_size", "vocab_size")
    }
    sizes["max_position_embeddings"] = 64
    names = checkpoint.config["label_names"]
    params = tiny_params(num_classes=len(names), task="token_classification", **sizes)
    model = make_model(params, names)
    assert not load_weights(model, checkpoint).fresh
    reference = json.loads((fixture / "reference.json").read_text("utf-8"))
    return checkpoint, model, reference


def test_logits_and_loss_are_those_of_transformers(loaded):
    checkpoint, model, reference = loaded
    assert checkpoint.config["task"] == "token_classification"
    assert list(checkpoint.config["label_names"]) == list(reference["id2label"].values())
    mask = np.array(reference["input_mask"], np.int32)
    features = {
        "input_ids": np.array(reference["input_ids"], np.int32),
        "input_mask": 1 - mask,
        "segment_ids": np.array(reference["segment_ids"], np.int32),
    }
    labels = np.maximum(np.array(reference["labels"], np.int32), -1)
    outputs = model.build_model(features, PREDICT)
    theirs = reference["outputs"]
    for row, expected in enumerate(theirs["logits"]):
        ours = np.asarray(outputs["logits"])[row, : len(expected)]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
    loss = model.build_total_loss(outputs, {"labels": labels})
    assert float(loss) == pytest.approx(theirs["loss"], abs=1e-6)


@pytest.mark.parametrize("is_packed", [False, True])
def test_words_are_tokenised_windowed_and_answered_as_by_transformers(fixture, loaded, is_packed):
    _, model, reference = loaded
    tokenizer = WordPieceTokenizer.from_vocab_file(fixture / "vocab.txt", do_lower=False)
    names = list(reference["id2label"].values())
    labels = [names.index(label) for row in reference["word_labels"] for label in row]
    tokens = tokenize_words(reference["words"], np.array(labels), tokenizer)
    rows, word_rows = rows_of_words(tokens, 62, 31, num_before=1)
    for n, row in enumerate(reference["input_ids"]):
        ids = [101, *rows.ids[rows.offsets[n] : rows.offsets[n + 1]].tolist(), 102]
        assert ids == row[: len(ids)]
        assert not any(row[len(ids) :])
    lengths = np.diff(rows.offsets) + 2
    layout = Layout()
    if is_packed:
        packed = pack_every_row(lengths, 2)
        batches = make_packed_batches(rows, tokenizer, *packed, 64, True, layout)
    else:
        plan = np.array([[0, 1], [2, -1]], np.int32), np.array([35, 35], np.int32)
        batches = make_batches(rows, tokenizer, *plan, 64, True, layout)
    metrics = TaggingMetrics(names)
    metrics.begin(SimpleNamespace(word_rows=word_rows))
    for (features, targets, _), numbers in zip(batches, batches.rows, strict=True):
        outputs = model.build_model(features, PREDICT)
        assert outputs["logits"].shape[:2] == targets["labels"].shape
        for row, number in enumerate(numbers.tolist()):
            if number >= 0:
                expected = np.maximum(reference["labels"][number], -1)
                ours = targets["labels"][row].numpy()[: lengths[number]]
                assert ours.tolist() == expected[: lengths[number]].tolist()
        metrics.update({"logits": outputs["logits"].numpy()}, {}, numbers)
    flat = []
    for words, of_tokens, logits in zip(
        reference["words"],
        reference["word_of_each_token"],
        reference["outputs"]["logits"],
        strict=True,
    ):
        for word in range(len(words)):
            flat.append(logits[of_tokens.index(word)] if word in of_tokens else None)
    assert sum(each is None for each in flat) == 1  # U+200B has no token
    assert len(metrics) == 3
    for ours, theirs in zip(metrics.outputs["logits"], flat, strict=True):
        if theirs is None:
            assert names[ours.argmax()] == "O"
        else:
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    figures = metrics.compute()
    assert figures["loss"] == pytest.approx(reference["outputs"]["loss"], abs=1e-5)


# ---- Loss ----------------------------------------------------------------------------------------

LOGITS = np.array([[[1.0, 2, 0], [0, 0, 3], [9, 9, 9]], [[2, 1, 0], [5, 5, 5], [0, 1, 0]]])
WORD_LABELS = np.array([[1, 0, -1], [0, -1, 2]])


def losses_by_hand():
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(axis=-1, keepdims=True))
    return [-log_p[0, 0, 1], -log_p[0, 1, 0], -log_p[1, 0, 0], -log_p[1, 2, 2]]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, lambda losses: np.mean(losses)),
        # The original's: the sum, times the weight, over two rows.
        ({"loss_weight": 0.3}, lambda losses: sum(losses) * 0.3 / 2),
        (
            {"class_weights": (2.0, 1.0, 0.5)},
            lambda each: np.mean(each * np.array([1, 2, 2, 0.5])),
        ),
    ],
)
def test_the_loss_is_a_mean_over_labelled_tokens(settings, expected):
    loss = WordLoss(3, **settings)(tf.constant(LOGITS, tf.float32), tf.constant(WORD_LABELS))
    assert float(loss) == pytest.approx(expected(losses_by_hand()), rel=1e-6)


def test_a_batch_without_labels_has_loss_zero_and_no_gradient(model):
    features = documented_features(batch=2, tokens=5)
    labels = tf.fill([2, 5], -1)
    with tf.GradientTape() as tape:
        spec = model_fn(features, {"labels": labels}, TRAIN, tagging_params(), model)
    assert float(spec.loss) == 0.0
    gradient = tape.gradient(spec.loss, model.classifier.kernel.value)
    assert not np.any(gradient)


def test_every_weight_is_trained_and_balanced_weights_count_words(model):
    features = documented_features(batch=2, tokens=5)
    labels = np.array([[1, -1, 0, 2, -1]] * 2)
    spec = model_fn(features, {"labels": labels}, TRAIN, tagging_params(), model)
    assert len(spec.trainable_variables) == len(model.weights)
    balanced = make_model(tagging_params(class_weights="auto"), NAMES)
    # 4 words, of which 2 are O, one B-x and one I-x: 4 / (3 * n).
    (note,) = balanced.prepare_training({"labels": np.array([0, -1, 0, 1, 2])})
    assert note == "Class weights: 0.6667, 1.333, 1.333"


def test_one_adamw_step_ends_with_the_weights_of_transformers_and_torch(tmp_path):
    check_one_step(tagging_params(encoder_output_dropout_rate=0.0), tmp_path / "checkpoint")


# ---- Words of several tokens ---------------------------------------------------------------------


def words_of(num_pieces, room=99):
    counts = np.array(num_pieces, np.int32)
    words = Words(np.array([0, len(counts)]), counts, np.zeros(len(counts), np.int32))
    offsets = np.array([0, sum(num_pieces)])
    tokens = Tokens(np.arange(sum(num_pieces), dtype=np.int32), offsets, {}, 1, words=words)
    return rows_of_words(tokens, room, max(room // 2, 1), 1)[1]


def test_aggregation_by_hand():
    # A word of three tokens, one without any, one of one token; labels O, B-x, I-x.
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]])
    logits = np.log(probabilities).astype(np.float32)
    rows = words_of([3, 0, 1])
    for aggregation, expected in {
        "first": [0.5, 0.3, 0.2],
        "average": [0.7 / 3, 1.2 / 3, 1.1 / 3],
        "max": [0.1, 0.8, 0.1],  # of two equally sure tokens the first
    }.items():
        words = np.exp(word_logits(logits, rows, aggregation, NAMES))
        np.testing.assert_allclose(words[0], expected, rtol=1e-6)
        np.testing.assert_allclose(words[1], [1, 0, 0], atol=1e-6)
        np.testing.assert_allclose(words[2], probabilities[3], rtol=1e-6)


def test_labels_of_no_scheme_are_scored_by_words_alone():
    assert tag_set(("NN", "VB")) is None
    assert tag_set(("O", "B", "I")).type_names == ("",)
    assert tag_set(("O", "S-x", "B-x", "E-x")).scheme == "IOBES"
    metrics = TaggingMetrics(("NN", "VB"))
    assert (metrics.main, metrics.names) == ("eval/word_accuracy", ("loss", "eval/word_accuracy"))


def test_label_names_are_those_of_the_words_of_the_training_file():
    column = LabelColumn("x.conll", "label", "text", read=lambda: ["O", "B-x", "O", "I-x"])
    targets = TagTargets().named(column)
    assert targets.label_names == ("B-x", "I-x", "O")
    assert targets.describe({"labels": np.array([2, 2, 0, -1])}) == "words: B-x 1, I-x 0, O 2"


def test_packed_logits_are_those_of_padded_rows(model):
    generator = np.random.default_rng(1)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{n}" for n in range(VOCAB_SIZE - 4))]
    tokenizer = WordPieceTokenizer(vocab)
    words = [[vocab[i] for i in generator.integers(4, VOCAB_SIZE, n)] for n in (5, 1, 3, 4)]
    tokens = tokenize_words(words, np.zeros(13, np.int32), tokenizer)
    rows, _ = rows_of_words(tokens, 5, 2, 1)
    packed = make_packed_batches(
        rows, tokenizer, *pack_every_row(np.diff(rows.offsets) + 2, 4), 7, True, Layout()
    )
    plan = np.arange(4, dtype=np.int32)[None], np.array([7], np.int32)
    padded = make_batches(rows, tokenizer, *plan, 7, True, Layout())
    (features, targets, _), ((of_padded, theirs, _),) = next(iter(packed)), list(padded)
    logits = np.asarray(model.build_model(features, PREDICT)["logits"])
    expected = np.asarray(model.build_model(of_padded, PREDICT)["logits"])
    for place, row in enumerate(packed.rows[0].tolist()):
        length = len(words[row]) + 2
        np.testing.assert_allclose(
            logits[place, :length], expected[row, :length], rtol=0, atol=2e-6
        )
        ours = targets["labels"][place].numpy()
        assert ours[:length].tolist() == theirs["labels"][row].numpy()[:length].tolist()
        assert (ours[length:] == -1).all()


# ---- Exports -------------------------------------------------------------------------------------


@pytest.fixture
def classifier(make_classifier, model):
    """A Classifier of the network for words."""
    return replace(make_classifier(), model=model, params=tagging_params())


@pytest.mark.parametrize("format", ["huggingface", "keras"])
def test_an_export_is_read_back_with_its_task_its_labels_and_bits(format, classifier, tmp_path):
    folder, _ = export(format, classifier, tmp_path / "out")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config["task"] == "token_classification"
    assert tuple(checkpoint.config["label_names"]) == NAMES
    assert not any(name.startswith("pooler/") for name in checkpoint.weights)
    other = make_model(tagging_params(), NAMES)
    assert not load_weights(other, checkpoint).fresh
    weights = classifier.model.weights_by_name()
    for name, weight in other.weights_by_name().items():
        np.testing.assert_array_equal(weight.numpy(), weights[name].numpy())


def test_a_format_of_programs_that_have_no_tagger_is_refused(classifier, tmp_path):
    with pytest.raises(UserError, match="task is token_classification; write one of saved_model"):
        export("tf1", classifier, tmp_path / "out")


def test_onnx_runtime_computes_the_networks_logits(classifier, tmp_path):
    pytest.importorskip("onnx", reason="pip install onnx brings what this needs")
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    folder, _ = export("onnx", classifier, tmp_path / "out")
    features = documented_features(batch=3, tokens=7)
    expected = np.asarray(classifier.model.build_model(dict(features), PREDICT)["logits"])
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    features = {name: each.astype(np.int32) for name, each in features.items()}
    logits, probabilities = session.run(["logits", "probabilities"], features)
    is_token = features["input_mask"] == 0
    np.testing.assert_allclose(logits[is_token], expected[is_token], rtol=0, atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1.0, atol=1e-5)


def test_a_saved_model_gives_a_label_for_every_token_of_a_text(classifier, tmp_path):
    folder, _ = export("saved_model", classifier, tmp_path / "out")
    served = tf.saved_model.load(str(folder / "1")).signatures["serving_default"]
    texts = tf.constant(["a text", "b"])
    result = {name: tensor.numpy() for name, tensor in served(text=texts).items()}
    features = {n: each.numpy() for n, each in classifier.text_features(texts[:, None]).items()}
    expected = np.asarray(classifier.model.build_model(dict(features), PREDICT)["logits"])
    np.testing.assert_allclose(result["logits"], expected, rtol=0, atol=1e-5)
    assert result["input_ids"].tolist() == features["input_ids"].tolist()
    best = [[NAMES[label] for label in row] for row in expected.argmax(axis=-1)]
    assert [[label.decode() for label in row] for row in result["labels"]] == best
