# SPDX-License-Identifier: Apache-2.0
"""`--validate_only` names all that is wrong with a set-up in one run, and changes nothing."""

import json
import re
from pathlib import Path

import pytest
import yaml

import run
from common.checkpoints import store
from common.errors import UserError
from common.validate import validate as validate_module
from tests.reference.tiny_bert import huggingface_tensors, save_huggingface

LETTERS = "abcdefghijklmnopqrs"
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS]  # 23, as of the tiny checkpoint
ROWS = [(f"{x} {y} {y}", "long" if x < y else "short") for x in "abcde" for y in "abcd"]


@pytest.fixture
def folder(tmp_path):
    """Data, vocabulary, a checkpoint and a file of params that fit each other."""
    write_rows(tmp_path / "rows.tsv", ROWS)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    save_huggingface(tmp_path / "weights", huggingface_tensors())
    return tmp_path


def write_rows(path, rows):
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))


def values_of(folder):
    """The file of params, as plain values."""
    return {
        "train_input": {
            "data_processor": "TextFileDataProcessor",
            "train_file": str(folder / "rows.tsv"),
            "eval_file": str(folder / "rows.tsv"),
            "text_columns": ["text"],
            "label_column": "label",
            "label_names": ["long", "short"],
            "vocab_file": str(folder / "vocab.txt"),
            "cache_dir": str(folder / "cache"),
            "max_sequence_length": 4,
            "batch_size": 3,
            "num_buckets": 1,
        },
        "model": {
            "hidden_size": 6,
            "num_hidden_layers": 2,
            "num_heads": 2,
            "filter_size": 13,
            "max_position_embeddings": 19,
        },
        "optimizer": {"learning_rate": 1e-3},
        "runconfig": {"max_steps": 10, "tf_random_seed": 1},
    }


def validate(folder, changes=None, *flags, mode="train_and_eval"):
    """Runs the command in this process. Returns its exit code and the report, None where none."""
    values = values_of(folder)
    for dotted, value in (changes or {}).items():
        section, key = dotted.split(".")
        values[section][key] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    model_dir = folder / "model_dir"
    arguments = ["--mode", mode, "--params", str(folder / "params.yaml"), "--validate_only"]
    code = run.main([*arguments, "--model_dir", str(model_dir), *map(str, flags)])
    path = model_dir / "validate" / "report.json"
    return code, json.loads(path.read_text()) if path.exists() else None


def content_of(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_sound_set_up_is_described_and_nothing_else_is_written(folder, capsys):
    code, report = validate(folder, None, "--checkpoint_path", folder / "weights")
    assert (code, report["ok"], report["problems"]) == (0, True, [])
    assert list(content_of(folder / "model_dir")) == [Path("validate/report.json")]
    # 23 x 6, 19 x 6, 2 x 6, norm 12; a layer 4 x 42 + 24 + 6 x 13 + 13 + 13 x 6 + 6; head 42 + 14
    assert report["parameters"]["all"] == 276 + 2 * (168 + 24 + 175) + 56
    data = report["data"]["train"]
    assert data["rows"] == 20
    assert data["truncated_share"] == 1.0  # 3 words and two special tokens, of which 4 are left
    assert data["padding_share"] == 0.0
    assert data["summary"]["num_rows"] == data["summary"]["num_truncated"] == 20
    assert data["first_batch"]["input_ids"]["shape"] == [3, 4]
    assert report["programs"]["train"]["shape"] == [3, 4]
    assert report["programs"]["eval"]["flops"] * 3 == report["programs"]["train"]["flops"]
    # Weights and AdamW's two slots; the classifier of 14 numbers is not the checkpoint's.
    assert report["disk"]["checkpoint"] // 4 == pytest.approx(3 * 1066, abs=2)
    assert report["checkpoint"]["weights"]["fresh"] == 2
    printed = capsys.readouterr().out
    for word in ("max_sequence_length cuts", "padding", "1,066", "GFLOP", "Memory", "available"):
        assert word in printed


def other_rows(rows):
    return lambda folder: write_rows(folder / "rows.tsv", rows)


def truncate_weights(folder):
    file = folder / "weights" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-40])


def not_finite_weights(folder):
    tensors = huggingface_tensors()
    tensors["pooler.dense.bias"][0] = float("nan")
    save_huggingface(folder / "weights", tensors)


