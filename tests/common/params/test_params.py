# SPDX-License-Identifier: Apache-2.0
"""The schema by itself: values, defaults, derived values, completion by a checkpoint."""

import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from common.errors import UserError
from common.params import (
    FROM_CHECKPOINT,
    SHAPES,
    EvalInputParams,
    LinearSchedule,
    ModelParams,
    OptimizerParams,
    Params,
    PolynomialSchedule,
    RunParams,
    Section,
    TrainInputParams,
    differences,
    rule_faults,
)

INPUT = {
    "data_processor": "Sst2DataProcessor",
    "data_dir": "data",
    "max_sequence_length": 13,
    "batch_size": 7,
}
CHECKPOINT = {
    "family": "huggingface",
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_heads": 3,
    "filter_size": 29,
    "max_position_embeddings": 17,
    "vocab_size": 31,
    "embedding_size": 5,
    "encoder_nonlinearity": "gelu",
    "layer_norm_epsilon": 1e-12,
    "path": "weights",
}
DATA = {"num_cls_classes": 2}


def params(model=None, train=None, **sections):
    return Params(train_input=INPUT | (train or {}), model=model or {}, **sections)


# ---- Every key ----------------------------------------------------------------------------------


def all_sections(section=Section):
    for each in section.__subclasses__():
        yield each
        yield from all_sections(each)


def test_every_key_has_a_description_that_is_a_sentence():
    missing = [
        f"{section.__name__}.{name}"
        for section in all_sections()
        for name, field in section.model_fields.items()
        if name not in ("scheduler", "name")
        and not (field.description and field.description.endswith("."))
    ]
    assert not missing


@pytest.mark.parametrize(
    ("section", "defaults"),
    [
        # compatibility.md 1.2 to 1.5; where this project's contract differs, the contract
        (
            TrainInputParams,
            {
                "do_lower": True,
                "shuffle": True,
                "repeat": True,
                "shuffle_seed": None,
                "add_special_tokens": True,
                "invert_mask": True,
                "drop_remainder": True,
                "packing": "buckets",
                "num_buckets": 8,
            },
        ),
        (EvalInputParams, {"shuffle": False, "repeat": False, "drop_remainder": False}),
        (
            ModelParams,
            {
                "attention_dropout_rate": 0.0,
                "cls_dropout_rate": 0.0,
                "use_pre_normalization": False,
                "disable_nsp": False,
                "use_projection_bias_in_attention": True,
                "use_ffn_bias_in_attention": True,
                "position_embedding_type": "learned",
                "share_embedding_weights": True,
                "mixed_precision": False,
            },
        ),
        (
            OptimizerParams,
            {
                "beta1": 0.9,
                "beta2": 0.999,
                "use_bias_correction": False,
                "weight_decay_rate": 0.0,
                "exclude_from_weight_decay": ("LayerNorm", "layer_norm", "bias", "Bias"),
                "max_gradient_norm": None,
                "loss_scaling_factor": 1.0,
                "initial_loss_scale": 32768.0,
                "steps_per_increase": 2000,
                "max_gradient_value": None,
                "grad_accum_steps": 1,
                "momentum": 0.9,
                "rmsprop_decay": 0.9,
                "rmsprop_momentum": 0.0,
                "log_grads": False,
                "log_hists": False,
                "ws_summary": False,
                "disable_lr_steps_reset": False,
            },
        ),
        (
            RunParams,
            {
                "save_checkpoints_steps": 1000,
                "keep_checkpoint_max": 5,
                "save_summary_steps": 100,
                "log_step_count_steps": None,
                "tf_random_seed": None,
                "throttle_secs": 0,
                "predict_steps": 1,
                "eval_steps": None,
                "deterministic": True,
            },
        ),
    ],
)
def test_defaults_are_those_of_the_original(section, defaults):
    assert {name: section.model_fields[name].default for name in defaults} == defaults


def test_params_are_frozen_and_equal_by_value():
    one = params()
    with pytest.raises(ValidationError):
        one.model.dropout_rate = 0.5
    with pytest.raises(ValidationError):
        one.model = ModelParams()
    assert one == params()
    assert one != params({"dropout_rate": 0.2})


