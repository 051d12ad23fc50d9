# SPDX-License-Identifier: Apache-2.0
"""What `utils` reads, and what it refuses with which words."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.params import DataProcessor, Params, no_effect
from tests.reference.small_params import VALID, plain_values
from utils import get_params, parse_override, place_of, placed, save_params

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def write(tmp_path):
    """Writes text to a file and returns its path."""

    def write(text, name="x.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture
def refusal(write):
    """The lines of the refusal of a file: the head without the path, then one for each fault."""

    def refusal(text, overrides=None):
        path = write(text)
        with pytest.raises(UserError) as caught:
            get_params(path, overrides)
        head, *faults = str(caught.value).removeprefix(f"{path}: ").splitlines()
        return [head, *(fault.removeprefix("  ") for fault in faults)]

    return refusal


def change(old, new):
    assert VALID.count(old) == 1
    return VALID.replace(old, new)


# Of pre-training, in the same lines.
PRETRAINED = VALID.replace("Sst2DataProcessor", "DocumentDataProcessor").replace(
    "data_dir: data", "train_documents: data\n  eval_documents: data"
)


# ---- Reading -------------------------------------------------------------------------------------


def test_a_file_becomes_params(write):
    params = get_params(write(VALID))
    assert isinstance(params, Params)
    assert params.train_input.max_sequence_length == 13
    assert params.optimizer.learning_rate == 1e-4  # PyYAML gives the text "1e-4"
    assert params.runconfig.max_steps == 11


def test_aliases_and_merge_keys_are_read_as_yaml_defines_them(write):
    text = VALID.replace("train_input:", "train_input: &train") + (
        "eval_input:\n  <<: *train\n  batch_size: 5\n"
    )
    params = get_params(write(text))
    assert params.eval_input.batch_size == 5
    assert params.eval_input.max_sequence_length == 13
    assert params.train_input.batch_size == 7


def test_a_byte_order_mark_is_passed_over(write):
    assert get_params(write(b"\xef\xbb\xbf" + VALID.encode())).runconfig.max_steps == 11


# ---- Files that cannot be read -------------------------------------------------------------------


def test_a_missing_file_names_the_one_that_was_meant(write, tmp_path):
    write(VALID, "params_bert_tiny.yaml")
    with pytest.raises(UserError, match=r"no such file; there is .*params_bert_tiny\.yaml"):
        get_params(tmp_path / "params_bert_tin.yaml")
    with pytest.raises(UserError, match=r"the folder .*nowhere is not there either"):
        get_params(tmp_path / "nowhere" / "x.yaml")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="a folder; give a YAML file"):
        get_params(tmp_path)


@pytest.mark.parametrize("given", ["~/weights", "weights"])
def test_a_message_begins_with_the_line_that_gives_a_value(write, given):
    """Where no flag has given another, and the file is still there."""
    path = write(change("max_steps: 11", f"max_steps: 11\n  checkpoint_path: {given}"))
    line = path.read_text().splitlines().index(f"  checkpoint_path: {given}") + 1
    is_taken = {os.path.expanduser(given): f"{path}: line {line}: ", "other": ""}
    for value, place in is_taken.items():
        with pytest.raises(UserError) as raised, placed(path, "runconfig.checkpoint_path", value):
            raise UserError("no such")
        assert str(raised.value) == f"{place}no such"
    assert place_of(path, "runconfig.num_epochs") == place_of(path, "eval_input.data_dir") == ""
    path.unlink()
    assert place_of(path, "runconfig.checkpoint_path") == ""


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read_is_refused(write):
    path = write(VALID)
    path.chmod(0)
    with pytest.raises(UserError, match="cannot be read: Permission denied"):
        get_params(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"\n- a\n", "line 2: the file holds a list"),
        (b"model\n", "line 1: the file holds 'model'"),
        (b"model:\n\ta: 1\n", "line 2: a tab stands where YAML wants spaces"),
        (b"model:\n  a: \xff\n", "line 2: not UTF-8 text"),
        (b"a: b: c\n", "line 1: a colon where no value may begin"),
        (b"a: 1\n---\nb: 2\n", "line 2: a second document begins"),
        (b"model: {a: [1, 2\n", "no valid YAML"),
        (b"model:\n  a: *b\n", "line 2: found undefined alias 'b'"),
        (b"a: \x00\n", "the character #x0000 is not allowed"),
        (b"a:\n  1: 2\n", "line 2: 1 stands as a key"),
        (b"? [a]\n: 2\n", "line 1: a list or mapping stands as a key"),
        (b"a: !!python/object/apply:os.system [ls]\n", "line 1: the tag .*os.system is not acc"),
        (b"a: !!python/name:os.system x\n", "line 1: the tag .*os.system is not accepted"),
        (b"a: &a [*a]\n", "line 1: a value that contains itself"),
        (b"a: &a {b: *a}\n", "line 1: a value that contains itself"),
        (b"a: {<<: 3}\n", "line 1: `<<` needs a mapping"),
        (b"a: 2020-99-99\n", "line 1: '2020-99-99' cannot be read"),
        (b'a: "\\ud800"\n', "line 1: .* cannot be read"),
        (b"[" * 5000, "nested too deep"),
        (b"a: !!bool 3\n", "line 1: '3' cannot be read as a value"),
        (b"a: !!float ''\n", "line 1: '' cannot be read as a value"),
        (b"a: !!timestamp x\n", "line 1: 'x' cannot be read as a value"),
        (b"a: !!binary eA==\n", "line 1: the tag .*binary is not accepted"),
        (b"a: 0x" + b"f" * 5000, "line 1: '0xfff.* cannot be read as a value"),
        (b"[" * 5000 + b"]" * 5000, "nested too deep"),
        (b"a: 1\n" * 30_000, "larger than 100,000 bytes"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_one_sentence(write, text, words):
    path = write(text)
    with pytest.raises(UserError, match=words) as caught:
        get_params(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def bomb(depth, width):
    """YAML in which level n repeats level n - 1 `width` times."""
    levels = ["a0: &a0 [lol]"]
    for n in range(1, depth):
        levels.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]")
    return "\n".join(levels)


def merge_bomb(depth, width):
    levels = ["a0: &a0 {x: 1}"]
    for n in range(1, depth):
        levels.append(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * width)}]}}")
    return "\n".join(levels)


@pytest.mark.parametrize(
    "text",
    [
        bomb(10, 9),  # 9 ** 9 words out of 80 aliases
        bomb(49, 2),  # 2 ** 48 out of 96
        merge_bomb(49, 2),
        "a: &a x\nb: [" + ", ".join(["*a"] * 101) + "]",
        f"a: &a [{', '.join(['word'] * 9_000)}]\nb: [{', '.join(['*a'] * 99)}]",
    ],
    ids=["wide", "deep", "merged", "many", "long"],
)
def test_aliases_that_blow_a_file_up_are_refused(write, text):
    with pytest.raises(UserError, match=r"aliases \(\*name\)"):
        get_params(write(text))


# ---- Faults of the values ------------------------------------------------------------------------


def test_a_value_of_none_of_several_kinds_is_one_fault(refusal):
    text = change("runconfig:\n", "runconfig:\n  eval_every_steps: epochs\n  recover_from_nan: 7\n")
    assert refusal(text)[0] == "2 keys to correct"
    assert [fault.partition(": ")[2] for fault in refusal(text)[1:]] == [
        "runconfig.eval_every_steps: is 'epochs'; a whole number is wanted; or epoch",
        "runconfig.recover_from_nan: is 7; available: false, true; or a number below 1 is wanted",
    ]


def test_all_faults_are_listed_together_in_the_order_of_the_file(refusal):
    text = """\
