# SPDX-License-Identifier: Apache-2.0
"""The real command in processes of its own: train, kill, resume, evaluate, predict, mistakes."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import run
from common.checkpoints import store
from common.checkpoints.formats import ours
from common.flags import make_parser
from common.params import RunParams
from common.platform.machine_code import read_dict
from common.training.lock import locked
from session import choose_checkpoint
from tests.reference.tiny_bert import huggingface_tensors, save_huggingface

ROOT = Path(__file__).resolve().parent.parent
TINY = "configs/params_bert_tiny.yaml"
SAMPLES = ROOT / "input" / "samples"
NUM_VALIDATION_ROWS = 240
BATCH_SIZE = 7  # does not divide 240
SAVE_EVERY = 20
MORE_STEPS = 15  # after the kill
TIMEOUT_SECONDS = 1200  # of one process on a busy machine; alone each takes some 15 s


def command(*arguments):
    return [sys.executable, "run.py", *map(str, arguments)]


def start(*arguments, **environment):
    """Runs the command to its end. Returns subprocess.CompletedProcess with text."""
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )


def succeed(*arguments, **environment):
    done = start(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def sample_texts(split):
    with open(SAMPLES / f"sst2_{split}.tsv", encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row["sentence"] for row in rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a vocabulary of the sample's letters and most frequent words."""
    folder = tmp_path_factory.mktemp("run")
    text = " ".join(sample_texts("train")).lower()
    words = [word for word, _ in Counter(re.findall(r"[a-z]{2,}", text)).most_common(200)]
    signs = sorted(set(text) - {" "})
    pieces = [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *signs, *pieces, *words]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab), "utf-8")
    return folder


@pytest.fixture(scope="module")
def kept_programs(folder):
    """Where the runs keep their programs; XLA reads its flags up to the next blank."""
    return folder / "kept programs"


@pytest.fixture(scope="module")
def tiny(folder, kept_programs):
    """Flags of every run on the sample."""
    overrides = {
        "runconfig.compile_cache_dir": kept_programs,
        "*_input.vocab_file": folder / "vocab.txt",
        "*_input.cache_dir": folder / "cache",
        "train_input.num_buckets": 1,
        "train_input.batch_size": BATCH_SIZE,
        "optimizer.learning_rate": 1e-3,  # the file's falls to 0 at step 20
        "runconfig.save_checkpoints_steps": SAVE_EVERY,
    }
    flags = ["--params", TINY, "--data_dir", folder / "data"]
    for key, value in overrides.items():
        flags += ["--override", f"{key}={value}"]
    return flags