# ---- Values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"), [("1e-6", 1e-6), ("0.5", 0.5), (1, 1.0), ("3", 3.0), (0.25, 0.25)]
)
def test_a_number_may_be_written_as_text(text, number):
    value = OptimizerParams(epsilon=text).epsilon
    assert value == number
    assert isinstance(value, float)


@pytest.mark.parametrize(("text", "number"), [("20", 20), ("2e4", 20000), (1e3, 1000), (3, 3)])
def test_a_whole_number_may_be_written_as_text_or_float(text, number):
    value = RunParams(max_steps=text).max_steps
    assert value == number
    assert isinstance(value, int)


@pytest.mark.parametrize("value", [True, False, "yes", "", "1,5", None, [1], {}, "nan", "inf"])
def test_what_is_no_number_is_refused(value):
    for section, key in ((OptimizerParams, "beta1"), (RunParams, "save_checkpoints_steps")):
        if value is None:
            section(**{key: value})  # not given
            continue
        with pytest.raises(ValidationError, match="number"):
            section(**{key: value})


@pytest.mark.parametrize("value", ["true", "yes", 1, 0, 1.0])
def test_a_switch_is_true_or_false(value):
    with pytest.raises(ValidationError):
        ModelParams(use_pre_normalization=value)


def test_an_empty_value_is_one_not_given():
    assert ModelParams(dropout_rate=None, hidden_size=None) == ModelParams()
    with pytest.raises(ValidationError, match="Extra inputs"):
        ModelParams(dropout=None)


def test_paths_have_their_home_folder_filled_in(monkeypatch):
    monkeypatch.setenv("HOME", "/home/reader")
    section = params(train={"data_dir": "~/data", "vocab_file": "vocab.txt"}).train_input
    assert section.data_dir == "/home/reader/data"
    assert section.vocab_file == "vocab.txt"


def test_a_home_folder_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as without HOME and an entry
    with pytest.raises(ValidationError, match="'~/data', and this user has no home folder"):
        params(train={"data_dir": "~/data"})


@pytest.mark.parametrize(
    ("value", "policy"),
    [
        (False, "float32"),
        (True, "mixed_float16"),
        ("float32", "float32"),
        ("mixed_bfloat16", "mixed_bfloat16"),
        ("mixed_float16", "mixed_float16"),
    ],
)
def test_mixed_precision_names_a_dtype_policy(value, policy):
    assert ModelParams(mixed_precision=value).dtype_policy == policy


@pytest.mark.parametrize(
    ("mixed_precision", "epsilon"),
    [(False, 1e-8), ("float32", 1e-8), (True, 1e-5), ("mixed_bfloat16", 1e-5), ("auto", None)],
)
def test_epsilon_follows_the_precision_where_it_is_not_given(mixed_precision, epsilon):
    model = {"mixed_precision": mixed_precision}
    assert params(model, optimizer={}).optimizer.epsilon == epsilon
    assert params(model, optimizer={"epsilon": 0.5}).optimizer.epsilon == 0.5


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("optimizer", [{}, {"epsilon": 0.5}, {"optimizer_type": "rmsprop"}])
def test_auto_precision_is_the_training_of_the_precision_it_stands_for(policy, optimizer):
    auto = params({"mixed_precision": "auto"}, optimizer=optimizer).with_precision(policy)
    assert auto == params({"mixed_precision": policy}, optimizer=optimizer)


def test_head_size_is_the_width_of_a_head():
    assert ModelParams(hidden_size=12, num_heads=3).head_size == 4


@pytest.mark.parametrize(
    ("written", "class_name", "config"),
    [
        (None, "TruncatedNormal", {"mean": 0.0, "stddev": 0.02}),
        ("truncated_normal", "TruncatedNormal", {"mean": 0.0, "stddev": 0.05}),
        ({"name": "normal", "stddev": "1e-2"}, "RandomNormal", {"mean": 0.0, "stddev": 0.01}),
        ("uniform", "RandomUniform", {"minval": -0.05, "maxval": 0.05}),
        ("constant", "Constant", {"value": 0.0}),
        ("glorot_uniform", "GlorotUniform", {}),
        ("glorot_normal", "GlorotNormal", {}),
        (
            "variance_scaling",
            "VarianceScaling",
            {"scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal"},
        ),
    ],
)
def test_an_initializer_is_a_name_or_a_mapping(written, class_name, config):
    assert ModelParams(initializer=written).keras_initializer == {
        "class_name": class_name,
        "config": config,
    }
    # The original reads it at the top level; both places are accepted.
    assert params(initializer=written) == params({"initializer": written})


