# SPDX-License-Identifier: Apache-2.0
"""The original's own files are read, completed and trained with as they stand."""

import os

import numpy as np
import pytest
import tensorflow as tf

from common.errors import UserError
from common.optimizers.factory import make_optimizer
from common.params import ConstantSchedule, LinearSchedule
from common.training.train_step import make_train_step
from model import make_model, model_fn
from tests.reference.original_configs import FINE_TUNING, NETWORKS, write_of_words, write_original
from tests.reference.toy_rows import toy_tokens, toy_train_batches
from utils import get_params

# The geometry alone is made small, by the command line.
TINY = {
    "model.hidden_size": 6,
    "model.num_hidden_layers": 1,
    "model.num_heads": 2,
    "model.filter_size": 13,
    "model.vocab_size": 23,
}


@pytest.mark.parametrize("name", FINE_TUNING)
def test_an_original_file_is_read_without_a_warning_and_means_what_it_says(name, tmp_path):
    warnings = []
    params = get_params(write_original(tmp_path, name), on_warning=warnings.append)
    assert warnings == []
    processor, length, steps, every, peak, classes, _ = FINE_TUNING[name]
    model = params.complete(None, {"num_cls_classes": classes, "vocab_size": 30522}).model
    hidden_size, layers, heads, filter_size = NETWORKS[name.split("_")[0]]
    assert (model.hidden_size, model.num_hidden_layers) == (hidden_size, layers)
    assert (model.num_heads, model.filter_size) == (heads, filter_size)
    assert (model.vocab_size, model.max_position_embeddings) == (30522, 512)
    assert model.num_cls_classes == classes  # not the pre-training's two
    assert (model.encoder_nonlinearity, model.layer_norm_epsilon) == ("gelu_tanh", 1e-5)
    rates = model.dropout_rate, model.attention_dropout_rate, model.cls_dropout_rate
    assert rates == (0.1, 0.1, 0.1)
    assert model.initializer.stddev == 0.02
    assert model.dtype_policy == "mixed_float16"

    for section in (params.train_input, params.eval_input, params.predict_input):
        assert (section.data_processor, section.max_sequence_length) == (processor, length)
    assert (params.train_input.batch_size, params.predict_input.batch_size) == (12, 1)

    optimizer = params.optimizer
    assert (optimizer.optimizer_type, optimizer.weight_decay_rate) == ("adamw", 0.01)
    assert (optimizer.epsilon, optimizer.max_gradient_norm) == (1e-6, 1.0)
    assert optimizer.loss_scaling_factor == "dynamic"
    warm_up, constant = optimizer.learning_rate
    peak = float(peak)
    assert warm_up == LinearSchedule(
        scheduler="Linear", initial_learning_rate=0.0, end_learning_rate=peak, steps=every
    )
    assert constant == ConstantSchedule(scheduler="Constant", learning_rate=peak)

    run = params.runconfig
    assert (run.max_steps, run.save_checkpoints_steps, run.keep_checkpoint_max) == (steps, every, 2)
    assert run.eval_steps is None  # 0: the whole split


@pytest.mark.parametrize("size", NETWORKS)
def test_the_originals_files_of_words_are_read_and_mean_what_they_say(size, tmp_path):
    warnings = []
    spans = get_params(write_of_words(tmp_path, "squad", size), on_warning=warnings.append)
    tags = get_params(write_of_words(tmp_path, "bc5cdr", size), on_warning=warnings.append)
    assert warnings == []
    assert (spans.task, tags.task) == ("question_answering", "token_classification")
    assert spans.train_input.train_file == "./input/data/train.tf_record"
    assert spans.predict_input.eval_file == "./input/data/predict.tf_record"
    for section, split in zip(tags.inputs.values(), ("train", "dev", "test"), strict=True):
        assert (section.data_dir, section.data_processor) == (
            f"./bc5cdr-chem/{split}",
            "NerDataProcessor",
        )
    assert tags.model.loss_weight == pytest.approx(1 / 23.137, rel=1e-4)
    for params in (spans, tags):
        assert params.model.num_hidden_layers == NETWORKS[size][1]


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("num_classes: 7", "model.num_classes: unknown key"),
        ("max_predictions_per_seq: 20", "max_predictions_per_seq: is 20, which is for task: pretr"),
    ],
)
def test_keys_of_the_originals_tagger_that_say_nothing_are_to_be_left_out(key, told, tmp_path):
    path = write_of_words(tmp_path, "bc5cdr", "base")
    before = "    mixed_precision: True\n" if "classes" in key else "    batch_size: 8\n"
    path.write_text(path.read_text().replace(before, f"{before}    {key}\n", 1))
    with pytest.raises(UserError, match=told):
        get_params(path)