def damaged_model_dir(folder):
    path = folder / "model_dir" / "checkpoint-4"
    path.mkdir(parents=True)
    (path / "manifest.json").write_text("{}")


UNEXPORTABLE = {
    "model.pooler_type": "mean",
    "runconfig.best_metric": "eval/loss",
    "runconfig.export_best": "tf1",
}
# What is wrong: (what is done to the folder or None, changed keys, flags, what the text has to say)
FAULTS = {
    "label out of range": (other_rows([*ROWS, ("a b", "middle")]), {}, (), r"middle"),
    "vocabulary smaller than the ids": (None, {"model.vocab_size": 9}, (), r"vocab_size.* 9"),
    "data missing": (None, {"train_input.train_file": "absent.tsv"}, (), r"absent\.tsv"),
    "empty data": (other_rows([]), {}, (), r"rows\.tsv"),
    "split without labels": (other_rows([(t, "") for t, _ in ROWS]), {}, (), r"label"),
    "checkpoint of another size": (
        None,
        {"model.filter_size": 11},
        ("--checkpoint_path", "$/weights"),
        r"filter_size.* 11.* 13",
    ),
    "checkpoint absent": (None, {}, ("--checkpoint_path", "$/none"), r"none.* no such"),
    "checkpoint damaged": (truncate_weights, {}, ("--checkpoint_path", "$/weights"), r"safetens"),
    "checkpoint not finite": (
        not_finite_weights,
        {},
        ("--checkpoint_path", "$/weights"),
        r"pooler/bias.*not finite",
    ),
    "checkpoint of model_dir damaged": (damaged_model_dir, {}, (), r"checkpoint-4.* damaged"),
    "sequence longer than the positions": (
        None,
        {"train_input.max_sequence_length": 20},
        (),
        r"20 exceeds model.max_position_embeddings 19",
    ),
    "batch larger than the data": (None, {"train_input.batch_size": 21}, (), r"only 20 rows"),
    "layer to freeze absent": (None, {"model.freeze": ["layers:3"]}, (), r"layers:3"),
    "device absent": (None, {}, ("--device", "/gpu:7"), r"/gpu:7 is not here"),
    "length of the training not said": (None, {"runconfig.max_steps": None}, (), r"--max_steps"),
    "metric absent": (
        None,
        {"runconfig.best_metric": "eval/acuracy"},
        (),
        r"eval/acuracy.*available: .*eval/accuracy_cls",
    ),
    "network that the format to export to has not": (
        None,
        UNEXPORTABLE,
        (),
        r"model\.pooler_type is mean, and google-research/bert knows first alone",
    ),
    # Five kernels of 2^34 elements, of 4 bytes each and as many of gradients: 687 GB.
    "network too large": (
        None,
        {"model.hidden_size": 131_072, "model.num_hidden_layers": 1},
        (),
        r"model with .*hidden_size 131,072, .* weights: at least 687\.3 GB of memory",
    ),
}

# Found with the programs, which take a second to trace.
TRACED = ("checkpoint not finite", "metric absent")


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_set_up_is_named(name, folder, capsys, monkeypatch):
    damage, changes, flags, expected = FAULTS[name]
    if damage is not None:
        damage(folder)
    if name not in TRACED:
        monkeypatch.setattr(validate_module.Validation, "check_programs", lambda *_: None)
    code, report = validate(folder, changes, *(str(f).replace("$", str(folder)) for f in flags))
    assert code == 2
    text = capsys.readouterr().err.replace("\n", " ")
    assert "Traceback" not in text
    assert re.search(expected, text), text
    if report is not None:  # where the file itself is refused there is none
        assert not report["ok"] and report["problems"]


def test_a_batch_too_large_for_the_memory_is_told_with_one_that_fits(folder, monkeypatch, capsys):
    _, sound = validate(folder)
    memory = sound["memory"]
    state = memory["weights"] + memory["optimizer_and_training_state"]
    a_row = (memory["needed"] - state) / 3
    monkeypatch.setattr(validate_module, "available_bytes", lambda _: int(state + 2.5 * a_row))
    code, report = validate(folder)
    assert code == 2
    (problem,) = report["problems"]
    assert "train_input.batch_size: 2 or less" in problem