train_input:
  data_processor: Sst2DataProcessor
  data_dir: data
  max_sequence_length: 13
  batch_size: yes
optimizer:
  learning_rte: 1e-4
model:
  hiden_size: 12
  hidden_size: 12
  hidden_size: 13
  num_heads: 5
  dropout_rate: 1.5
"""
    assert refusal(text) == [
        "6 keys to correct",
        "line 5: train_input.batch_size: is true; a whole number is wanted",
        "line 7: optimizer.learning_rte: unknown key; did you mean learning_rate?",
        "line 9: model.hiden_size: unknown key; did you mean hidden_size?",
        "line 11: model.hidden_size: given twice, first on line 10; keep one of the two",
        "line 12: model.num_heads: 5 does not divide hidden_size 12; choose a divisor such as 4",
        "line 13: model.dropout_rate: is 1.5; a number below 1 is wanted",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        # Unknown keys
        (
            change("max_steps", "max_step"),
            "line 12: runconfig.max_step: unknown key; did you mean max_steps?",
        ),
        (
            change("num_heads", "num-heads"),
            "line 8: model.num-heads: unknown key; did you mean num_heads?",
        ),
        (
            change("  num_heads: 3", "  max_steps: 3"),
            "line 8: model.max_steps: unknown key; it belongs to runconfig",
        ),
        (
            change("  num_heads: 3", "  shuffle: true"),
            "line 8: model.shuffle: unknown key; it belongs to "
            "train_input, eval_input, predict_input",
        ),
        (VALID + "max_steps: 3\n", "line 13: max_steps: unknown key; it belongs to runconfig"),
        (VALID + "modle: 3\n", "line 13: modle: unknown key; did you mean model?"),
        (VALID + "modle:\n", "line 13: modle: unknown key; did you mean model?"),
        (
            VALID + "zzz: 3\n",
            "line 13: zzz: unknown key; accepted: train_input, eval_input, predict_input, model, "
            "optimizer, distillation, runconfig, csconfig",
        ),
        (
            VALID + "max_stepz: 3\n",
            "line 13: max_stepz: unknown key; did you mean max_steps of runconfig?",
        ),
        # Names in other programs
        (VALID + "seed: 3\n", "line 13: seed: unknown key; write runconfig.tf_random_seed"),
        (
            VALID.replace("  max_steps: 11", "  epochs: 3"),
            "line 12: runconfig.epochs: unknown key; write runconfig.num_epochs",
        ),
        (
            change("num_heads: 3", "num_epochs: 3"),
            "line 8: model.num_epochs: unknown key; it belongs to runconfig",
        ),
        (
            change("num_heads: 3", "warmup-steps: 100"),
            "line 8: model.warmup-steps: unknown key; write optimizer.warmup_ratio, a share of all "
            "steps",
        ),
        (
            change("num_heads: 3", "warmup_ratio: 0.1"),
            "line 8: model.warmup_ratio: unknown key; it belongs to optimizer",
        ),
        (
            change("  learning_rate: 1e-4", "  lr_scheduler_type: linear"),
            "line 10: optimizer.lr_scheduler_type: unknown key; write optimizer.decay: linear, "
            "cosine or constant",
        ),
        (
            VALID + '"\\e[1m": 3\n',
            "line 13: '\\x1b[1m': unknown key; accepted: train_input, eval_input, predict_input, "
            "model, optimizer, distillation, runconfig, csconfig",
        ),
        # Keys that are missing
        (
            change("  batch_size: 7\n", ""),
            "line 1: train_input.batch_size: not given",
        ),
        (change("batch_size: 7", "batch_size:"), "line 5: train_input.batch_size: not given"),
        (
            change("batch_size", "batch_sice"),
            "line 5: train_input.batch_sice: unknown key; did you mean batch_size?",
        ),
        (
            "model: {}\n",
            "train_input: not given; write it, or eval_input where nothing is to be trained",
        ),
        # Wrong types
        (
            change("model:\n  hidden_size: 12\n  num_heads: 3\n", "model: 3\n"),
            "line 6: model: is 3; keys are wanted below it, indented",
        ),
        (
            change("batch_size: 7", "batch_size: 7.5"),
            "line 5: train_input.batch_size: is 7.5; a whole number is wanted",
        ),
        (
            change("batch_size: 7", "batch_size: [7]"),
            "line 5: train_input.batch_size: is [7]; a whole number is wanted",
        ),
        (
            change("learning_rate: 1e-4", "epsilon: tiny"),
            "line 10: optimizer.epsilon: is 'tiny'; a number is wanted, such as 0.1 or 1e-6",
        ),
        (
            change("learning_rate: 1e-4", "epsilon: .nan"),
            "line 10: optimizer.epsilon: is NaN; a number is wanted, such as 0.1 or 1e-6",
        ),
        (
            change("learning_rate: 1e-4", "epsilon: .inf"),
            "line 10: optimizer.epsilon: is Infinity; a number is wanted, such as 0.1 or 1e-6",
        ),
        (
            change("batch_size: 7", "batch_size: 7\n  do_lower: 1"),
            "line 6: train_input.do_lower: is 1; true or false is wanted",
        ),
        (
            change("data_dir: data", "data_dir: 3"),
            "line 3: train_input.data_dir: is 3; the path of a file or folder is wanted",
        ),
        (
            change("data_dir: data", "data_dir: ' '"),
            "line 3: train_input.data_dir: is ' '; the path of a file or folder is wanted",
        ),
        (
            change("data_dir: data", "data_dir: data\n  dataset: 3"),
            "line 4: train_input.dataset: is 3; text is wanted; put it between quotes",
        ),
        (
            change("learning_rate: 1e-4", "exclude_from_weight_decay: bias"),
            "line 10: optimizer.exclude_from_weight_decay: is 'bias'; a list is wanted",
        ),
        (
            change("hidden_size: 12", "mixed_precision: 1"),
            "line 7: model.mixed_precision: is 1; true, false or the name of a dtype policy "
            "is wanted",
        ),
        # Out of range
        (
            change("batch_size: 7", "batch_size: 0"),
            "line 5: train_input.batch_size: is 0; a number above 0 is wanted",
        ),
        (
            change("max_sequence_length: 13", "max_sequence_length: 2"),
            "line 4: train_input.max_sequence_length: is 2; a number of at least 3 is wanted",
        ),
        (
            change("learning_rate: 1e-4", "learning_rate: -1e-4"),
            "line 10: optimizer.learning_rate: is '-1e-4'; a number of at least 0 is wanted",
        ),
        (
            change("max_steps: 11", "max_steps: 99999999999999999999"),
            "line 12: runconfig.max_steps: is 99999999999999999999; "
            "a number of at most 9223372036854775807 is wanted",
        ),
        # Choices
        (
            change("Sst2DataProcessor", "SST2"),
            "line 2: train_input.data_processor: is 'SST2'; "
            f"available: {', '.join(get_args(DataProcessor))}",
        ),
        (
            change("learning_rate: 1e-4", "optimizer_type: adagrad"),
            "line 10: optimizer.optimizer_type: is 'adagrad'; available: adam, adamw, lamb, "
            "momentum, rmsprop, sgd",
        ),
        (
            change("hidden_size: 12", "mixed_precision: half"),
            "line 7: model.mixed_precision: is 'half'; "
            "available: false, true, auto, float32, mixed_bfloat16, mixed_float16",
        ),
        (
            change("hidden_size: 12", "initializer: xavier"),
            "line 7: model.initializer: name is 'xavier'; available: constant, glorot_normal, "
            "glorot_uniform, normal, truncated_normal, uniform, variance_scaling",
        ),
        (
            change("hidden_size: 12", "initializer: {name: normal, stdev: 1}"),
            "line 7: model.initializer.stdev: unknown key; did you mean stddev?",
        ),
        (
            change("hidden_size: 12", "initializer: {stddev: 1}"),
            'line 7: model.initializer: is {"stddev": 1}; a mapping with `name` is wanted',
        ),
        # Schedules
        (
            change("learning_rate: 1e-4", "learning_rate: {scheduler: linear}"),
            "line 10: optimizer.learning_rate: scheduler is 'linear'; "
            "available: Constant, Cosine, Exponential, InverseExponentialTimeDecay, Linear, "
            "PiecewiseConstant, Polynomial",
        ),
        (
            change("learning_rate: 1e-4", "learning_rate: {steps: 3}"),
            'line 10: optimizer.learning_rate: is {"steps": 3}; a mapping with `scheduler` '
            "is wanted",
        ),
        (
            change("learning_rate: 1e-4", "learning_rate: {scheduler: Constant}"),
            "line 10: optimizer.learning_rate.learning_rate: not given",
        ),
        (
            change("learning_rate: 1e-4", "learning_rate: []"),
            "line 10: optimizer.learning_rate: the list is empty; write a schedule in it",
        ),
        (
            change(
                "learning_rate: 1e-4",
                "learning_rate:\n  - scheduler: Constant\n    learning_rate: 1\n"
                "  - {scheduler: Constant, learning_rate: 1}",
            ),
            "line 11: optimizer.learning_rate.0.steps: not given; "
            "every schedule of a list but the last needs it",
        ),
        (
            change(
                "learning_rate: 1e-4",
                "learning_rate:\n"
                "  - {scheduler: Cosine, initial_learning_rate: 1, decay_steps: 3}\n"
                "  - {scheduler: Exponential, initial_learning_rate: 1, decay_steps: 3, "
                "decay_rate: 0.5}\n"
                "  - {scheduler: Constant, learning_rate: 1}",
            ),
            "line 12: optimizer.learning_rate.1.steps: not given; "
            "every schedule of a list but the last needs it",
        ),
        (
            change(
                "learning_rate: 1e-4",
                "learning_rate:\n    scheduler: PiecewiseConstant\n    boundaries: [3, 3]\n"
                "    values: [1, 2, 3]",
            ),
            "line 12: optimizer.learning_rate.boundaries: [3, 3] do not increase",
        ),
        (
            change(
                "learning_rate: 1e-4",
                "learning_rate:\n    scheduler: PiecewiseConstant\n    boundaries: [3, 7]\n"
                "    values: [1, 2]",
            ),
            "line 13: optimizer.learning_rate.values: has 2 rates for 2 boundaries; write 3",
        ),
        (
            change("learning_rate: 1e-4", "decay: constant\n  decay_end: 0.02"),
            "line 11: optimizer.decay_end: is 0.02, but decay is constant; write decay: linear or "
            "cosine, or leave the key out",
        ),
        (
            change(
                "learning_rate: 1e-4",
                "decay_end: 0.02\n  learning_rate: {scheduler: Constant, learning_rate: 1}",
            ),
            "line 10: optimizer.decay_end: is 0.02, and learning_rate is given as schedules, which "
            "say the rate of every step; leave the key out, or write a number as learning_rate",
        ),
        # Clipping, accumulation, averages, loss scale
        (
            change("learning_rate: 1e-4", "optimizer_type: lamb\n  lazy_word_embeddings: true"),
            "line 11: optimizer.lazy_word_embeddings: is true, but lamb takes the norm of the "
            "update of the whole table; leave it out, or write optimizer_type: adamw",
        ),
        (
            change("learning_rate: 1e-4", "max_gradient_norm: 1\n  max_gradient_value: 0.5"),
            "line 11: optimizer.max_gradient_value: is 0.5, and max_gradient_norm is 1.0; "
            "gradients are clipped by one of the two, so leave the other out",
        ),
        (
            change("learning_rate: 1e-4", "max_gradient_norm: -1"),
            "line 10: optimizer.max_gradient_norm: is -1; a number of at least 0 is wanted",
        ),
        (
            change("learning_rate: 1e-4", "max_gradient_value: -0.5"),
            "line 10: optimizer.max_gradient_value: is -0.5; a number of at least 0 is wanted",
        ),
        (
            change("learning_rate: 1e-4", "grad_accum_steps: 0"),
            "line 10: optimizer.grad_accum_steps: is 0; a number above 0 is wanted",
        ),
        (
            change("learning_rate: 1e-4", "grad_accum_schedule: [[0, 1], 5]"),
            "line 10: optimizer.grad_accum_schedule.1: 5 is no pair of a step and a number of "
            "batches; write [5000, 2], say",
        ),
        (
            change("learning_rate: 1e-4", "grad_accum_schedule: [[5, 2], [9, 4]]"),
            "line 10: optimizer.grad_accum_schedule: is [[5, 2], [9, 4]], whose first pair is not "
            "of step 0; begin with [0, 1]",
        ),
        (
            change("learning_rate: 1e-4", "grad_accum_schedule: [[0, 1], [9, 2], [9, 4]]"),
            "line 10: optimizer.grad_accum_schedule: is [[0, 1], [9, 2], [9, 4]], whose steps do "
            "not increase; put them in order",
        ),
        (
            change("learning_rate: 1e-4", "grad_accum_steps: 2\n  grad_accum_schedule: [[0, 4]]"),
            "line 10: optimizer.grad_accum_steps: is 2, and grad_accum_schedule is given, which "
            "says it for every step; leave one of the two out",
        ),
        (
            change("learning_rate: 1e-4", "moving_average_decay: 1"),
            "line 10: optimizer.moving_average_decay: is 1; a number below 1 is wanted",
        ),
        (
            change("learning_rate: 1e-4", "layer_wise_lr_decay: 1.1"),
            "line 10: optimizer.layer_wise_lr_decay: is 1.1; a number of at most 1 is wanted",
        ),
        (
            change(
                "learning_rate: 1e-4", "loss_scaling_factor: tf_dynamic\n  initial_loss_scale: 0.5"
            ),
            "line 11: optimizer.initial_loss_scale: 0.5 is not between min_loss_scale 1.0 "
            "and max_loss_scale 1.7014118346046923e+38",
        ),
        # What is trained
        (
            change("hidden_size: 12", "freeze: [embeddings, classifier]"),
            "line 7: model.freeze: names 'classifier'; available: embeddings, encoder, pooler, and "
            "layers:N for the first N encoder layers, as layers:4; the classifier is what always "
            "has to be trained",
        ),
        (
            change("hidden_size: 12", "freeze: layers:0"),
            "line 7: model.freeze: names 'layers:0'; available: embeddings, encoder, pooler, and "
            "layers:N for the first N encoder layers, as layers:4",
        ),
        (
            change("hidden_size: 12", "freeze: [embeddings, layers:7]\n  num_hidden_layers: 6"),
            "line 7: model.freeze: names layers:7, but num_hidden_layers is 6; write layers:6 or "
            "less",
        ),
        (
            change("hidden_size: 12", "class_weights: [1, 2]\n  num_cls_classes: 3"),
            "line 7: model.class_weights: has 2 numbers, but num_cls_classes is 3; write one for "
            "each",
        ),
        (
            change("hidden_size: 12", "num_cls_classes: 1"),
            "line 7: model.num_cls_classes: is 1, but task: classification takes 2 or more; for a "
            "number a row, write task: regression",
        ),
        (
            change("batch_size: 7", "batch_size: 7\n  task: regression").replace(
                "num_heads: 3", "focal_gamma: 2"
            ),
            "line 9: model.focal_gamma: is 2.0, which is for task: classification, but task is "
            "regression; leave the key out",
        ),
        (
            change("max_steps: 11", "tune_thresholds: true"),
            "line 12: runconfig.tune_thresholds: is true, which is for task: multi_label or "
            "question_answering, but task is classification; leave the key out",
        ),
        (
            PRETRAINED.replace("num_heads: 3", "r_drop_alpha: 4"),
            "line 9: model.r_drop_alpha: is 4.0, which is for tasks with an answer a row, but task "
            "is pretraining; leave the key out",
        ),
        (
            PRETRAINED.replace("num_heads: 3", "disable_nsp: true\n  freeze: pooler"),
            "line 10: model.freeze: names pooler, which disable_nsp: true leaves out; leave it out "
            "here, too",
        ),
        (
            PRETRAINED.replace("batch_size: 7", "batch_size: 7\n  random_replace_prob: 0.3"),
            "line 7: train_input.random_replace_prob: 0.3 and mask_replace_prob 0.8 are more than "
            "1 together; the rest of the tokens to predict stays",
        ),
        (
            change("batch_size: 7", "batch_size: 7\n  task: pretraining"),
            "line 2: train_input.data_processor: Sst2DataProcessor does not go with task: "
            "pretraining; those of task: pretraining are DocumentDataProcessor, "
            "BertTfRecordsProcessor, BertMlmOnlyTfRecordsStaticMaskProcessor, "
            "BertMlmOnlyTfRecordsDynamicMaskProcessor",
        ),
        (
            change("batch_size: 7", "batch_size: 7\n  masked_lm_prob: 0.3"),
            "line 6: train_input.masked_lm_prob: is 0.3, which is for task: pretraining, but task "
            "is classification; leave the key out",
        ),
        (
            change("batch_size: 7", 'batch_size: 7\n  label_separator: ";"'),
            "line 6: train_input.label_separator: belongs to TextFileDataProcessor, but "
            "data_processor is Sst2DataProcessor; leave it out",
        ),
        (
            change("hidden_size: 12", "r_drop_alpha: 4\n  dropout_rate: 0"),
            "line 7: model.r_drop_alpha: is 4.0, but without dropout both passes give the same "
            "answer; write dropout_rate: 0.1, or leave it out",
        ),
        # Rules between keys
        (
            change("num_heads: 3", "num_heads: 7"),
            "line 8: model.num_heads: 7 does not divide hidden_size 12; choose a divisor such as 6",
        ),
        (
            change("num_heads: 3", "max_position_embeddings: 11"),
            "line 4: train_input.max_sequence_length: 13 exceeds model.max_position_embeddings 11; "
            "write 11 or less",
        ),
        (
            change("batch_size: 7", "batch_size: 7\n  vocab_size: 30").replace(
                "num_heads: 3", "vocab_size: 20"
            ),
            "line 6: train_input.vocab_size: 30 exceeds model.vocab_size 20; "
            "take the vocabulary the weights were trained with",
        ),
        (
            change("learning_rate: 1e-4", "initial_loss_scale: 1e9"),
            "line 10: optimizer.initial_loss_scale: 1000000000.0 is not between min_loss_scale "
            "6.103515625e-05 and max_loss_scale 32768.0",
        ),
        (
            change("hidden_size: 12", "initializer: {name: uniform, minval: 1, maxval: 0.5}"),
            "line 7: model.initializer.minval: 1.0 is not below maxval 0.5",
        ),
        (
            "initializer: normal\n" + change("num_heads: 3", "initializer: uniform"),
            "line 1: initializer: is given here and, otherwise, under model; keep one of the two",
        ),
        (
            "initializer:\n  name: normal\n  mena: 1\n" + VALID,
            "line 3: model.initializer.mena: unknown key; did you mean mean?",
        ),
    ],
)
def test_one_fault_is_told_with_its_line_its_dotted_key_and_what_is_accepted(refusal, text, fault):
    assert refusal(text) == ["1 key to correct", fault]


def test_of_thousands_of_faults_a_hundred_are_told(refusal, write):
    told = refusal(VALID + "".join(f"key{i}: 1\n" for i in range(9000)))
    assert told[0] == "101 keys to correct"
    assert told[1].startswith("line 13: key0: unknown key; accepted: train_input, ")
    assert told[-1] == "and 8900 more"
    with pytest.raises(UserError, match="line 113: max_steps is given twice, as are 100 keys more"):
        get_params(write(VALID + "".join(f"  max_steps: {i}\n" for i in range(2000))))


def test_a_fault_of_train_input_is_told_once_though_other_inputs_derive_from_it(refusal):
    text = change("batch_size: 7", "batch_size: 0\n  batch: 3") + "predict_input: {shufle: true}\n"
    assert refusal(text) == [
        "3 keys to correct",
        "line 5: train_input.batch_size: is 0; a number above 0 is wanted",
        "line 6: train_input.batch: unknown key; did you mean batch_size?",
        "line 14: predict_input.shufle: unknown key; did you mean shuffle?",
    ]


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(max_size=6), plain_values, min_size=1) | plain_values)
def test_whatever_a_section_holds_a_refusal_is_words(tmp_path_factory, section):
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    for name in ("train_input", "model", "optimizer", "runconfig", "eval_input", "initializer"):
        text = VALID + yaml.safe_dump({name: section}, allow_unicode=True)
        if name in yaml.safe_load(VALID):
            text = yaml.safe_dump(yaml.safe_load(VALID) | {name: section}, allow_unicode=True)
        path.write_bytes(text.encode())
        try:
            get_params(path)
        except UserError as error:
            assert "pydantic" not in str(error)
            assert "https:" not in str(error)


# ---- The command line ----------------------------------------------------------------------------


def test_values_of_the_command_line_override_the_file(write):
    overrides = {"runconfig.max_steps": 3, "model.num_heads": None, "runconfig.mode": "eval"}
    params = get_params(write(VALID), overrides)
    assert params.runconfig.max_steps == 3
    assert params.model.num_heads is None
    assert params.runconfig.mode == "eval"


def test_a_flag_may_give_a_section_that_the_file_leaves_out(write):
    text = change("runconfig:\n  max_steps: 11\n", "")
    assert get_params(write(text), {"runconfig.max_steps": 3}).runconfig.max_steps == 3


NUM_EPOCHS = change("max_steps: 11", "num_epochs: 2.5")


@pytest.mark.parametrize(
    ("text", "overrides", "lengths"),
    [
        (NUM_EPOCHS, {}, (2.5, None, None)),
        # The command line says how long to train, whatever the file says.
        (NUM_EPOCHS, {"runconfig.max_steps": 9}, (None, 9, None)),
        (VALID, {"runconfig.num_epochs": "0.5"}, (0.5, None, None)),
        (VALID + "  steps: 7\n", {"runconfig.num_epochs": 3}, (3, None, None)),
        # --steps is a part of what the file says.
        (NUM_EPOCHS, {"runconfig.steps": 9}, (2.5, None, 9)),
        (VALID, {"runconfig.steps": 9}, (None, 11, 9)),
        (NUM_EPOCHS, {"runconfig.max_steps": None}, (2.5, None, None)),
        (NUM_EPOCHS, {"runconfig.max_seconds": 60}, (None, None, None)),
        (VALID + "  steps: 7\n", {"runconfig.max_seconds": 60}, (None, None, None)),
        (change("max_steps: 11", "max_seconds: 60"), {"runconfig.max_steps": 9}, (None, 9, None)),
    ],
)
def test_a_length_of_the_command_line_takes_the_place_of_the_files(write, text, overrides, lengths):
    run = get_params(write(text), overrides).runconfig
    assert (run.num_epochs, run.max_steps, run.steps) == lengths


@pytest.mark.parametrize(
    ("text", "overrides", "fault"),
    [
        (
            VALID + "  num_epochs: 3\n",
            {},
            "line 13: runconfig.num_epochs: is 3, and max_steps is 11; training has one length, so "
            "leave one of the two out",
        ),
        (
            NUM_EPOCHS + "  steps: 7\n",
            {},
            "line 13: runconfig.steps: is 7, and num_epochs is 2.5; training has one length, so "
            "leave one of the two out",
        ),
        (
            VALID,
            {"runconfig.num_epochs": 3, "runconfig.max_steps": 9},
            "--num_epochs: runconfig.num_epochs: is 3, and max_steps is 9; training has one "
            "length, so leave one of the two out",
        ),
        (
            VALID,
            {"runconfig.num_epochs": "3", "runconfig.steps": "9"},  # as a flag has them
            "--steps: runconfig.steps: is 9, and num_epochs is 3; training has one length, so "
            "leave one of the two out",
        ),
        (
            VALID + "  max_seconds: 3600\n",
            {},
            "line 13: runconfig.max_seconds: is 3600, and max_steps is 11; training has one "
            "length, so leave one of the two out",
        ),
        (
            NUM_EPOCHS + "  max_seconds: 60\n",
            {},
            "line 13: runconfig.max_seconds: is 60, and num_epochs is 2.5; training has one "
            "length, so leave one of the two out",
        ),
        (
            change("max_steps: 11", "max_seconds: 9").replace("model:", "  repeat: false\nmodel:"),
            {},
            "line 6: train_input.repeat: is false, which reads the rows once, and "
            "runconfig.max_seconds is 9; leave one of the two out",
        ),
        (
            change("max_steps: 11", "num_epochs: 0"),
            {},
            "line 12: runconfig.num_epochs: is 0; a number above 0 is wanted",
        ),
        (
            change("max_steps: 11", "num_epochs: 3").replace("model:", "  repeat: false\nmodel:"),
            {},
            "line 6: train_input.repeat: is false, which reads the rows once, and "
            "runconfig.num_epochs is 3; leave one of the two out",
        ),
        (
            change("1e-4", "[{scheduler: Constant, learning_rate: 1}]\n  decay: linear"),
            {},
            "line 11: optimizer.decay: is linear, and learning_rate is given as schedules, which "
            "say the rate of every step; leave the key out, or write a number as learning_rate",
        ),
        (
            change("1e-4", "{scheduler: Constant, learning_rate: 1}\n  warmup_ratio: 0.1"),
            {},
            "line 11: optimizer.warmup_ratio: is 0.1, and learning_rate is given as schedules, "
            "which say the rate of every step; leave the key out, or write a number as "
            "learning_rate",
        ),
        (
            change("1e-4", "1e-4\n  decay: exponential"),
            {},
            "line 11: optimizer.decay: is 'exponential'; available: linear, cosine, constant",
        ),
        (
            change("1e-4", "1e-4\n  warmup_ratio: 10"),
            {},
            "line 11: optimizer.warmup_ratio: is 10; a number of at most 1 is wanted",
        ),
    ],
)
def test_two_words_for_a_length_or_a_rate_are_refused_with_both(write, text, overrides, fault):
    with pytest.raises(UserError) as caught:
        get_params(write(text), overrides)
    assert str(caught.value).splitlines()[1:] == [f"  {fault}"]


WITHOUT_OPTIMIZER = change("optimizer:\n  learning_rate: 1e-4\n", "")


def test_a_file_without_an_optimizer_is_the_recipe_of_the_field(write):
    # google-research/bert: optimization.py (AdamW), run_classifier.py (rate and warm-up)
    for text in (WITHOUT_OPTIMIZER, WITHOUT_OPTIMIZER + "optimizer:\n"):
        cfg = get_params(write(text)).optimizer
        assert (cfg.optimizer_type, cfg.learning_rate, cfg.epsilon) == ("adamw", 5e-5, 1e-6)
        assert (cfg.weight_decay_rate, cfg.max_gradient_norm) == (0.01, 1.0)
        assert (cfg.warmup_ratio, cfg.decay) == (0.1, "linear")
        assert not cfg.use_bias_correction


def test_an_optimizer_that_is_there_keeps_the_defaults_of_the_original(write):
    for text in (VALID, WITHOUT_OPTIMIZER + "optimizer: {}\n"):
        cfg = get_params(write(text)).optimizer
        assert (cfg.weight_decay_rate, cfg.max_gradient_norm, cfg.epsilon) == (0.0, None, 1e-8)
        assert (cfg.warmup_ratio, cfg.decay) == (None, None)


def test_the_command_line_changes_one_value_of_a_file_without_an_optimizer(write):
    path = write(WITHOUT_OPTIMIZER)
    recipe = get_params(path).optimizer
    changed = get_params(path, {"optimizer.learning_rate": "1e-4"}).optimizer
    assert changed == recipe.model_copy(update={"learning_rate": 1e-4})
    # Schedules say all of the rate.
    schedule = {"scheduler": "Constant", "learning_rate": 1}
    for text in (WITHOUT_OPTIMIZER, change("1e-4", "1e-4\n  decay: linear\n  warmup_ratio: 0.2")):
        cfg = get_params(write(text), {"optimizer.learning_rate": schedule}).optimizer
        assert (cfg.learning_rate.learning_rate, cfg.warmup_ratio, cfg.decay) == (1, None, None)


def test_a_file_may_have_no_model_and_no_optimizer_and_is_saved_as_what_it_means(write, tmp_path):
    alone = VALID[: VALID.index("model:")]
    for text in (alone, alone.replace("train_input", "eval_input"), NUM_EPOCHS):
        params = get_params(write(text))
        path = tmp_path / "saved.yaml"
        path.write_text(params.to_yaml())
        assert get_params(path) == params


def test_data_dir_of_the_command_line_reaches_every_input(write):
    text = (
        VALID
        + "eval_input:\n  data_processor: Sst2DataProcessor\n  data_dir: d\n"
        + ("  max_sequence_length: 5\n  batch_size: 2\npredict_input:\n  data_dir: e\n")
    )
    params = get_params(write(text), {"*_input.data_dir": "elsewhere"})
    for section in (params.train_input, params.eval_input, params.predict_input):
        assert section.data_dir == "elsewhere"
    text = change("  data_dir: data\n", "")
    assert get_params(write(text), {"*_input.data_dir": "elsewhere"}).eval_input.data_dir == (
        "elsewhere"
    )


def test_a_flag_for_a_derived_input_leaves_the_one_it_derives_from(write):
    params = get_params(write(VALID), {"eval_input.batch_size": 3})
    assert params.train_input.batch_size == 7
    assert params.eval_input.batch_size == params.predict_input.batch_size == 3
    params = get_params(write(VALID), {"predict_input.batch_size": 1})
    assert params.eval_input.batch_size == 7
    assert params.predict_input.batch_size == 1


def test_a_fault_of_a_flag_names_the_flag(refusal, write):
    assert refusal(VALID.replace("num_heads", "num_head"), {"runconfig.max_steps": -3}) == [
        "2 keys to correct",
        "line 8: model.num_head: unknown key; did you mean num_heads?",
        "--max_steps: runconfig.max_steps: is -3; a number above 0 is wanted",
    ]
    with pytest.raises(UserError) as caught:
        get_params(write(VALID), {"runconfig.max_step": 3})
    assert str(caught.value).splitlines() == [
        "command line: 1 key to correct",
        "  --override: runconfig.max_step: unknown key; did you mean max_steps?",
    ]


def test_a_fault_is_told_once_where_a_flag_makes_an_input_of_another(refusal):
    text = change("batch_size: 7", "batch_size: 0")
    assert refusal(text, {"eval_input.data_dir": "elsewhere"}) == [
        "1 key to correct",
        "line 5: train_input.batch_size: is 0; a number above 0 is wanted",
    ]


def test_an_override_is_a_dotted_key_and_a_yaml_value():
    assert parse_override("model.num_heads=3") == ("model.num_heads", 3)
    assert parse_override("a.b = [1, {c: d=e}]") == ("a.b", [1, {"c": "d=e"}])
    assert parse_override("model.num_heads=") == ("model.num_heads", None)
    assert parse_override("initializer=normal") == ("initializer", "normal")
    assert parse_override("a.b=/x #b.csv") == ("a.b", "/x #b.csv")  # no comment in a command
    assert parse_override("a.b=#1") == ("a.b", "#1")
    assert parse_override("a.b=['/x #b', 2]") == ("a.b", ["/x #b", 2])
    assert [parse_override(f"a={x}")[1] for x in ("~", "[]", "{}", "''")] == [None, [], {}, ""]


@pytest.mark.parametrize("sign", ["|", ",", ";", "||", "-", ":", "#", "&", "%", ">", "/", " | "])
def test_a_separator_on_the_command_line_is_that_text(sign):
    dotted = "train_input.label_separator"
    assert parse_override(f"{dotted}={sign}") == (dotted, sign.strip())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model.num_heads", "model.num_heads: write KEY=VALUE, as optimizer.learning_rate=1e-4"),
        ("=3", "=3: write KEY=VALUE, as optimizer.learning_rate=1e-4"),
        ("model.=3", "model.=3: write KEY=VALUE, as optimizer.learning_rate=1e-4"),
        (
            "a=[",
            "a: '[' cannot be read as YAML: no valid YAML: expected the node content, but found "
            "'<stream end>' (while parsing a flow node)",
        ),
        (
            "a=2020-99-99",
            "a: '2020-99-99' cannot be read as YAML: '2020-99-99' cannot be read as a value",
        ),
        (
            "a=!!python/name:x y",
            "a: '!!python/name:x y' cannot be read as YAML: the tag "
            "tag:yaml.org,2002:python/name:x is not accepted; write the value",
        ),
        ("a=!!bool 3", "a: '!!bool 3' cannot be read as YAML: '3' cannot be read as a value"),
        (
            "a={b: 1, b: 2}",
            "a: '{b: 1, b: 2}' cannot be read as YAML: a.b: given twice, first on line 1; keep one "
            "of the two",
        ),
        ("a=\udc80", "a: '\\udc80' cannot be read as YAML: position 0: the character #xdc80 is not "
        "allowed"),
        (
            "a=" + 99 * "[",
            f"a: '{56 * '['}... cannot be read as YAML: brackets or lists nested too deep to read",
        ),
    ],
)  # fmt: skip
def test_an_override_that_cannot_be_read_is_told_in_one_line(text, told):
    with pytest.raises(UserError) as caught:
        parse_override(text)
    assert str(caught.value) == f"--override {told}"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "modle.num_heads=3",
            "modle: unknown key; did you mean model?",
        ),
        ("num_heads=3", "num_heads: unknown key; it belongs to model"),
        ("model=3", "model: is 3; keys are wanted below it, indented"),
        ("model.num_head=3", "model.num_head: unknown key; did you mean num_heads?"),
        ("model.num_heads=three", "model.num_heads: is 'three'; a whole number is wanted"),
        ("model.num_heads=[3]", "model.num_heads: is [3]; a whole number is wanted"),
        ("model.num_heads.x=3", 'model.num_heads: is {"x": 3}; a whole number is wanted'),
        ("train_input.shuffle=1", "train_input.shuffle: is 1; true or false is wanted"),
    ],
)
def test_an_override_is_checked_like_the_file(write, override, told):
    text = change("  num_heads: 3\n", "")
    with pytest.raises(UserError) as caught:
        get_params(write(text), dict([parse_override(override)]))
    assert str(caught.value).splitlines() == [
        "command line: 1 key to correct",
        f"  --override: {told}",
    ]


# ---- Keys of the original that change nothing here -----------------------------------------------


@pytest.fixture
def warnings(write):
    """What `get_params` warns of, without the path in front."""

    def warnings(text, overrides=None):
        path, told = write(text), []
        get_params(path, overrides, on_warning=told.append)
        return [text.removeprefix(f"{path}: ") for text in told]

    return warnings


def test_a_key_without_effect_is_told_with_its_line_and_what_does_its_work(warnings):
    text = VALID + "  ir_mode: mlir-xla\n  disable_standard_logs: true\n"
    assert warnings(text, {"runconfig.multireplica": True}) == [
        "line 13: runconfig.ir_mode has no effect here; the compiler is XLA",
        "line 14: runconfig.disable_standard_logs has no effect here; "
        f"{no_effect()['runconfig.disable_standard_logs']}",
        "--override: runconfig.multireplica has no effect here; "
        f"{no_effect()['runconfig.multireplica']}",
    ]


def test_a_key_without_effect_is_passed_over_where_it_is_at_its_default(warnings):
    assert warnings(VALID + "  multireplica: false\n  predict_steps: 1\n  ir_mode:\n") == []


# ---- Without TensorFlow, at once -----------------------------------------------------------------


def children_seconds():
    """CPU time of the programs started so far, which others on the machine leave as it is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_refusal_takes_less_than_three_seconds_and_no_tensorflow(write):
    path = write(change("learning_rate", "learning_rte"))
    program = (
        "import sys\n"
        "import utils\n"
        "try:\n"
        f"    utils.get_params({str(path)!r})\n"
        "except utils.UserError as error:\n"
        "    print(error)\n"
        "print([name for name in ('tensorflow', 'keras', 'numpy') if name in sys.modules])\n"
    )
    start = children_seconds()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    seconds = children_seconds() - start
    assert done.stdout.splitlines() == [
        f"{path}: 1 key to correct",
        "  line 10: optimizer.learning_rte: unknown key; did you mean learning_rate?",
        "[]",
    ]
    assert seconds < 3