@pytest.mark.parametrize(
    "name",
    [
        "base_sst2",
        "large_mnli",
        pytest.param("base_mnli", marks=pytest.mark.slow),
        pytest.param("large_sst2", marks=pytest.mark.slow),
    ],
)
def test_an_original_file_trains_a_step(name, tmp_path):
    batches = list(toy_train_batches(toy_tokens(12), 12, 0, 1))
    params = get_params(write_original(tmp_path, name), TINY)
    params = params.complete(None, {"num_cls_classes": FINE_TUNING[name][5], "vocab_size": 23})
    model = make_model(params)
    weights = {name: weight.value for name, weight in model.weights_by_name().items()}
    before = {name: weight.numpy() for name, weight in weights.items()}
    optimizer = make_optimizer(weights, params.optimizer, num_layers=1)
    optimizer.step.assign(1)  # the rate of the very first step is 0
    step = make_train_step(model_fn, params, model, optimizer)
    tf.config.run_functions_eagerly(True)  # the updates, whose compiling takes most of the time
    try:
        figures = step(*batches[0])
    finally:
        tf.config.run_functions_eagerly(False)
    assert np.isfinite(figures["train/cost_cls"])
    assert int(optimizer.step) == 2
    peak = float(FINE_TUNING[name][4])
    # float32 takes the rate as the difference of two peaks, of 1 part in 2000 or 10,000.
    np.testing.assert_allclose(figures["train/lr"], peak / FINE_TUNING[name][3], rtol=1e-3)
    moved = [name for name, weight in weights.items() if np.any(weight.numpy() != before[name])]
    assert {"classifier/kernel", "pooler/kernel", "embeddings/word_embeddings"} <= set(moved)


def test_the_pretraining_file_is_found_beside_the_file_too(tmp_path):
    path = write_original(tmp_path, "base_sst2")
    beside = path.parent / "configs"
    beside.mkdir()
    (path.parent / "params_bert_base_msl128.yaml").rename(beside / "params_bert_base_msl128.yaml")
    assert get_params(path).model.num_hidden_layers == 12


def test_a_pretraining_file_that_is_missing_is_told_with_its_line(tmp_path):
    path = write_original(tmp_path, "base_sst2")
    (path.parent / "params_bert_base_msl128.yaml").unlink()
    lines = path.read_text().splitlines()
    line = 1 + lines.index('    pretrain_params_path: "configs/params_bert_base_msl128.yaml"')
    with pytest.raises(UserError) as caught:
        get_params(path)
    first, second = str(caught.value).splitlines()
    assert first == f"{path}: 1 key to correct"
    assert second.startswith(f"  line {line}: model.pretrain_params_path: ")
    assert "no such file" in second


def test_a_pretraining_file_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path):
    path = write_original(tmp_path, "base_sst2")
    (path.parent / "params_bert_base_msl128.yaml").unlink()
    os.mkfifo(path.parent / "params_bert_base_msl128.yaml")
    with pytest.raises(UserError, match="a device or a pipe"):
        get_params(path)


def test_a_fault_of_the_pretraining_file_names_that_file(tmp_path):
    path = write_original(tmp_path, "base_sst2")
    other = path.parent / "params_bert_base_msl128.yaml"
    other.write_text(other.read_text().replace("num_heads: 12", "num_heads: 5"))
    with pytest.raises(UserError) as caught:
        get_params(path)
    told = str(caught.value).splitlines()[1]
    assert f"{other.name}: line 21: model.num_heads: 5 does not divide hidden_size 768" in told


def test_keys_of_the_fine_tuning_hold_over_those_of_the_pretraining(tmp_path):
    path = write_original(tmp_path, "base_sst2")
    text = path.read_text().replace("cls_dropout_rate: 0.1", "dropout_rate: 0.25")
    path.write_text(text)
    params = get_params(path)
    assert (params.model.dropout_rate, params.model.attention_dropout_rate) == (0.25, 0.1)