def test_a_model_dir_that_cannot_be_written_to_is_told_with_the_size_of_a_checkpoint(
    folder, monkeypatch
):
    def refuse(_):
        raise UserError("model_dir cannot be written to")

    monkeypatch.setattr(validate_module, "_check_model_dir", refuse)
    code, report = validate(folder)
    assert (code, report["problems"]) == (2, ["model_dir cannot be written to"])
    assert report["disk"]["checkpoint"] > 0


def test_all_faults_of_a_set_up_are_told_in_one_run(folder, capsys):
    damaged_model_dir(folder)
    other_rows([*ROWS, ("a b", "middle")])(folder)
    code, report = validate(
        folder,
        {"runconfig.max_steps": None, "model.hidden_size": 131_072},
        *("--device", "/gpu:7", "--checkpoint_path", folder / "none"),
    )
    assert code == 2
    told = "\n".join(report["problems"])
    for word in ("middle", "checkpoint-4", "/gpu:7", "--max_steps", "no such file", "GB free"):
        assert word in told, told
    assert len(report["problems"]) >= 6
    printed = capsys.readouterr().err
    assert all(f"Problem: {problem}" in printed for problem in report["problems"])


def test_a_network_that_cannot_be_exported_is_refused_before_it_is_trained(folder, capsys):
    values = values_of(folder)
    for dotted, value in UNEXPORTABLE.items():
        section, key = dotted.split(".")
        values[section][key] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    arguments = ["--mode", "train_and_eval", "--params", str(folder / "params.yaml")]
    assert run.main([*arguments, "--model_dir", str(folder / "model_dir")]) == 2
    assert "model.pooler_type is mean" in capsys.readouterr().err
    assert not list((folder / "model_dir").glob("checkpoint-*"))


@pytest.fixture
def trained(folder):
    """A model_dir with a checkpoint of 4 steps."""
    (folder / "params.yaml").write_text(yaml.safe_dump(values_of(folder)))
    arguments = ["--mode", "train", "--params", str(folder / "params.yaml"), "--max_steps", "4"]
    assert run.main([*arguments, "--model_dir", str(folder / "model_dir")]) == 0
    return folder


def test_what_a_resumed_run_would_refuse_is_told_and_model_dir_stays_as_it_is(trained, capsys):
    model_dir = trained / "model_dir"
    before = content_of(model_dir)
    code, report = validate(trained)
    assert (code, report["checkpoint"]["resumed"]) == (0, True)
    code, report = validate(trained, {"optimizer.optimizer_type": "sgd"})
    assert code == 2
    told = "\n".join(report["problems"])
    assert "optimizer.optimizer_type was adamw, is now sgd" in told
    assert "adamw/m/" in told  # state that the other optimizer has no place for
    code, report = validate(trained, mode="eval")
    assert (code, report["checkpoint"]["weights"]["fresh"]) == (0, 0)
    after = content_of(model_dir)
    after.pop(Path("validate/report.json"))
    assert after == before
    assert store.fault_in(model_dir / "checkpoint-4") is None


def test_evaluation_without_trained_weights_is_refused(folder, capsys):
    code, _ = validate(folder, mode="eval")
    assert code == 2 and "no checkpoint to use" in capsys.readouterr().err
    code, _ = validate(folder, None, "--checkpoint_path", folder / "weights", mode="eval")
    assert code == 2 and "no trained weights for classifier" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["export", "inspect"])
@pytest.mark.parametrize("flag", ["--validate_only", "--compile_only"])
def test_modes_in_which_the_flags_make_no_sense_refuse_them(mode, flag, folder, capsys):
    (folder / "params.yaml").write_text(yaml.safe_dump(values_of(folder)))
    arguments = ["--mode", mode, flag, "--params", str(folder / "params.yaml")]
    arguments += ["--export_format", "keras"] if mode == "export" else []
    assert run.main([*arguments, "--checkpoint_path", str(folder / "weights")]) == 2
    assert f"{flag} is for training, evaluation and prediction" in capsys.readouterr().err


def test_the_two_flags_together_are_refused(folder, capsys):
    with pytest.raises(SystemExit) as refusal:
        run.main(["--mode", "train", "--params", "x.yaml", "--validate_only", "--compile_only"])
    assert refusal.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
    code, _ = validate(folder, {"runconfig.compile_only": True})  # one in the file, one as a flag
    assert code == 2 and "both true" in capsys.readouterr().err