# ---- model_dir/params.yaml -----------------------------------------------------------------------


def test_saved_params_are_read_back_equal(write, tmp_path):
    params = get_params(write(VALID))
    assert save_params(params, tmp_path / "new" / "model_dir") == []
    assert get_params(tmp_path / "new" / "model_dir" / "params.yaml") == params


def test_the_same_params_leave_the_saved_file_alone(write, tmp_path):
    params = get_params(write(VALID))
    save_params(params, tmp_path / "m")
    path = tmp_path / "m" / "params.yaml"
    path.write_text("# a note of mine\n" + path.read_text())
    assert save_params(params, tmp_path / "m") == []
    assert path.read_text().startswith("# a note of mine\n")
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["params.yaml"]


def test_other_params_keep_the_former_file_and_say_what_changed(write, tmp_path):
    first = get_params(write(VALID))
    second = get_params(write(VALID), {"runconfig.max_steps": 20, "runconfig.device": "/cpu:0"})
    third = get_params(write(VALID), {"optimizer.learning_rate": 0.5})
    folder = tmp_path / "m"
    save_params(first, folder)
    assert save_params(second, folder) == [
        ("runconfig.device", None, "/cpu:0"),
        ("runconfig.max_steps", 11, 20),
    ]
    save_params(third, folder)
    assert get_params(folder / "params.1.yaml") == first
    assert get_params(folder / "params.2.yaml") == second
    assert get_params(folder / "params.yaml") == third
    save_params(first, folder)  # and back: each kept once
    save_params(third, folder)
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["params.1.yaml", "params.2.yaml", "params.3.yaml", "params.yaml"]