def ended_by(number, model_dir, flags):
    """Starts a training, and sends it a signal after its first checkpoint.

    Returns subprocess.Popen of the ended process; what it said is in `model_dir`.log.
    """
    arguments = command("--mode", "train", *flags, "--model_dir", model_dir, "--max_steps", 10_000)
    with (
        open(f"{model_dir}.log", "w", encoding="utf-8") as log,
        subprocess.Popen(
            arguments,
            cwd=ROOT,
            stderr=log,
            stdout=log,
            # Tests that nohup started would hand on that SIGHUP is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        ) as process,
    ):
        try:
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while not (model_dir / f"checkpoint-{SAVE_EVERY}").exists():
                assert process.poll() is None and time.monotonic() < deadline, log.name
                time.sleep(0.01)
            process.send_signal(number)
            process.wait(TIMEOUT_SECONDS)
        finally:
            process.kill()
    return process


@pytest.fixture(scope="module")
def killed(folder, tiny):
    """A model_dir whose run was killed after its first checkpoint; and the step it resumes at."""
    model_dir = folder / "killed"
    process = ended_by(signal.SIGKILL, model_dir, tiny)  # nothing can be saved or tidied up
    assert process.returncode == -9
    newest = store.newest_checkpoint(model_dir)
    return model_dir, int(newest.name.removeprefix("checkpoint-"))


@pytest.fixture(scope="module")
def resumed(killed, tiny):
    """The same model_dir after the same command has gone on to last_step; the process."""
    model_dir, step = killed
    last_step = step + MORE_STEPS
    done = succeed("--mode", "train", *tiny, "--model_dir", model_dir, "--max_steps", last_step)
    return model_dir, last_step, done


@pytest.fixture(scope="module")
def uninterrupted(folder, resumed, tiny):
    """A model_dir trained and evaluated to last_step in one go; the process."""
    model_dir = folder / "uninterrupted"
    last_step = resumed[1]
    flags = ["--mode", "train_and_eval", *tiny, "--model_dir", model_dir]
    for key, value in {"best_metric": "eval/loss", "export_best": "keras"}.items():
        flags += ["--override", f"runconfig.{key}={value}"]
    return model_dir, last_step, succeed(*flags, "--max_steps", last_step)


def lines_of(model_dir, split):
    lines = map(json.loads, (model_dir / "metrics.jsonl").read_text("utf-8").splitlines())
    return [line for line in lines if line["split"] == split]


def checkpoint_steps(model_dir):
    return [step for step, _ in store.list_checkpoints(model_dir)]


# ---- Training ------------------------------------------------------------------------------------


def test_a_killed_and_resumed_run_has_every_bit_of_an_uninterrupted_one(
    killed, resumed, uninterrupted
):
    paths = [d / f"checkpoint-{last_step}" for d, last_step, _ in (resumed, uninterrupted)]
    assert [store.fault_in(path) for path in paths] == [None, None]
    for read in (ours.read_weights, ours.read_state):
        actual, expected = map(read, paths)
        assert set(actual) == set(expected)
        for name, tensor in expected.items():
            if name.startswith("run/") and name != "run/losses":
                continue  # of evaluations, which one of the two runs has
            values, wanted = actual[name].read(), tensor.read()
            assert values.dtype == wanted.dtype and values.tobytes() == wanted.tobytes(), name
    assert f"Resuming {killed[0] / f'checkpoint-{killed[1]}'}" in resumed[2].stderr
    # Weights did move after the kill.
    before = ours.read_weights(uninterrupted[0] / f"checkpoint-{killed[1]}")["pooler/kernel"]
    after = ours.read_weights(paths[1])["pooler/kernel"]
    assert np.abs(after.read() - before.read()).max() > 1e-4


def test_a_closed_terminal_ends_a_training_that_has_saved_its_last_step(folder, tiny, killed):
    model_dir = folder / "hung up"  # `killed` is to have kept the programs, as a test says
    process = ended_by(signal.SIGHUP, model_dir, tiny)
    newest = max(checkpoint_steps(model_dir))
    said = Path(f"{model_dir}.log").read_text("utf-8")
    assert process.returncode == 128 + signal.SIGHUP, said
    assert f"Stopped by SIGHUP; the same command continues at step {newest}\n" in said


def test_a_kill_leaves_nothing_half_written_behind_once_resumed(resumed):
    names = {path.name for path in resumed[0].iterdir()}
    assert not [name for name in names if name.endswith(".tmp")]
    assert len(checkpoint_steps(resumed[0])) <= 3  # keep_checkpoint_max of the file
    steps = [line["step"] for line in lines_of(resumed[0], "train")]
    assert steps == sorted(set(steps)) and steps[-1] == resumed[1]


def runs_of(model_dir):
    """The starts of a model_dir, oldest first: list of (run.json, folder)."""
    folders = sorted((model_dir / "runs").iterdir())
    return [(json.loads((folder / "run.json").read_text("utf-8")), folder) for folder in folders]


def test_every_start_is_on_record_from_its_beginning(resumed, uninterrupted):
    (killed, folder), (second, _) = runs_of(resumed[0])
    assert (killed["mode"], killed["exit_code"], killed["ended"]) == ("train", None, None)
    assert [path.name for path in folder.iterdir()] == ["run.json"]  # it came to no Result
    assert second["exit_code"] == 0 and "--max_steps" in second["command"]
    assert killed["params_sha256"] != second["params_sha256"]  # they go to another step
    ((facts, folder),) = runs_of(uninterrupted[0])
    result = json.loads((folder / "result-train_and_eval.json").read_text("utf-8"))
    last = lines_of(uninterrupted[0], "eval")[-1]
    assert result["figures"]["eval/accuracy_cls"] == last["eval/accuracy_cls"]
    assert result["num_examples"] == NUM_VALIDATION_ROWS and result["step"] == uninterrupted[1]
    assert result["run"] == facts["id"] and result["checkpoint"].endswith(f"-{uninterrupted[1]}")


def test_train_and_eval_scores_every_row_at_every_save_and_says_where_all_is(uninterrupted):
    model_dir, last_step, done = uninterrupted
    saves = sorted({*range(SAVE_EVERY, last_step, SAVE_EVERY), last_step})
    lines = lines_of(model_dir, "eval")
    best = min(lines, key=lambda line: line["loss"])["step"]
    assert checkpoint_steps(model_dir) == sorted({*saves[-3:], best})
    assert [line["step"] for line in lines] == saves
    assert all(0 <= line["eval/accuracy_cls"] <= 1 and line["loss"] > 0 for line in lines)
    report = json.loads((model_dir / "eval" / "report-validation.json").read_text("utf-8"))
    assert report["num_examples"] == np.sum(report["confusion"]) == NUM_VALIDATION_ROWS
    assert report["accuracy"] == pytest.approx(lines[-1]["eval/accuracy_cls"])
    for name in ("confusion_validation.png", "learning_curves.png"):
        assert (model_dir / "plots" / name).read_bytes().startswith(b"\x89PNG")
    for event_dir in (model_dir, model_dir / "eval"):
        assert list(event_dir.glob("events.out.tfevents.*"))
    assert (model_dir / "params.yaml").is_file()
    assert f"train step {last_step}/{last_step}" in done.stderr
    best = min(line["loss"] for line in lines)
    for text in (f"{lines[-1]['eval/accuracy_cls']:.4f}", f"eval/loss {best:.4f}", str(model_dir)):
        assert text in done.stdout and "tensorboard --logdir" in done.stdout


def test_the_best_is_named_and_exported_at_the_end(uninterrupted):
    model_dir = uninterrupted[0]
    best = min(lines_of(model_dir, "eval"), key=lambda line: line["loss"])
    params = RunParams(model_dir=str(model_dir), checkpoint_path="best", mode="predict")
    chosen = choose_checkpoint(params)
    assert chosen == (None, model_dir / f"checkpoint-{best['step']}")
    manifest = json.loads((model_dir / "export" / "keras" / "export.json").read_text("utf-8"))
    assert manifest["step"] == best["step"] and manifest["metrics"]["loss"] == best["loss"]
    # The summary of the training comes first: the export can still fail.
    stdout = uninterrupted[2].stdout
    assert 0 <= stdout.index("  Done ") < stdout.index("  Exported ")


def test_a_run_is_not_resumed_with_params_of_another_meaning_unless_allowed(
    resumed, tiny, capsys, tmp_path
):
    model_dir, last_step = shutil.copytree(resumed[0], tmp_path / "copy"), resumed[1]
    before = {path: path.stat().st_mtime_ns for path in model_dir.rglob("*") if path.is_file()}
    flags = ("--mode", "train", *tiny, "--model_dir", model_dir, "--max_steps", last_step)
    flags += ("--override", "optimizer.weight_decay_rate=0.125")
    message = refused_here(capsys, *flags)
    assert "optimizer.weight_decay_rate was" in message and "is now 0.125" in message
    assert "--allow_changed_params" in message and "max_steps" not in message
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert run.main([*map(str, flags), "--allow_changed_params"]) == 0
    assert "weight_decay_rate" in capsys.readouterr().err


def test_two_runs_do_not_write_to_one_model_dir(tmp_path, capsys):
    with locked(tmp_path / "model_dir"):
        flags = ("--mode", "train", "--params", ROOT / TINY, "--model_dir", tmp_path / "model_dir")
        message = refused_here(capsys, *flags, "--max_steps", 1, exit_code=75)
    assert f"being written by process {os.getpid()}" in message


@pytest.mark.parametrize(
    ("mode", "name"), [("train", "run.lock"), ("eval", "eval"), ("predict", "plots")]
)
def test_nothing_is_written_or_deleted_through_a_link(tmp_path, capsys, mode, name):
    elsewhere, model_dir = tmp_path / "elsewhere", tmp_path / "model_dir"
    for folder in (elsewhere, model_dir):
        folder.mkdir()
    notes = elsewhere / ".notes.png.1.tmp"
    notes.write_text("of the user")
    (model_dir / name).symlink_to(notes if name == "run.lock" else elsewhere)
    flags = ("--params", ROOT / TINY, "--model_dir", model_dir)
    assert f"{name} is a symbolic link" in refused_here(capsys, "--mode", mode, *flags)
    assert notes.read_text() == "of the user"
    assert list(model_dir.iterdir()) == [model_dir / name] and (model_dir / name).is_symlink()


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(tmp_path, capsys):
    for step, text in ((4, "{}"), (8, "")):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / store.MANIFEST).write_text(text)
    flags = ("--mode", "train", "--params", ROOT / TINY, "--model_dir", tmp_path, "--max_steps", 9)
    message = refused_here(capsys, *flags)
    assert f"no checkpoint of {tmp_path} is intact" in message and "move them away" in message
    for step in (4, 8):
        assert f"  {tmp_path}/checkpoint-{step}: manifest.json is damaged\n" in message
    assert checkpoint_steps(tmp_path) == [4, 8]


