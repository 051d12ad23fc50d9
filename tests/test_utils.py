# SPDX-License-Identifier: Apache-2.0
"""What `utils` reads, and what it refuses with which words."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import utils
from common.errors import UserError
from common.params import Params
from utils import get_params, parse_override, save_params

ROOT = Path(__file__).resolve().parent.parent

VALID = """\
train_input:
  data_processor: Sst2DataProcessor
  data_dir: data
  max_sequence_length: 13
  batch_size: 7
model:
  hidden_size: 12
  num_heads: 3
optimizer:
  learning_rate: 1e-4
runconfig:
  max_steps: 11
"""


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


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "model", "c d"]), plain, min_size=1))
def test_values_are_those_of_pyyaml_and_every_key_has_its_line(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    text = yaml.safe_dump(values, allow_unicode=True, default_flow_style=False)
    path.write_bytes(text.encode())
    read, lines, faults = utils.read_yaml(path)
    assert read == yaml.safe_load(text)
    assert not faults
    written = text.splitlines()
    for key in values:
        assert written[lines[(key,)] - 1].lstrip("'\"").startswith(key)


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
        (b"[" * 5000, "no valid YAML|nested too deep"),
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
def test_aliases_that_blow_a_file_up_are_refused_at_once(write, text):
    start = time.monotonic()
    with pytest.raises(UserError, match=r"aliases \(\*name\)"):
        get_params(write(text))
    assert time.monotonic() - start < 3


# ---- Faults of the values ------------------------------------------------------------------------


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
        (
            VALID + "zzz: 3\n",
            "line 13: zzz: unknown key; accepted: train_input, eval_input, predict_input, model, "
            "optimizer, runconfig",
        ),
        (
            VALID + "max_stepz: 3\n",
            "line 13: max_stepz: unknown key; did you mean max_steps of runconfig?",
        ),
        (
            VALID + '"\\e[1m": 3\n',
            "line 13: '\\x1b[1m': unknown key; accepted: train_input, eval_input, predict_input, "
            "model, optimizer, runconfig",
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
        (change("model:\n  hidden_size: 12\n  num_heads: 3\n", ""), "model: not given"),
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
            "a number of at most 9.22337e+18 is wanted",
        ),
        # Choices
        (
            change("Sst2DataProcessor", "SST2"),
            "line 2: train_input.data_processor: is 'SST2'; "
            "available: MnliDataProcessor, Sst2DataProcessor",
        ),
        (
            change("learning_rate: 1e-4", "optimizer_type: lamb"),
            "line 10: optimizer.optimizer_type: is 'lamb'; available: adamw",
        ),
        (
            change("hidden_size: 12", "mixed_precision: half"),
            "line 7: model.mixed_precision: is 'half'; "
            "available: false, true, float32, mixed_bfloat16, mixed_float16",
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
            "available: Constant, Linear, Polynomial",
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
        # Keys of the original with one meaning here
        (
            change("hidden_size: 12", "use_ffn_bias: false"),
            "line 7: model.use_ffn_bias: is false; the feed-forward layers have a bias here. "
            "Write true, or leave the key out",
        ),
        (
            VALID + "eval_input:\n  data_processor: Sst2DataProcessor\n  data_dir: d\n"
            "  max_sequence_length: 5\n  batch_size: 2\n  drop_remainder: true\n",
            "line 18: eval_input.drop_remainder: is true; evaluation and prediction score every "
            "row. Write false, or leave the key out",
        ),
        (
            VALID + "predict_input:\n  drop_remainder: true\n",
            "line 14: predict_input.drop_remainder: is true; evaluation and prediction score "
            "every row. Write false, or leave the key out",
        ),
        # Rules between keys
        (
            change("num_heads: 3", "num_heads: 7"),
            "line 8: model.num_heads: 7 does not divide hidden_size 12; choose a divisor such as 6",
        ),
        (
            change("num_heads: 3", "embedding_size: 5"),
            "line 8: model.embedding_size: 5 differs from hidden_size 12; leave the key out",
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


def test_a_fault_of_train_input_is_told_once_though_other_inputs_derive_from_it(refusal):
    text = change("batch_size: 7", "batch_size: 0\n  batch: 3") + "predict_input: {shufle: true}\n"
    assert refusal(text) == [
        "3 keys to correct",
        "line 5: train_input.batch_size: is 0; a number above 0 is wanted",
        "line 6: train_input.batch: unknown key; did you mean batch_size?",
        "line 14: predict_input.shufle: unknown key; did you mean shuffle?",
    ]


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(max_size=6), plain, min_size=1) | plain)
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
            assert "http" not in str(error)


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
    for text in ("model.num_heads", "=3", "a=[", "a=2020-99-99", "a=!!python/name:x y"):
        with pytest.raises(UserError, match="--override"):
            parse_override(text)


# ---- Without TensorFlow, at once -----------------------------------------------------------------


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
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    seconds = time.monotonic() - start
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
        ("runconfig.max_steps", 11, 20),
        ("runconfig.device", None, "/cpu:0"),
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