@pytest.mark.parametrize("steps", [0, -1, None])
def test_eval_steps_of_zero_or_less_are_the_whole_split(steps):
    assert RunParams(eval_steps=steps).eval_steps is None


@pytest.mark.parametrize("key", ["max_gradient_norm", "max_gradient_value"])
def test_clipping_at_zero_is_none(key):
    assert getattr(OptimizerParams(**{key: 0}), key) is None
    assert getattr(OptimizerParams(**{key: 0.5}), key) == 0.5


def test_each_dynamic_loss_scale_has_defaults_of_its_own():
    names = ("min_loss_scale", "max_loss_scale", "overflow_tolerance")

    def of(**values):
        return [OptimizerParams(**values).loss_scale_setting(name) for name in names]

    originals = [1 / 16384, 32768.0, 0.05]
    assert of(loss_scaling_factor="dynamic") == of() == originals
    assert of(loss_scaling_factor="tf_dynamic") == [1.0, 2.0**127, 0.0]
    own = {"min_loss_scale": 2, "max_loss_scale": 4, "overflow_tolerance": 0.5}
    for rule in ("dynamic", "tf_dynamic"):
        assert of(loss_scaling_factor=rule, initial_loss_scale=4, **own) == [2, 4, 0.5]


@pytest.mark.parametrize(
    ("run", "fault"),
    [
        ({"num_devices": 2}, ("runconfig.num_devices", "without enable_distributed")),
        ({"enable_distributed": True, "device": "/gpu:0"}, ("runconfig.device", "enable_distrib")),
        ({"multiple_workers": True, "device": "/gpu:0"}, ("runconfig.device", "multiple_workers")),
        ({"enable_distributed": True, "num_devices": 2}, ("train_input.batch_size", "7 rows .* 2")),
        ({"enable_distributed": True, "num_devices": 7}, None),
        ({"multiple_workers": True, "num_devices": 2}, None),  # 7 may be few for one worker of many
        ({"enable_distributed": True}, None),
    ],
)
def test_devices_share_a_batch_equally(run, fault):
    whole = params()
    run = whole.runconfig.model_copy(update=run)
    faults = list(rule_faults(whole.model_copy(update={"runconfig": run})))
    assert [key for key, _ in faults] == ([] if fault is None else [fault[0]])
    if fault is not None:
        assert re.search(fault[1], faults[0][1])


def test_the_originals_dynamic_loss_scale_does_not_go_with_several_devices():
    for rule, number in (("dynamic", 1), ("tf_dynamic", 0), (8, 0)):
        whole = params(optimizer={"loss_scaling_factor": rule})
        run = whole.runconfig.model_copy(update={"enable_distributed": True})
        faults = list(rule_faults(whole.model_copy(update={"runconfig": run})))
        assert [key for key, _ in faults] == ["optimizer.loss_scaling_factor"] * number
        assert all("enable_distributed" in text and "tf_dynamic" in text for _, text in faults)


def test_rmsprop_has_its_own_epsilon_where_none_is_given():
    assert params(optimizer={"optimizer_type": "RMSprop"}).optimizer.epsilon == 1e-10
    given = {"optimizer_type": "rmsprop", "epsilon": 0.5}
    assert params(optimizer=given).optimizer.epsilon == 0.5


def test_a_schedule_is_as_long_as_its_steps_and_a_cosine_as_its_way():
    cosine = {"scheduler": "Cosine", "initial_learning_rate": 1, "decay_steps": 7}
    exponential = cosine | {"scheduler": "Exponential", "decay_rate": 0.5}
    lengths = [
        OptimizerParams(learning_rate=schedule).learning_rate.length
        for schedule in (cosine, cosine | {"steps": 3}, exponential, exponential | {"steps": 3})
    ]
    assert lengths == [7, 3, None, 3]


def test_lines_of_the_log_come_as_often_as_summaries_where_not_given():
    assert RunParams(save_summary_steps=7).log_steps == 7
    assert RunParams(save_summary_steps=7, log_step_count_steps=3).log_steps == 3