# ---- Evaluation ----------------------------------------------------------------------------------


def test_eval_gives_the_figures_of_the_evaluation_while_training(uninterrupted, tiny, folder):
    trained, last_step, _ = uninterrupted
    model_dir = folder / "evaluated"
    flags = ("--model_dir", model_dir, "--checkpoint_path", trained, "--json")
    result = json.loads(succeed("--mode", "eval", *tiny, *flags).stdout)
    (line,) = lines_of(model_dir, "eval")
    assert result["figures"].items() <= line.items() and result["num_examples"] == 240
    assert result["checkpoint"] == line["checkpoint"] == str(trained)
    expected = lines_of(trained, "eval")[-1]
    assert line["step"] == expected["step"] == last_step
    for name in result["figures"]:
        assert line[name] == pytest.approx(expected[name], abs=1e-6), name
    report = json.loads((model_dir / "eval" / "report-validation.json").read_text("utf-8"))
    assert report["num_examples"] == NUM_VALIDATION_ROWS
    assert (model_dir / "plots" / "confusion_validation.png").read_bytes().startswith(b"\x89PNG")


def test_eval_all_lists_every_checkpoint_of_a_model_dir_by_its_own_params(uninterrupted, tmp_path):
    model_dir = shutil.copytree(uninterrupted[0], tmp_path / "copy")
    expected = {line["step"]: line["eval/accuracy_cls"] for line in lines_of(model_dir, "eval")}
    done = succeed("--mode", "eval_all", "--model_dir", model_dir)
    rows = [line.split() for line in done.stdout.splitlines()]
    figures = [dict(zip(row[::2], row[1::2], strict=False)) for row in rows]  # name, value, ...
    assert [int(row["step"]) for row in figures] == checkpoint_steps(model_dir)
    for row in figures:
        assert row["accuracy"] == f"{expected[int(row['step'])]:.4f}"
    losses = [float(row["loss"]) for row in figures]  # the run's best_metric is eval/loss
    assert [row[-1] == "best" for row in rows] == [loss == min(losses) for loss in losses]


