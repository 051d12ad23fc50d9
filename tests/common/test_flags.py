# SPDX-License-Identifier: Apache-2.0
"""The flags that keys have by themselves: what they say, set, and are told of."""

import pytest

from common.errors import UserError
from common.flags import check_flags, make_parser
from common.params import every_key, flag_keys
from run import overrides_of
from utils import get_params

EVERYDAY = (
    *("train_file", "eval_file", "text_columns", "label_column"),
    *("num_epochs", "batch_size", "learning_rate"),
)
FILE = """\
train_input: {data_processor: TextFileDataProcessor, train_file: a.csv, text_columns: a,
              batch_size: 4, max_sequence_length: 9}
eval_input: {data_processor: TextFileDataProcessor, eval_file: b.csv, text_columns: a,
             batch_size: 16, max_sequence_length: 9}
predict_input: {eval_file: c.csv}
model: {}
"""


@pytest.fixture
def read(tmp_path):
    """Returns the Params of a file's text with flags of run.py."""

    def read(text, *flags, on_warning=None):
        path = tmp_path / "x.yaml"
        path.write_text(text)
        args = make_parser().parse_args(["--mode", "train", *map(str, flags)])
        return get_params(path, overrides_of(args), on_warning)

    return read


@pytest.mark.parametrize("flag", EVERYDAY)
def test_an_everyday_key_has_a_flag_whose_help_is_its_meaning(flag):
    assert flag in flag_keys()
    dotted = flag_keys()[flag].replace("*_input", "train_input")
    assert every_key()[dotted].flag
    words = " ".join(make_parser().format_help().split())
    assert f" --{flag} " in words


def test_a_flag_of_an_input_key_sets_every_input(read):
    flags = ("--text_columns", "first, second", "--label_column", "stars", "--batch_size", "8")
    params = read(FILE, *flags, "--train_file", "d.csv", "--eval_file", "e.csv")
    for section in params.inputs.values():
        assert section.text_columns == ("first", "second")
        assert section.label_column == "stars" and section.batch_size == 8
        assert (section.train_file, section.eval_file) == ("d.csv", "e.csv")


def test_the_override_of_one_input_goes_before_the_flag_for_all(read):
    params = read(FILE, "--override", "eval_input.batch_size=64", "--batch_size", "8")
    sizes = {name: section.batch_size for name, section in params.inputs.items()}
    assert sizes == {"train_input": 8, "eval_input": 64, "predict_input": 8}


def test_the_flag_of_a_file_is_for_those_inputs_that_read_files(read):
    """Trained on a set of TFDS, scored on a file."""
    text = FILE.replace(
        "train_input: {data_processor: TextFileDataProcessor, train_file: a.csv, text_columns: a,",
        "train_input: {data_processor: Sst2DataProcessor, data_dir: data,",
    )
    params = read(text, "--eval_file", "e.csv", "--batch_size", "8")
    assert params.train_input.eval_file is None and params.train_input.batch_size == 8
    assert params.eval_input.eval_file == params.predict_input.eval_file == "e.csv"


def test_the_flag_of_a_file_is_refused_where_no_input_reads_files(read):
    text = "train_input: {data_processor: Sst2DataProcessor, data_dir: data, batch_size: 4,"
    text += " max_sequence_length: 9}\nmodel: {}\n"
    with pytest.raises(UserError, match=r"--train_file: train_input\.train_file: belongs to Text"):
        read(text, "--train_file", "d.csv")


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("batch_size", "0", "--batch_size: train_input.batch_size: is '0'; a number above 0"),
        ("batch_size", "many", "--batch_size: train_input.batch_size: is 'many'; a whole number"),
        ("learning_rate", "-1", "--learning_rate: optimizer.learning_rate: is '-1'; a number of"),
        ("text_columns", "a,b,c", "--text_columns: train_input.text_columns: is "),
        ("text_columns", "", "--text_columns: train_input.text_columns: is "),
        ("train_file", " ", "--train_file: train_input.train_file: is ' '; the path of a file"),
        ("max_steps", "x", "--max_steps: runconfig.max_steps: is 'x'; a whole number is wanted"),
    ],
)
def test_a_value_that_cannot_be_is_told_of_its_flag(read, flag, value, told):
    with pytest.raises(UserError) as caught:
        read(FILE.partition("eval_input")[0] + "model: {}\n", f"--{flag}", value)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("command line: ")
    assert any(line.strip().startswith(told) for line in lines), lines


def test_an_override_is_told_of_as_such_though_its_key_has_a_flag(read):
    with pytest.raises(UserError, match=r"--override: train_input\.batch_size: is 0"):
        read(FILE, "--override", "train_input.batch_size=0")


def test_a_name_with_a_comma_stands_between_quotes(read):
    params = read(FILE, "--text_columns", '"name, first","name, last"')
    assert params.train_input.text_columns == ("name, first", "name, last")


@pytest.mark.parametrize(
    ("rate", "more", "is_told"),
    [
        ("{scheduler: Constant, learning_rate: 0.1}", (), True),
        ("[{scheduler: Constant, learning_rate: 0.1}]", (), True),
        ("[{scheduler: Constant, learning_rate: 0.1}]", ("decay=linear",), False),
        ("0.1", (), False),
    ],
)
def test_a_rate_that_takes_the_place_of_schedules_is_told_to_be_constant(read, rate, more, is_told):
    told, flags = [], [part for each in more for part in ("--override", f"optimizer.{each}")]
    text = f"{FILE}optimizer:\n  learning_rate: {rate}\n"
    params = read(text, "--learning_rate", "3e-5", *flags, on_warning=told.append)
    assert params.optimizer.learning_rate == 3e-5
    assert [("line 8: the schedules" in each and "3e-5" in each) for each in told] == [
        True
    ] * is_told


def test_a_report_explains_no_negative_number_of_rows():
    args = make_parser().parse_args(["--mode", "report", "--model_dir", "m", "--explain", "-1"])
    with pytest.raises(UserError, match="--explain is -1; 0 or a larger number of rows is wanted"):
        check_flags("report", args)