def test_a_learning_rate_has_three_forms():
    linear = {
        "scheduler": "Linear",
        "initial_learning_rate": 0,
        "end_learning_rate": "5e-5",
        "steps": 10,
    }
    polynomial = linear | {"scheduler": "Polynomial", "power": 2, "cycle": True}
    constant = {"scheduler": "Constant", "learning_rate": 0.5}
    assert OptimizerParams(learning_rate="5e-5").learning_rate == 5e-5
    schedule = OptimizerParams(learning_rate=linear).learning_rate
    assert schedule == LinearSchedule(
        scheduler="Linear", initial_learning_rate=0.0, end_learning_rate=5e-5, steps=10
    )
    listed = OptimizerParams(learning_rate=[linear, polynomial, constant]).learning_rate
    assert [type(each).__name__ for each in listed] == [
        "LinearSchedule",
        "PolynomialSchedule",
        "ConstantSchedule",
    ]
    assert isinstance(listed[1], PolynomialSchedule)
    assert (listed[1].power, listed[1].cycle, listed[2].steps) == (2.0, True, None)


# ---- The three inputs ----------------------------------------------------------------------------


def test_eval_input_is_train_input_in_order_and_whole_where_it_is_absent():
    both = params(train={"do_lower": False})
    assert both.train_input.shuffle and both.train_input.drop_remainder
    assert not both.eval_input.do_lower
    assert not both.eval_input.shuffle
    assert not both.eval_input.drop_remainder
    assert both.predict_input == both.eval_input


def test_predict_input_is_eval_input_with_its_own_keys_in_place():
    three = params(eval_input=INPUT | {"batch_size": 5}, predict_input={"max_sequence_length": 11})
    assert three.predict_input.batch_size == 5
    assert three.predict_input.max_sequence_length == 11
    assert three.eval_input.max_sequence_length == 13


def test_train_input_may_be_absent_where_nothing_is_trained():
    assert Params(eval_input=INPUT, model={}).train_input is None
    with pytest.raises(ValidationError):
        Params(model={})
    assert Params(eval_input=INPUT, model={}, runconfig={"mode": "eval"}).train_input is None


def test_the_seed_of_the_order_is_the_inputs_or_the_runs():
    assert params().shuffle_seed is None
    assert params(runconfig={"tf_random_seed": 3}).shuffle_seed == 3
    seeded = params(train={"shuffle_seed": 0}, runconfig={"tf_random_seed": 3})
    assert seeded.shuffle_seed == 0


def test_a_copy_may_have_other_runconfig_values_and_a_vocabulary(tmp_path):
    copy = params(runconfig={"steps": 3}).with_runconfig(model_dir=tmp_path, tf_random_seed=5)
    assert (copy.runconfig.steps, copy.runconfig.tf_random_seed) == (3, 5)
    assert copy.runconfig.model_dir == str(tmp_path)
    with pytest.raises(ValidationError):
        copy.with_runconfig(tf_random_seed=-1)
    own = params(eval_input=INPUT | {"vocab_file": "own.txt"}).with_vocab_file("theirs.txt")
    assert own.train_input.vocab_file == "theirs.txt"
    assert own.eval_input.vocab_file == own.predict_input.vocab_file == "own.txt"
    with pytest.raises(UserError, match=r"train_input\.vocab_file is not given"):
        params().with_vocab_file(None)
    with pytest.raises(UserError, match=r"and checkpoint d/x has no vocabulary beside its weights"):
        params().with_vocab_file(None, "d/x")


# ---- Completion ----------------------------------------------------------------------------------


def test_a_checkpoint_and_the_data_fill_in_what_the_file_leaves_out():
    model = params().complete(CHECKPOINT, DATA, "x.yaml").model
    for name in FROM_CHECKPOINT:
        if not name.endswith("_nonlinearity") and name in CHECKPOINT:
            assert getattr(model, name) == CHECKPOINT[name]
    assert model.encoder_nonlinearity == "gelu_erf"
    assert model.num_cls_classes == 2