@pytest.mark.parametrize("old", [b"model: {of: another version}\n", b"\xff", b"a: [", b""])
def test_a_saved_file_that_cannot_be_read_is_kept_too(write, tmp_path, old):
    params = get_params(write(VALID))
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "params.yaml").write_bytes(old)
    assert save_params(params, folder)
    assert (folder / "params.1.yaml").read_bytes() == old
    assert get_params(folder / "params.yaml") == params


def test_a_model_dir_that_is_a_file_is_refused(write):
    path = write(VALID)
    with pytest.raises(UserError, match=r"cannot be written: .*; choose another --model_dir"):
        save_params(get_params(path), path)


# ---- The file of the pre-training ----------------------------------------------------------------

PRETRAINING = """\
train_input:
  data_processor: BertTfRecordsProcessor
model:
  hidden_size: 24
  num_heads: 6
  filter_size: 48
  use_vsl: true
  mlm_loss_weight: 0.5
  num_cls_classes: 2
  disable_nsp: true
  initializer: {name: normal, stddev: 0.1}
"""


def test_the_model_of_the_pre_training_holds_where_the_file_gives_nothing_else(write):
    path = write(change("hidden_size: 12", "pretrain_params_path: pre.yaml\n  num_heads: 12"))
    path.write_text(path.read_text().replace("  num_heads: 3\n", "  filter_size: null\n"))
    write(PRETRAINING, "pre.yaml")
    warnings = []
    params = get_params(path, on_warning=warnings.append)
    model = params.model
    assert (model.hidden_size, model.num_heads, model.filter_size) == (24, 12, 48)
    assert model.disable_nsp and model.initializer.stddev == 0.1
    # What is of pre-training alone stays there.
    assert model.num_cls_classes is None and not model.use_vsl and warnings == []
    # What is saved needs the other file no more.
    (path.parent / "pre.yaml").unlink()
    assert get_params(write(params.to_yaml(), "saved.yaml")) == params