def test_a_schedule_that_ends_before_the_training_is_told(folder, monkeypatch, capsys):
    monkeypatch.setattr(validate_module.Validation, "check_programs", lambda *_: None)
    falling = {
        "scheduler": "Linear",
        "initial_learning_rate": 1,
        "end_learning_rate": 0,
        "steps": 2,
    }
    code, _ = validate(folder, {"optimizer.learning_rate": falling}, "--max_steps", 8)
    assert code == 0 and "the rate is 0 in 6 of 8 steps" in capsys.readouterr().out


def test_the_length_is_told_in_steps_and_epochs_whichever_key_gives_it(folder, capsys):
    # 20 rows are 6 whole batches of 3; a warm-up of a tenth of 15 steps is one step.
    values = {"runconfig.max_steps": None, "runconfig.num_epochs": 2.5, "optimizer.decay": "linear"}
    code, report = validate(folder, values | {"optimizer.warmup_ratio": 0.1})
    assert (code, report["length"]) == (0, {"steps": 15, "epochs": 2.5})
    printed = capsys.readouterr().out
    assert "15 steps = 2.5 epochs of 6 steps" in printed and "Schedule" not in printed
    code, report = validate(folder, {"runconfig.max_steps": 9}, mode="train")
    assert (code, report["length"]) == (0, {"steps": 9, "epochs": 1.5})
    code, report = validate(folder, None, "--checkpoint_path", folder / "weights", mode="predict")
    assert "length" not in report


def test_texts_that_the_vocabulary_does_not_fit_are_told(folder, monkeypatch, capsys):
    monkeypatch.setattr(validate_module.Validation, "check_programs", lambda *_: None)
    other_rows([*ROWS, ("a zebra", "long")])(folder)  # 1 of 62 tokens, each row of 3 or 2
    code, _ = validate(folder)
    assert code == 0 and "[UNK]" not in capsys.readouterr().out
    other_rows([*ROWS, ("a zebra", "long"), ("b yak", "long")])(folder)
    code, _ = validate(folder)
    assert code == 0 and "3.1% of the tokens are [UNK]" in capsys.readouterr().out


def test_a_length_in_seconds_is_no_problem_and_measured_by_the_training(folder, capsys):
    values = {"runconfig.max_steps": None, "runconfig.max_seconds": 60, "optimizer.decay": "linear"}
    code, report = validate(folder, values, mode="train")
    assert (code, report["problems"]) == (0, []) and "train" in report["programs"]
    assert "the steps of 60 seconds, which training measures first" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        # Each is one problem, and the programs are traced all the same.
        ({"train_input.train_file": "nowhere.tsv", "runconfig.num_epochs": 2}, "nowhere.tsv"),
        ({}, "the length of training is missing"),
        ({"runconfig.steps": 3}, "--steps says how many steps more"),
    ],
)
def test_a_length_that_cannot_be_known_is_one_problem(folder, changes, problem):
    changes = {"runconfig.max_steps": None, "optimizer.decay": "cosine", **changes}
    code, report = validate(folder, changes | {"model.vocab_size": 23}, mode="train")
    assert (code, len(report["problems"])) == (2, 1), report["problems"]
    assert problem in report["problems"][0]
    assert "train" in report["programs"]


def test_validation_waits_for_no_worker_and_asks_for_no_cluster(folder, monkeypatch):
    monkeypatch.setattr(validate_module.Validation, "check_programs", lambda *_: None)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    code, report = validate(folder, {"runconfig.multiple_workers": True})
    assert (code, report["problems"]) == (0, [])


def test_without_a_vocabulary_all_else_is_checked_and_that_is_told_once(folder):
    changes = {"train_input.vocab_file": None, "model.vocab_size": 23}
    code, report = validate(folder, changes)
    (problem,) = report["problems"]
    assert code == 2 and "no checkpoint brings a vocabulary" in problem
    flags = ("--checkpoint_path", folder / "nowhere")
    code, report = validate(folder, changes, *flags)
    assert (
        code == 2 and f"checkpoint {folder / 'nowhere'}: there is no such" in report["problems"][0]
    )


@pytest.mark.parametrize("weights", ["auto", [1.0, 2.5]])
def test_class_weights_are_validated_like_all_else(folder, weights):
    code, report = validate(folder, {"model.class_weights": weights})
    assert (code, report["problems"]) == (0, [])