def test_completion_leaves_the_original_params_and_their_other_keys_alone():
    before = params({"dropout_rate": 0.25}, optimizer={"learning_rate": 0.5})
    copy = before.model_copy(deep=True)
    after = before.complete(CHECKPOINT, DATA, "x.yaml")
    assert before == copy
    assert after.model.dropout_rate == 0.25
    assert after.optimizer == before.optimizer
    assert after.complete(CHECKPOINT, DATA, "x.yaml") == after


@pytest.mark.parametrize("key", [key for key in SHAPES if key in CHECKPOINT])
def test_a_shape_that_the_checkpoint_contradicts_is_refused_naming_both(key):
    with pytest.raises(UserError) as caught:
        params({key: 24}).complete(CHECKPOINT, DATA, "x.yaml")
    theirs = CHECKPOINT[key]
    assert str(caught.value).splitlines()[:2] == [
        "x.yaml: 1 key to correct",
        f"  model.{key}: is 24, but checkpoint weights has {theirs}; write {theirs}, leave the "
        "key out, or use another checkpoint",
    ]


def data_with(tokens, **facts):
    """What the data says with so many more tokens than the checkpoint has rows of embeddings."""
    return DATA | {"vocab_size": PADDED["vocab_size"] + tokens} | facts


PADDED = CHECKPOINT | {"vocab_size": 50_368}


@pytest.mark.parametrize("tokens", [101, 1, -1526])  # of BERT's vocabularies, cased for uncased
def test_a_vocabulary_of_another_size_than_the_embeddings_is_refused(tokens):
    expected = f"vocab_file: has {50_368 + tokens} tokens, but .* 50368"
    with pytest.raises(UserError, match=expected):
        params().complete(PADDED, data_with(tokens), "x.yaml")


def test_embeddings_may_have_as_many_rows_without_a_token_as_published_models():
    assert params().complete(PADDED, data_with(-1000)).model.vocab_size == 50_368
    own = data_with(-5000, is_own_vocab=True)  # the vocabulary beside the weights, however short
    assert params().complete(PADDED, own).model.vocab_size == 50_368


def test_what_is_no_shape_may_differ_from_the_checkpoint():
    model = params({"layer_norm_epsilon": 1e-5, "encoder_nonlinearity": "relu"})
    model = model.complete(CHECKPOINT, DATA, "x.yaml").model
    assert model.layer_norm_epsilon == 1e-5
    assert model.encoder_nonlinearity == "relu"


@pytest.mark.parametrize(
    ("family", "theirs", "written", "used"),
    [
        ("huggingface", "gelu", None, "gelu_erf"),
        ("huggingface", "gelu", "gelu", "gelu_erf"),
        ("huggingface", "gelu_new", None, "gelu_tanh"),
        ("huggingface", "gelu_new", "gelu", "gelu_tanh"),
        ("huggingface", "gelu", "gelu_tanh", "gelu_tanh"),
        ("huggingface", "relu", None, "relu"),
        ("huggingface", "swish", None, "silu"),
        ("google", "gelu", None, "gelu_tanh"),
        ("google", "gelu", "gelu_erf", "gelu_erf"),
        ("cerebras", None, None, "gelu_tanh"),
        ("ours", "gelu_erf", "gelu", "gelu_erf"),
        ("ours", "gelu_tanh", None, "gelu_tanh"),
        (None, None, "gelu", "gelu_tanh"),
        (None, None, None, "gelu_tanh"),
    ],
)
def test_gelu_is_the_form_of_the_checkpoints_family(family, theirs, written, used):
    checkpoint = CHECKPOINT | {"family": family, "encoder_nonlinearity": theirs}
    model = params({"encoder_nonlinearity": written}).complete(checkpoint, DATA, "x.yaml").model
    assert model.encoder_nonlinearity == used


@pytest.mark.parametrize(
    ("family", "epsilon"),
    [("huggingface", 1e-12), ("google", 1e-12), ("cerebras", 1e-5), ("ours", 1e-8), (None, 1e-8)],
)
def test_layer_norm_epsilon_falls_back_to_what_is_usual_in_the_family(family, epsilon):
    checkpoint = CHECKPOINT | {"family": family, "layer_norm_epsilon": None}
    assert params().complete(checkpoint, DATA, "x").model.layer_norm_epsilon == epsilon