# ---- Prediction ----------------------------------------------------------------------------------


def read_predictions(model_dir):
    path = model_dir / "predict" / "predictions_tf_0"
    with open(f"{path}.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return np.load(f"{path}.npz")["arr_0"], rows


def test_predict_writes_logits_and_a_table_of_every_row(uninterrupted, tiny, tmp_path):
    model_dir = shutil.copytree(uninterrupted[0], tmp_path / "copy")
    succeed("--mode", "predict", *tiny, "--model_dir", model_dir)
    logits, rows = read_predictions(model_dir)
    assert logits.shape == (NUM_VALIDATION_ROWS, 2) and logits.dtype == np.float32
    texts = [" ".join(text.split()) for text in sample_texts("validation")]
    assert [row["text"] for row in rows] == texts
    assert [row["id"] for row in rows] == [str(i) for i in range(NUM_VALIDATION_ROWS)]
    names = np.array(["negative", "positive"])
    assert [row["label"] for row in rows] == names[logits.argmax(axis=1)].tolist()
    # The accuracy of what was predicted is that of the evaluation.
    with open(SAMPLES / "sst2_validation.tsv", encoding="utf-8", newline="") as file:
        labels = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        labels = [int(row["label"]) for row in labels]
    accuracy = np.mean(logits.argmax(axis=1) == labels)
    best = min(lines_of(model_dir, "eval"), key=lambda line: line["loss"])
    assert accuracy == pytest.approx(best["eval/accuracy_cls"])  # what best_metric chose


def test_text_of_the_command_line_and_of_a_file_is_classified(uninterrupted, folder):
    # Neither vocabulary nor data is named: the checkpoint brings all that is needed.
    lines = folder / "lines.txt"
    lines.write_text('A film to forget.\n\n  \nGood "quotes", 100%!\n', "utf-8")
    model_dir = folder / "predicted"
    done = succeed(
        *("--mode", "predict", "--params", TINY, "--model_dir", model_dir),
        *("--checkpoint_path", uninterrupted[0], "--data_dir", folder / "absent"),
        *("--text", "What a lovely day", "--text", "naïve", "--input_file", lines),
        **{"PYTHONIOENCODING": "ascii", "KERAS_BACKEND": "jax"},  # for a user's other programs
    )
    texts = ["What a lovely day", "naïve", "A film to forget.", "", "", 'Good "quotes", 100%!']
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[2] for row in rows] == [text.replace("ï", r"\xef") for text in texts]
    assert {row[0] for row in rows} <= {"negative", "positive"}
    assert all(0.5 <= float(row[1]) <= 1 for row in rows)
    logits, table = read_predictions(model_dir)
    assert logits.shape == (len(texts), 2) and [row["text"] for row in table] == texts
    assert [row["label"] for row in table] == [row[0] for row in rows]
    assert not (folder / "absent").exists()
    assert done.stderr == ""  # nothing but the answers


