# SPDX-License-Identifier: Apache-2.0
"""A first training without a params file, as somebody with a CSV file and an hour types it."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import run
from common.checkpoints import first_weights
from common.errors import UserError
from common.params.everyday import BEST_METRICS
from common.params.inputs import InputParams
from session import open_session
from tests.reference.tiny_bert import huggingface_tensors, save_huggingface
from utils import get_params

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_SECONDS = 600
SHORT = ("--max_sequence_length", 16)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder as Hugging Face writes it, with the words of mine.csv."""
    folder = tmp_path_factory.mktemp("weights")
    save_huggingface(folder, huggingface_tensors())  # 23 words, 19 positions
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "bad", "day", *"bcdefghijklmnop"]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab), "utf-8")
    return folder


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A working directory with mine.csv: 40 rows of two classes, and nothing else."""
    rows = [("a good day", "happy"), ("a bad day", "sad")] * 20
    write_csv(tmp_path / "mine.csv", ("text", "label"), rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_csv(path, names, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])


def params_of(*flags, mode="train_and_eval"):
    """The Params that the flags give, and what is told."""
    told = []
    arguments = ["--mode", mode, *map(str, flags)]
    args = run.make_parser().parse_args(arguments)
    return get_params(None, run.overrides_of(args), on_warning=told.append), told


def refused(capsys, *flags, mode="train_and_eval"):
    """The message of a command that ends with exit code 2."""
    assert run.main(["--mode", mode, *map(str, flags)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err


def succeed(*flags):
    done = subprocess.run(
        [sys.executable, ROOT / "run.py", *map(str, flags)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


# ---- One command, and the ones after it ----------------------------------------------------------


def test_a_file_becomes_a_model_that_is_resumed_and_asked_without_a_params_file(mine, weights):
    files = ("--train_file", "mine.csv", "--model_dir", "d", "--checkpoint_path", weights)
    short = ("--num_epochs", 2, "--batch_size", 12, "--learning_rate", 3e-3, *SHORT)
    rows = [("a good day", "happy"), ("a bad day", "sad")] * 16
    rows += [("a zebra day", "happy"), ("a " * 15 + "day", "sad")] * 4
    write_csv(mine / "mine.csv", ("text", "label"), rows)
    done = succeed("--mode", "train_and_eval", *files, *short)
    # What the vocabulary and the length do to the texts is told before the first step.
    assert "of the tokens are [UNK]" in done.stderr
    assert re.search(r"max_sequence_length cuts [1-4] of 36 rows", done.stderr)
    assert "no --eval_file is given: 10% of the rows of mine.csv" in done.stderr
    assert "Training on 36 rows: 6 steps of 12" in done.stderr  # 4 of 40 rows are held out
    assert "(of 4)" in re.sub(r"\(\d+ of 4\)", "(of 4)", done.stdout)

    saved = yaml.safe_load(Path("d/params.yaml").read_text("utf-8"))
    assert saved["train_input"]["text_columns"] == ["text"]
    assert saved["train_input"]["label_column"] == "label"
    assert saved["train_input"]["batch_size"] == saved["eval_input"]["batch_size"] == 12
    assert saved["runconfig"]["max_steps"] == 6
    assert saved["runconfig"]["best_metric"] == "eval/accuracy_cls"
    figures = [json.loads(line) for line in Path("d/metrics.jsonl").read_text("utf-8").splitlines()]
    assert [each["step"] for each in figures if each["split"] == "eval"] == [3, 6]  # each epoch

    again = succeed("--mode", "train_and_eval", *files, *short)
    assert "Nothing to train: step 6 of 6 reached" in again.stdout
    done = succeed("--mode", "predict", "--model_dir", "d", "--text", "a good day")
    label, probability, text = done.stdout.rstrip("\n").split("\t")
    assert label in ("happy", "sad") and float(probability) >= 0.5 and text == "a good day"


# ---- What is chosen ------------------------------------------------------------------------------


def test_what_no_flag_says_is_chosen_and_told(mine):
    params, told = params_of("--train_file", "mine.csv")
    train, run_ = params.train_input, params.runconfig
    assert train.data_processor == "TextFileDataProcessor"
    assert (train.text_columns, train.label_column) == (("text",), "label")
    assert (train.batch_size, train.max_sequence_length, train.packing) == (32, 128, "auto")
    assert train.eval_fraction == params.eval_input.eval_fraction == 0.1
    assert run_.num_epochs == 3 and run_.max_steps is None
    assert run_.eval_every_steps == "epoch"
    assert run_.best_metric == "eval/accuracy_cls" and params.model.mixed_precision == "auto"
    assert len(told) == 1 and "10% of the rows of mine.csv" in told[0]


def test_a_learning_rate_keeps_the_rest_of_the_optimizer_that_a_file_without_one_has(mine):
    without, _ = params_of("--train_file", "mine.csv")
    given, _ = params_of("--train_file", "mine.csv", "--learning_rate", "1e-4")
    assert without.optimizer.learning_rate == 5e-5 and given.optimizer.learning_rate == 1e-4
    assert given.optimizer.model_copy(update={"learning_rate": 5e-5}) == without.optimizer
    assert given.optimizer.decay == "linear" and given.optimizer.warmup_ratio == 0.1


def test_a_learning_rate_keeps_them_in_a_file_without_an_optimizer_too(mine):
    Path("x.yaml").write_text(
        "train_input: {data_processor: TextFileDataProcessor, train_file: mine.csv, "
        "text_columns: text, batch_size: 4, max_sequence_length: 9}\n"
    )
    given = get_params("x.yaml", {"optimizer.learning_rate": "1e-4"}).optimizer
    without = get_params("x.yaml").optimizer
    assert given == without.model_copy(update={"learning_rate": 1e-4})


@pytest.mark.parametrize(
    "flags",
    [
        ("--eval_file", "other.csv"),
        ("--override", "train_input.eval_fraction=0.25"),
        ("--override", "eval_input.eval_file=other.csv"),
    ],
)
def test_no_rows_are_held_out_where_it_is_said_what_to_score(mine, flags):
    params, told = params_of("--train_file", "mine.csv", *flags)
    assert params.train_input.eval_fraction in (None, 0.25) and told == []


def test_flags_of_length_take_the_place_of_three_epochs(mine):
    for flags, expected in (
        (("--max_steps", 7), (None, 7)),
        (("--num_epochs", 0.5), (0.5, None)),
    ):
        run_ = params_of("--train_file", "mine.csv", *flags)[0].runconfig
        assert (run_.num_epochs, run_.max_steps) == expected


def test_another_task_has_a_best_metric_of_its_own(mine):
    task = ("--override", "*_input.task=regression")
    assert params_of("--train_file", "mine.csv", *task)[0].runconfig.best_metric == "eval/pearson"
    tasks = InputParams.model_fields["task"].annotation.__args__
    assert set(BEST_METRICS) <= set(tasks)


def test_one_input_of_its_own_has_what_was_found_too(mine):
    flags = ("--train_file", "mine.csv", "--override", "eval_input.batch_size=64")
    params, _ = params_of(*flags)
    assert params.eval_input.batch_size == 64 and params.train_input.batch_size == 32
    assert params.eval_input.text_columns == ("text",) and params.eval_input.eval_fraction == 0.1


@pytest.mark.parametrize(
    ("names", "flags", "expected"),
    [
        ("sentence,label", (), (("sentence",), "label")),
        ("label,hypothesis,premise", (), (("premise", "hypothesis"), "label")),
        ("text,stars", ("--label_column", "stars"), (("text",), "stars")),
        ("id,words,label", ("--text_columns", "words"), (("words",), "label")),
        ("a,b,c", ("--text_columns", "a,b", "--label_column", "c"), (("a", "b"), "c")),
        (
            "a,b,c",
            ("--text_columns", "a", "--text_columns", "b", "--label_column", "c"),
            (("a", "b"), "c"),
        ),
    ],
)
def test_columns_whose_names_leave_no_doubt_are_found(mine, names, flags, expected):
    write_csv(mine / "x.csv", names.split(","), [names.split(",")])
    train = params_of("--train_file", "x.csv", *flags)[0].train_input
    assert (train.text_columns, train.label_column) == expected


def test_the_keys_of_json_lines_are_found(mine):
    (mine / "x.jsonl").write_text('{"text": "a"}\n{"text": "b", "label": 1}\n')
    train = params_of("--train_file", "x.jsonl")[0].train_input
    assert (train.text_columns, train.label_column) == (("text",), "label")


def test_cased_weights_read_cased_text_unless_it_is_said_otherwise(mine, weights, tmp_path):
    cased = shutil.copytree(weights, tmp_path / "cased")
    (cased / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    flags = ("--train_file", "mine.csv", "--model_dir", "d", "--checkpoint_path", cased, *SHORT)
    opened = open_session(params_of(*flags)[0])
    assert [section.do_lower for section in opened.saved_params.inputs.values()] == [False] * 3
    with pytest.raises(UserError, match=r"do_lower is true, .* has do_lower_case false"):
        open_session(params_of(*flags, "--override", "*_input.do_lower=true")[0])


# ---- Mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "flags", "told"),
    [
        (
            "id,text,label",  # is the id a text, too?
            (),
            "has the columns id, text, label: name those to use, --text_columns NAME (or A,B for",
        ),
        (
            "words,stars",
            (),
            "columns words, stars: name those to use, --text_columns NAME (or A,B for pairs of "
            "texts) and --label_column NAME\n",
        ),
        (
            "text,stars",
            (),
            "--text_columns NAME (or A,B for pairs of texts) and --label_column NAME\n",
        ),
        ("text,stars", ("--text_columns", "text"), "name those to use, --label_column NAME\n"),
        ("text;label", (), "write delimiter: \";\", or --delimiter ';'\n"),
        ("id;text, as sent;label", (), "write delimiter: \";\", or --delimiter ';'\n"),
    ],
)
def test_columns_in_doubt_are_listed_with_the_flags_to_write(mine, capsys, names, flags, told):
    (mine / "x.csv").write_text(f"{names}\n{names}\n")
    assert told in refused(capsys, "--train_file", "x.csv", "--model_dir", "d", *flags)
    assert not (mine / "d").exists()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("absent.csv", None, "absent.csv cannot be read: No such file"),
        ("x.txt", "a", "x.txt: its name ends in no known format; available: .csv, .tsv, .jsonl"),
        ("x.csv", "", "x.csv is empty"),
        ("x.jsonl", "{", "x.jsonl, line 1: is not JSON"),
        ("x.csv", b"\xff\xfea\x00", "x.csv is UTF-16; save it as UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_at_once(mine, capsys, name, content, told):
    if content is not None:
        (mine / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert told in refused(capsys, "--train_file", name, "--model_dir", "d")


def test_a_column_that_is_not_there_is_told_of_the_flag_that_names_it(mine, weights, capsys):
    flags = ("--train_file", "mine.csv", "--model_dir", "d", "--checkpoint_path", weights, *SHORT)
    told = refused(capsys, *flags, "--text_columns", "txt", mode="train")
    assert "mine.csv, line 1 has no column txt, which text_columns (--text_columns) names" in told
    assert "it has text, label; did you mean text?" in told and "params file" not in told
    told = refused(capsys, *flags, "--label_column", "stars", mode="train")
    assert "has no column stars, which label_column (--label_column) names; it has text" in told


def test_a_label_that_is_among_the_texts_is_refused(mine, capsys):
    flags = ("--train_file", "mine.csv", "--model_dir", "d", "--text_columns", "text")
    told = refused(capsys, *flags, "--text_columns", "label")
    assert "text_columns: has label, which label_column names, too; leave the label out" in told


def test_data_flags_without_a_file_to_train_on_ask_for_it(mine, capsys):
    with pytest.raises(SystemExit, match="2"):
        run.main(["--mode", "train", "--eval_file", "mine.csv", "--batch_size", "8"])
    told = capsys.readouterr().err
    assert "--params is missing" in told and "--train_file, a .csv" in told


@pytest.mark.parametrize("mode", ["eval", "eval_all", "predict", "export"])
def test_a_mistyped_model_dir_is_told_where_a_trained_one_is_asked_for(mine, capsys, mode):
    (mine / "empty").mkdir()
    for name, lacks in (("nosuch", "is not there"), ("empty", "holds no params.yaml")):
        with pytest.raises(SystemExit, match="2"):
            run.main(["--mode", mode, "--model_dir", name])
        told = capsys.readouterr().err
        assert f"model_dir {name} {lacks}; give the --model_dir of a training" in told
        assert not (mine / "nosuch").exists()


def test_all_faults_of_flags_are_told_together_as_those_of_the_command_line(mine, capsys):
    flags = ("--train_file", "mine.csv", "--batch_size", 0, "--learning_rate", "fast")
    lines = refused(capsys, *flags, "--override", "train_input.shufle=true").splitlines()
    assert lines[0] == "command line: 3 keys to correct"
    assert any(line.startswith("  --batch_size: train_input.batch_size: is '0'") for line in lines)
    assert any("--override: train_input.shufle: unknown key" in line for line in lines)


@pytest.mark.parametrize("more", [(), ("--validate_only",), ("--compile_only",)])
def test_without_weights_it_says_where_to_get_some(mine, capsys, monkeypatch, more):
    flags = ("--train_file", "mine.csv", "--model_dir", "d", *more)
    monkeypatch.setattr(first_weights, "PACKAGE", "no_such_package")
    told = refused(capsys, *flags)
    assert "no weights are given" in told and "--checkpoint_path hf://" in told
    (mine / "of_setup" / "model").mkdir(parents=True)
    (mine / "of_setup" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(mine)
    monkeypatch.setattr(first_weights, "PACKAGE", "of_setup")
    assert "  --checkpoint_path of_setup/model  (installed by" in refused(capsys, *flags)
    assert not (mine / "d").exists()


def test_tensorflow_is_not_imported_to_refuse(mine):
    flags = ["--mode", "train", "--train_file", "mine.csv", "--model_dir", "d"]
    code = f"import run, sys; print(run.main({flags}), 'tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout == "2 False\n", done.stderr


# ---- The tickets ---------------------------------------------------------------------------------


@pytest.fixture
def tickets(shared_dir):
    path = shared_dir / "repro" / "tickets.csv"
    if not path.exists():
        pytest.skip(f"no {path}")
    return path


def test_the_columns_of_the_tickets_are_listed(tickets, capsys, tmp_path):
    told = refused(capsys, "--train_file", tickets, "--model_dir", tmp_path / "d")
    assert "has the columns ticket_id, channel, message, queue: name those to use" in told


@pytest.mark.slow
def test_the_tickets_become_a_trained_model_its_errors_predictions_and_an_export(tickets, tmp_path):
    """Each is one command."""
    weights = first_weights.installed_weights()
    if weights is None:
        pytest.skip(f"no package {first_weights.PACKAGE}; `make setup` installs it")
    model_dir = tmp_path / "d"
    flags = ("--train_file", tickets, "--text_columns", "message", "--label_column", "queue")
    where = ("--model_dir", model_dir)
    succeed("--mode", "train_and_eval", *flags, *where, "--checkpoint_path", weights)
    report = json.loads((model_dir / "eval" / "report-validation.json").read_text("utf-8"))
    assert report["accuracy"] > 0.5  # of 6 classes; the largest has 29% of the rows

    with open(model_dir / "eval" / "errors_validation.tsv", encoding="utf-8") as file:
        errors = list(csv.DictReader(file, delimiter="\t"))
    assert len(errors) == round(41 * (1 - report["accuracy"]))

    done = succeed("--mode", "eval", *where, "--eval_file", tickets)
    assert " of 410)" in done.stdout
    write_csv(tmp_path / "new.csv", ("message", "id"), [("Where is my refund?", 1), ("Thanks!", 2)])
    done = succeed("--mode", "predict", *where, "--input_file", tmp_path / "new.csv")
    assert len(done.stdout.splitlines()) == 2

    succeed("--mode", "export", *where, "--export_format", "onnx", "--quantize", "int8")
    assert list((model_dir / "export" / "onnx").glob("*int8*"))