def test_without_a_checkpoint_everything_that_is_missing_is_listed():
    with pytest.raises(UserError) as caught:
        params().complete(None, None, "x.yaml")
    brings = "not given, and no checkpoint brings it; write it, or give --checkpoint_path"
    assert str(caught.value).splitlines() == [
        "x.yaml: 6 keys to correct",
        f"  model.hidden_size: {brings}",
        "  model.vocab_size: not given, and neither a checkpoint nor vocab_size of an input brings "
        "it; write it, or give --checkpoint_path",
        *(f"  model.{key}: {brings}" for key in ("num_hidden_layers", "num_heads", "filter_size")),
        "  model.num_cls_classes: not given, and the data does not say it; write it",
    ]


def test_what_a_checkpoint_without_its_configuration_does_not_say_is_asked_for_by_its_name():
    checkpoint = CHECKPOINT | {"path": "d/x", "num_heads": None}
    text = r"model\.num_heads: not given, and checkpoint d/x does not say it; write it, or copy"
    with pytest.raises(UserError, match=text):
        params().complete(checkpoint, DATA, "x.yaml")


def test_without_a_checkpoint_tables_are_as_large_as_the_inputs_need():
    geometry = {"hidden_size": 12, "num_hidden_layers": 2, "num_heads": 3, "filter_size": 29}
    inputs = {
        "train": {"vocab_size": 31},
        "eval_input": INPUT | {"max_sequence_length": 19, "vocab_size": 31},
    }
    model = params(geometry, **inputs).complete(None, DATA, "x").model
    assert (model.max_position_embeddings, model.vocab_size) == (19, 31)
    model = params(geometry).complete(None, DATA | {"vocab_size": 37}, "x").model
    assert (model.max_position_embeddings, model.vocab_size) == (13, 37)


def test_the_rules_between_keys_hold_for_what_the_checkpoint_brings_too():
    checkpoint = CHECKPOINT | {"max_position_embeddings": 11}
    with pytest.raises(UserError) as caught:
        params({"num_cls_classes": 3}).complete(checkpoint, DATA, "x.yaml")
    assert str(caught.value).splitlines() == [
        "x.yaml: 2 keys to correct",
        "  model.num_cls_classes: is 3, but the data has 2 classes; write 2, or leave the key out",
        "  train_input.max_sequence_length: 13 exceeds model.max_position_embeddings 11; "
        "write 11 or less",
    ]
    free = params({"use_position_embedding": False})
    assert free.complete(checkpoint, DATA, "x.yaml").model.max_position_embeddings == 11


@pytest.mark.parametrize("task", ["pretraining", "token_classification", "question_answering"])
def test_weights_of_a_head_for_words_go_with_any_vector_of_a_row(task):
    given, checkpoint = params({"pooler_type": "mean"}), CHECKPOINT | {"pooler_type": "first"}
    assert given.complete(checkpoint | {"task": task}, DATA).model.pooler_type == "mean"
    with pytest.raises(UserError, match=r"pooler_type: is mean, but .* was trained with first"):
        given.complete(checkpoint | {"task": "classification"}, DATA)


def test_a_checkpoint_of_another_kind_of_network_is_refused():
    with pytest.raises(UserError, match="checkpoint weights says encoder_nonlinearity is 'mish'"):
        params().complete(CHECKPOINT | {"encoder_nonlinearity": "mish"}, DATA, "x.yaml")


# ---- Writing back --------------------------------------------------------------------------------

counts = st.integers(1, 2**40)
rates = st.floats(0, 1, exclude_max=True)
positive = st.floats(1e-30, 1e30)
names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), min_size=1).filter(
    lambda name: name.strip() and not name.startswith("~")
)


def optional(values):
    return st.none() | values