# ---- Mistakes ------------------------------------------------------------------------------------


def refused(done, *texts):
    """The process ended with code 2 and a message that holds these texts."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
    for text in texts:
        assert text in done.stderr


def test_a_misspelt_key_is_named_with_its_line_and_the_right_one(tmp_path):
    lines = (ROOT / "configs" / "params_bert_minilm_sst2.yaml").read_text("utf-8").splitlines()
    number = next(n for n, line in enumerate(lines) if line.strip().startswith("learning_rate:"))
    lines[number] = lines[number].replace("learning_rate", "learning_rte")
    params = tmp_path / "params.yaml"
    params.write_text("\n".join(lines), "utf-8")
    done = start("--mode", "train", "--params", params, "--model_dir", tmp_path / "model_dir")
    refused(done, str(params), f"line {number + 1}: optimizer.learning_rte", "learning_rate?")
    assert os.listdir(tmp_path) == ["params.yaml"]


def test_no_flags_give_a_short_message():
    done = start()
    refused(done, "--params", "usage: run.py")
    assert len(done.stderr.splitlines()) < 15


def test_a_missing_file_is_named_with_one_that_is_there(tmp_path):
    model_dir = tmp_path / "model_dir"
    flags = ("--mode", "train", "--model_dir", model_dir)
    done = start("--params", "configs/params_bert_tini.yaml", *flags)
    refused(done, "configs/params_bert_tini.yaml: no such file", TINY)
    assert len(done.stderr.splitlines()) == 1 and not model_dir.exists()


@pytest.mark.parametrize("imported", ["common.platform.huge_pages", "pydantic", "common.params"])
def test_an_interruption_while_the_program_starts_gives_no_traceback(imported):
    arguments = [sys.executable, "-X", "importtime", *command("--help")[1:]]
    with subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        # Its lines stay in the pipe when it has ended, as it may have under load.
        while f" {imported}\n" not in (line := process.stderr.readline()):
            assert line, f"{imported} was not imported"
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stderr.read()
    assert process.returncode in (-signal.SIGINT, 0)  # the last imports may be through


def test_a_reader_that_is_gone_is_no_failure(tmp_path):
    weights = save_huggingface(tmp_path, huggingface_tensors())
    arguments = command("--mode", "inspect", "--checkpoint_path", weights)
    with subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""  # no BrokenPipeError
    assert process.returncode == 0


def test_help_names_every_flag():
    done = succeed("--help")
    for flag in vars(make_parser().parse_args([])):
        assert f"--{flag}" in done.stdout


def refused_here(capsys, *arguments, exit_code=2):
    """As a process of its own, but faster; returns the message."""
    assert run.main(list(map(str, arguments))) == exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.mark.parametrize("mode", ["eval", "eval_all", "predict"])
def test_modes_that_need_a_checkpoint_say_that_there_is_none(tmp_path, capsys, mode):
    model_dir = tmp_path / "model_dir"
    message = refused_here(
        capsys, "--mode", mode, "--params", ROOT / TINY, "--model_dir", model_dir
    )
    assert f"{model_dir} holds no checkpoint" in message and "train first" in message
    assert ("--checkpoint_path" in message) == (mode != "eval_all")
    assert not model_dir.exists()


@pytest.mark.parametrize("mode", ["train", "predict"])
def test_params_are_needed_to_train_and_where_model_dir_has_none(tmp_path, capsys, mode):
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "params.yaml").write_text("model: {}\n")
    model_dir = tmp_path / ("trained" if mode == "train" else "elsewhere")
    with pytest.raises(SystemExit, match="2"):
        run.main(["--mode", mode, "--model_dir", str(model_dir)])
    told = "--params is missing" if mode == "train" else f"model_dir {model_dir} is not there"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "--mode is missing"),
        (["--mode", "eval", "--text", "x"], "--mode predict"),
        (["--mode", "train", "--override", "model.num_heads=7"], "num_heads"),
        (["--mode", "train", "--override", "learning_rate"], "KEY=VALUE"),
        (["--mode", "train", "--max_steps", "0"], "--max_steps"),
    ],
)
def test_flags_that_do_not_fit_are_refused_by_name(tmp_path, capsys, flags, text):
    model_dir = tmp_path / "model_dir"
    message = refused_here(capsys, "--params", ROOT / TINY, "--model_dir", model_dir, *flags)
    assert text in message and not model_dir.exists()


# ---- Compile ahead -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_loads_what_was_compiled_ahead_and_has_the_bits_of_one_that_compiles(folder, tiny):
    flags = ("--mode", "train_and_eval", *tiny, "--max_steps", 3)
    ahead, plain = folder / "ahead", folder / "plain"
    compiled = succeed(*flags, "--model_dir", ahead, "--compile_only").stderr
    assert "programs in" in compiled and store.newest_checkpoint(ahead) is None
    (manifest,) = ahead.glob("compiled/*/config-*/programs.json")
    entries = read_dict(manifest, "programs").values()
    assert len(entries) > 1 and all(entry["devices"] for entry in entries)  # optimized graphs
    loaded = succeed(*flags, "--model_dir", ahead).stderr
    assert "Loading" in loaded and "compiled now" not in loaded
    succeed(*flags, "--model_dir", plain, "--override", "runconfig.compile_cache_dir=false")
    expected = ours.read_weights(plain / "checkpoint-3")
    for name, weight in ours.read_weights(ahead / "checkpoint-3").items():
        np.testing.assert_array_equal(weight.read(), expected[name].read(), err_msg=name)
    changed = ("--override", "model.dropout_rate=0.3", "--allow_changed_params", "--max_steps", 4)
    told = succeed(*flags, "--model_dir", ahead, *changed).stderr
    assert "of another configuration: model.dropout_rate was 0.1, is 0.3" in told


def test_a_run_keeps_its_programs_for_those_that_train_alike_with_its_bits(
    folder, tiny, killed, resumed, uninterrupted, kept_programs
):
    # The killed run traced its step, the two others load it; their bits are compared above.
    first = (folder / "killed.log").read_text("utf-8")
    assert "train step" in first and "that an earlier run kept" not in first
    for _, _, done in (resumed, uninterrupted):
        assert "Loading 1 program that an earlier run kept" in done.stderr
    before, code = (sorted(kept_programs.glob(f"machine-*/{x}")) for x in ("config-*", "xla/*"))
    decay = ("--override", "optimizer.weight_decay_rate=0.5", "--max_steps", 1)
    other = succeed("--mode", "train", *tiny, "--model_dir", folder / "other", *decay)
    assert "Loading" not in other.stderr
    assert len(list(kept_programs.glob("machine-*/config-*"))) == len(before) + 1
    assert sorted(kept_programs.glob("machine-*/xla/*")) == code  # it compiled no loop of its own


def test_several_params_files_are_compiled_each_by_a_process_of_its_own(monkeypatch):
    started = []

    def start_process(arguments):
        started.append(arguments[2:])
        return subprocess.CompletedProcess(arguments, 2 if "a.yaml" in arguments else 0)

    monkeypatch.setattr(subprocess, "run", start_process)
    assert run.main(["-m", "train", "-p", "a.yaml", "--compile_only", "--params=b.yaml"]) == 2
    flags = ["-m", "train", "--compile_only", "--params"]
    assert started == [[*flags, "a.yaml"], [*flags, "b.yaml"]]
    with pytest.raises(SystemExit, match="2"):  # a run has one
        run.main(["--mode", "train", "--params", "a.yaml", "--params", "b.yaml"])


def test_the_home_folder_is_meant_by_a_tilde_in_every_path(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.yaml").write_bytes((ROOT / TINY).read_bytes())
    args = make_parser().parse_args(
        ["--params", "~/x.yaml", "--input_file", "~/in.txt", "--export_dir", "~/out"]
    )
    given = [*args.params, args.input_file, args.export_dir]
    assert given == [str(tmp_path / name) for name in ("x.yaml", "in.txt", "out")]
    flags = ("--mode", "eval", "--params", "~/x.yaml", "--model_dir", "~/runs")
    assert f"{tmp_path}/runs holds no checkpoint to use" in refused_here(capsys, *flags)
    flags = ("--mode", "predict", *flags[2:], "--checkpoint_path", "~/weights")
    assert f"checkpoint {tmp_path}/weights: there is no such" in refused_here(capsys, *flags)
    assert not (ROOT / "~").exists()


@pytest.mark.parametrize("key", ["validate_only", "compile_only"])
def test_json_is_refused_for_a_check_that_the_params_ask_for(tmp_path, capsys, key):
    flags = ("--mode", "train", "--params", ROOT / TINY, "--model_dir", tmp_path / "d", "--json")
    message = refused_here(capsys, *flags, "--override", f"runconfig.{key}=true")
    assert "--json prints the result of training" in message and not (tmp_path / "d").exists()