def test_the_files_own_top_level_initializer_comes_before_that_of_the_pre_training(write):
    text = (
        change("  hidden_size: 12", "  pretrain_params_path: pre.yaml") + "initializer: uniform\n"
    )
    write(PRETRAINING, "pre.yaml")
    assert get_params(write(text)).model.initializer.name == "uniform"


def test_faults_of_the_pre_training_are_told_with_its_file_and_line(refusal, tmp_path):
    text = change("hidden_size: 12", "pretrain_params_path: pre.yaml\n  dropout_rate: 7")
    other = tmp_path / "pre.yaml"
    other.write_text(
        PRETRAINING.replace("num_heads: 6", "nun_heads: 6").replace("stddev: 0.1", "stddev: -1")
        + "  filter_size: 7\n"
    )
    head, *faults = refusal(text)
    assert head == "4 keys to correct"
    assert f"{other}: line 5: model.nun_heads: unknown key; did you mean num_heads?" in faults
    assert (
        f"{other}: line 12: model.filter_size: given twice, first on line 6; keep one of the two"
        in faults
    )
    assert any(
        fault.startswith(f"{other}: line 11: model.initializer.stddev: is -1;") for fault in faults
    )
    assert any(fault.startswith("line 8: model.dropout_rate: is 7;") for fault in faults)


def test_a_pre_training_file_that_is_not_there_is_a_fault_of_its_key(refusal, tmp_path):
    text = change("hidden_size: 12", "pretrain_params_path: nowhere/pre.yaml")
    _, fault = refusal(text)
    other = tmp_path / "nowhere" / "pre.yaml"
    assert fault.startswith(f"line 7: model.pretrain_params_path: {other}: no such file")
    (tmp_path / "pre.yaml").write_text("train_input: {}\n")
    _, fault = refusal(text.replace("nowhere/", ""))
    assert fault == (
        f"line 7: model.pretrain_params_path: {tmp_path / 'pre.yaml'}: model: not given; name the "
        "file of the pre-training run"
    )