inputs = st.fixed_dictionaries(
    {
        "data_processor": st.sampled_from(["Sst2DataProcessor", "MnliDataProcessor"]),
        "data_dir": names,
        "max_sequence_length": st.integers(3, 512),
        "batch_size": counts,
    },
    optional={
        "dataset": optional(names),
        "vocab_file": optional(names),
        "do_lower": st.booleans(),
        "shuffle_seed": optional(st.integers(0, 2**40)),
        "packing": st.sampled_from(["auto", "packed", "buckets", "none"]),
        "cache_dir": optional(names),
    },
)
schedules = st.one_of(
    st.fixed_dictionaries(
        {"scheduler": st.just("Constant"), "learning_rate": rates, "steps": counts}
    ),
    st.fixed_dictionaries(
        {
            "scheduler": st.just("Linear"),
            "initial_learning_rate": rates,
            "end_learning_rate": rates.map(str),
            "steps": counts,
        }
    ),
    st.fixed_dictionaries(
        {
            "scheduler": st.just("Polynomial"),
            "initial_learning_rate": rates,
            "end_learning_rate": rates,
            "steps": counts,
            "power": positive,
            "cycle": st.booleans(),
        }
    ),
    st.fixed_dictionaries(
        {
            "scheduler": st.just("Cosine"),
            "initial_learning_rate": rates,
            "decay_steps": counts,
            "alpha": rates,
        }
    ),
    st.fixed_dictionaries(
        {
            "scheduler": st.just("PiecewiseConstant"),
            "boundaries": st.just([2, 5]),
            "values": st.lists(rates, min_size=3, max_size=3),
            "steps": counts,
        }
    ),
)
models = st.fixed_dictionaries(
    {},
    optional={
        "num_heads": optional(counts),
        "layer_norm_epsilon": optional(positive),
        "dropout_rate": rates,
        "mixed_precision": st.sampled_from([True, False, "mixed_bfloat16"]),
        "encoder_nonlinearity": st.sampled_from([None, "gelu", "relu"]),
        "initializer": st.sampled_from(["normal", {"name": "uniform", "minval": -2}]),
        "num_cls_classes": optional(st.integers(2, 99)),
    },
)
optimizers = st.fixed_dictionaries(
    {},
    optional={
        "learning_rate": rates | schedules | st.lists(schedules, min_size=1, max_size=3),
        "epsilon": optional(positive),
        "exclude_from_weight_decay": st.lists(st.text("abc_.", min_size=1)),
        "max_gradient_norm": optional(positive),
        "loss_scaling_factor": positive | st.sampled_from(["dynamic", "tf_dynamic"]),
        "optimizer_type": st.sampled_from(["sgd", "rmsprop", "adamw"]),
        "moving_average_decay": optional(st.just(0.5)),
    },
)
runs = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.sampled_from([None, "eval", "predict"]),
        "model_dir": optional(names),
        "steps": optional(counts),
        "eval_steps": st.integers(-2, 99),
        "tf_random_seed": optional(st.integers(0, 2**32 - 1)),
        "device": optional(names),
    },
)
files = st.fixed_dictionaries(
    {"eval_input": inputs, "model": models},
    optional={
        "train_input": inputs,
        "predict_input": inputs | st.fixed_dictionaries({"vocab_file": optional(names)}),
        "optimizer": optimizers,
        "runconfig": runs,
    },
)


@settings(deadline=None)
@given(files)
def test_params_written_as_yaml_are_read_back_equal(values):
    before = Params(**values)
    after = Params(**yaml.safe_load(before.to_yaml()))
    assert after == before
    assert differences(before, after) == []
    assert after.to_yaml() == before.to_yaml()


@settings(deadline=None)
@given(files, files)
def test_differences_are_empty_only_between_equals(one, other):
    one, other = Params(**one), Params(**other)
    changed = differences(one, other)
    assert (not changed) == (one == other)
    assert [(key, old, new) for key, new, old in differences(other, one)] == sorted(
        changed, key=lambda change: [key for key, _, _ in differences(other, one)].index(change[0])
    )


def test_differences_name_the_dotted_key_and_both_values():
    before = params({"hidden_size": 12}, optimizer={"learning_rate": 0.5})
    after = params({"num_heads": 3}, optimizer={"learning_rate": 0.25})
    assert differences(before, after) == [
        ("model.hidden_size", 12, None),
        ("model.num_heads", None, 3),
        ("optimizer.learning_rate", 0.5, 0.25),
    ]


def test_completed_params_written_as_yaml_complete_to_themselves():
    completed = params().complete(CHECKPOINT, DATA, "x.yaml")
    again = Params(**yaml.safe_load(completed.to_yaml()))
    assert again == completed
    assert again.complete(CHECKPOINT, DATA, "x.yaml") == completed
