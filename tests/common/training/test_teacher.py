# SPDX-License-Identifier: Apache-2.0
"""Runs with a teacher: from its layers, with its outputs kept or computed, and resumed."""

import json

import numpy as np
import pytest
import yaml

import run
from common.checkpoints.load import open_checkpoint
from common.errors import UserError
from session import open_session
from tests.reference.family_fixtures import FIXTURES, needs_fixtures
from tests.reference.toy_session import bits_of, lines_of
from tests.reference.toy_words import make_task_data
from utils import get_params

WORDS = ("good", "bad", "fine", "dull", "plot", "film", "joy", "dread")
VOCAB = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)


def write_files(folder):
    generator = np.random.default_rng(0)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in VOCAB))
    for name, number in (("train", 60), ("eval", 12)):
        rows = []
        for _ in range(number):
            words = generator.choice(WORDS, generator.integers(1, 9)).tolist()
            score = sum(words.count(w) for w in ("good", "fine", "joy"))
            rows.append(f"{' '.join(words)},{'yes' if score > len(words) / 3 else 'no'}")
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *rows, ""]))


def values_of(folder, layers=3, **sections):
    values = {
        "train_input": {
            "data_processor": "TextFileDataProcessor",
            "train_file": str(folder / "train.csv"),
            "eval_file": str(folder / "eval.csv"),
            "text_columns": ["text"],
            "label_column": "label",
            "vocab_file": str(folder / "vocab.txt"),
            "cache_dir": str(folder / "cache"),
            "max_sequence_length": 11,
            "batch_size": 8,
        },
        "model": {
            "hidden_size": 8,
            "num_hidden_layers": layers,
            "num_heads": 2,
            "filter_size": 16,
            "max_position_embeddings": 16,
            "mixed_precision": "float32",
        },
        "optimizer": {"learning_rate": 0.01},
        "runconfig": {"save_checkpoints_steps": 5, "tf_random_seed": 1, "max_steps": 10},
    }
    return {name: values.get(name, {}) | sections.get(name, {}) for name in {**values, **sections}}


def start(folder, name, values, *flags, mode="train"):
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    where = ["--params", str(folder / f"{name}.yaml"), "--model_dir", str(folder / name)]
    return run.main(["--mode", mode, *where, *flags])


def distilling(folder, **keys):
    """A file whose network begins with two of the teacher's layers."""
    distillation = {"teacher": str(folder / "teacher"), "student_layers": [0, 2]} | keys
    values = values_of(folder, distillation=distillation)
    values["model"] = {"mixed_precision": "float32"}
    return values


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows, and the model_dir of a teacher of 3 layers."""
    folder = tmp_path_factory.mktemp("distillation")
    write_files(folder)
    values = values_of(folder, runconfig={"max_steps": 30, "save_checkpoints_steps": 30})
    values["runconfig"]["tf_random_seed"] = 4
    assert start(folder, "teacher", values) == 0
    return folder


SLOW = pytest.mark.slow  # a run is seconds, most of them tracing


@pytest.mark.parametrize(
    "how", ["kept", pytest.param("computed", marks=SLOW), pytest.param("layers", marks=SLOW)]
)
def test_a_resumed_run_has_the_bits_of_one_without_a_break(folder, how):
    keys = {"teacher_outputs": how}
    if how == "layers":
        keys = {"hidden_weight": 1, "attention_weight": 1, "teacher_layers": [0, 2]}
    values = distilling(folder, **keys)
    assert start(folder, f"whole_{how}", values) == 0
    assert start(folder, f"broken_{how}", values, "--steps", "4") == 0
    assert start(folder, f"broken_{how}", values) == 0
    whole, broken = (bits_of(folder / f"{name}_{how}" / "checkpoint-10") for name in RUNS)
    assert whole == broken
    (line,) = lines_of(folder / f"whole_{how}", "train")[-1:]
    assert line["train/cost_soft"] > 0 and line["train/cost_hard"] > 0


RUNS = ("whole", "broken")


@SLOW
def test_kept_outputs_train_as_computed_ones_and_are_read_by_the_next_run(folder, tmp_path, capsys):
    values = distilling(folder)
    values["runconfig"] |= {"save_summary_steps": 1}
    values["train_input"]["cache_dir"] = str(tmp_path)  # in which no other test has kept outputs
    start(folder, "first", values)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("teacher-*")}
    capsys.readouterr()
    start(folder, "again", values)
    assert "Teacher's outputs of " in capsys.readouterr().err
    again = {path: path.stat().st_mtime_ns for path in tmp_path.glob("teacher-*")}
    assert again == kept and len(kept) == 1
    assert bits_of(folder / "first" / "checkpoint-10") == bits_of(
        folder / "again" / "checkpoint-10"
    )
    values["distillation"]["teacher_outputs"] = "computed"
    start(folder, "beside", values)
    ours, theirs = (
        [line["train/cost_soft"] for line in lines_of(folder / name, "train")]
        for name in ("again", "beside")
    )
    # The teacher's rows share other batches, so the last bits differ, and grow in ten updates.
    assert len(ours) == 10 and ours == pytest.approx(theirs, rel=1e-3)


def test_the_network_begins_with_the_chosen_layers_and_the_rest_of_the_teacher(folder):
    values = distilling(folder)
    (folder / "session.yaml").write_text(yaml.safe_dump(values))
    params = get_params(
        folder / "session.yaml", {"runconfig.mode": "train", "runconfig.model_dir": folder / "new"}
    )
    session = open_session(params)
    assert session.params.model.num_hidden_layers == 2
    teacher = open_checkpoint(folder / "teacher").weights
    begun = session.checkpoint.weights
    assert len(begun) == len(teacher) - 16
    for name, source in (
        ("encoder/layer_1/attention/query/kernel", "encoder/layer_2/attention/query/kernel"),
        ("encoder/layer_0/attention/query/kernel", "encoder/layer_0/attention/query/kernel"),
        ("classifier/kernel", "classifier/kernel"),
    ):
        np.testing.assert_array_equal(np.asarray(begun[name]), np.asarray(teacher[source]))


def test_a_student_is_evaluated_exported_and_used_without_its_teacher(folder):
    values = distilling(folder, teacher_outputs="computed")
    assert start(folder, "student", values) == 0
    (folder / "teacher").rename(folder / "moved")
    try:
        assert start(folder, "student", values, mode="eval") == 0
        assert start(folder, "student", values, "--text", "good film", mode="predict") == 0
        assert start(folder, "student", values, "--export_format", "keras", mode="export") == 0
    finally:
        (folder / "moved").rename(folder / "teacher")
    card = (folder / "student" / "export" / "keras" / "README.md").read_text()
    assert str(folder) not in card


@SLOW
def test_a_fresh_network_of_another_width_learns_from_the_outputs(folder):
    values = distilling(folder)
    del values["distillation"]["student_layers"]
    values["model"] = values_of(folder, layers=1)["model"] | {"hidden_size": 6}
    del values["train_input"]["vocab_file"]  # the teacher's
    assert start(folder, "narrow", values) == 0


@SLOW
@pytest.mark.parametrize("packing", ["packed", "buckets"])
@pytest.mark.parametrize("task", ["token_classification", "question_answering"])
def test_outputs_for_words_are_kept_as_they_are_computed(tmp_path, task, packing):
    rows = {name: str(each) for name, each in make_task_data(tmp_path, task).items()}
    rows |= {"max_sequence_length": 13, "cache_dir": str(tmp_path / "cache"), "packing": packing}
    if task == "question_answering":
        rows |= {"window_stride": 3, "max_query_length": 3, "version_2_with_negative": True}
    values = values_of(tmp_path)
    values["train_input"] = {"batch_size": 8} | rows
    assert start(tmp_path, "teacher", values, "--max_steps", "2") == 0
    values["model"] = {"mixed_precision": "float32", "dropout_rate": 0, "attention_dropout_rate": 0}
    if task == "token_classification":
        values["model"]["encoder_output_dropout_rate"] = 0
    values["runconfig"] |= {"max_steps": 2, "save_summary_steps": 1}
    losses = {}
    for how in ("kept", "computed"):
        teacher = {"teacher": str(tmp_path / "teacher"), "student_layers": [0, 2]}
        values["distillation"] = teacher | {"teacher_outputs": how}
        assert start(tmp_path, how, values) == 0
        lines = lines_of(tmp_path / how, "train")
        losses[how] = [line[f"train/cost{part}"] for line in lines for part in ("", "_soft")]
    assert min(losses["kept"]) > 0
    # The teacher's rows share other batches, so the last bits differ.
    assert losses["kept"] == pytest.approx(losses["computed"], rel=1e-4)
    assert len(list((tmp_path / "cache").glob("teacher-*"))) == 1


@SLOW
def test_masked_words_are_learned_from_a_teacher_without_a_next_sentence_head(folder, tmp_path):
    """With DistilBERT's losses; the teacher is a training of this project."""
    text = [line.rpartition(",")[0] for line in (folder / "train.csv").read_text().splitlines()]
    (tmp_path / "text.txt").write_text("\n\n".join(text[1:]) + "\n")
    values = values_of(folder, model={"disable_nsp": True})
    values["train_input"] = {
        "data_processor": "DocumentDataProcessor",
        "train_documents": str(tmp_path / "text.txt"),
        "sentence_pairs": "none",
        "duplicates": "keep",
        "vocab_file": str(folder / "vocab.txt"),
        "cache_dir": str(tmp_path / "cache"),
        "max_sequence_length": 11,
        "batch_size": 8,
    }
    assert start(tmp_path, "teacher", values) == 0
    values["model"] = {"disable_nsp": True, "mixed_precision": "float32"}
    losses = {"soft_weight": 5, "hard_weight": 2, "cosine_weight": 1}
    teacher = {"teacher": str(tmp_path / "teacher"), "student_layers": [0, 2]}
    assert start(tmp_path, "student", values | {"distillation": teacher | losses}) == 0
    figures = lines_of(tmp_path / "student", "train")[-1]
    parts = (figures[f"train/cost_{name}"] * weight for name, weight in (("soft", 5), ("hard", 2)))
    total = sum(parts) + figures["train/cost_cosine"]
    assert figures["train/cost"] == pytest.approx(total, rel=1e-5)


def test_validation_and_compilation_know_the_teachers_outputs(folder, capsys):
    of_layers = {"hidden_weight": 1, "teacher_layers": [0, 2], "relation_weight": 1}
    for name, keys in (("kept", {}), ("layers", of_layers)):
        values = distilling(folder, **keys)
        assert start(folder, f"checked_{name}", values, "--validate_only") == 0
        assert start(folder, f"checked_{name}", values, "--compile_only") == 0
        assert list((folder / f"checked_{name}" / "compiled").rglob("train-*.pb"))
        capsys.readouterr()
        assert start(folder, f"checked_{name}", values) == 0
        told = capsys.readouterr().err
        assert "compiled ahead" in told and "is compiled now" not in told


# ---- Refusals ------------------------------------------------------------------------------------


@needs_fixtures
def test_validation_refuses_a_teacher_without_a_trained_head(folder, capsys):
    """Which only the training told, after the rows were prepared."""
    values = distilling(folder, teacher=str(FIXTURES / "hf_distilbert" / "model"))
    values["distillation"]["student_layers"] = [0]
    del values["train_input"]["vocab_file"]
    assert start(folder, "headless", values, "--validate_only") == 2
    assert "has no trained weights for classifier/bias, classifier/" in capsys.readouterr().err


def refused(folder, values, match, **runconfig):
    (folder / "refused.yaml").write_text(yaml.safe_dump(values))
    overrides = {"runconfig.mode": "train", "runconfig.model_dir": folder / "refused"}
    overrides |= {f"runconfig.{key}": value for key, value in runconfig.items()}
    with pytest.raises(UserError, match=match):
        path = folder / "refused.yaml"
        open_session(get_params(path, overrides), str(path))


def test_what_does_not_fit_is_refused_in_a_sentence(folder, tmp_path):
    write_files(tmp_path)
    lines = (tmp_path / "vocab.txt").read_text().replace("good\nbad", "bad\ngood")
    (tmp_path / "vocab.txt").write_text(lines)
    given = {"vocab_file": str(tmp_path / "vocab.txt")}
    values = distilling(folder)
    refused(folder, values | {"train_input": values["train_input"] | given}, "'bad' is token 5 of")
    (tmp_path / "more.txt").write_text((folder / "vocab.txt").read_text() + "more\n")
    given = {"vocab_file": str(tmp_path / "more.txt")}
    values["distillation"].pop("student_layers")
    values["model"] = values_of(folder)["model"]
    more = values | {"train_input": values["train_input"] | given}
    refused(folder, more, r"vocabulary of 13 entries, but the training's has 14; .* read the same")
    refused(folder, distilling(folder, student_layers=[0, 3]), r"has 3, but .* has 3 layers")
    rows = (folder / "train.csv").read_text().replace(",no", ",never")
    (tmp_path / "train.csv").write_text(rows)
    values = distilling(folder)
    values["train_input"] |= {"train_file": str(tmp_path / "train.csv"), "eval_fraction": 0.2}
    del values["train_input"]["eval_file"]
    refused(folder, values, "has the labels no, yes, but those of the training are never, yes")
    cased = distilling(folder)
    del cased["distillation"]["student_layers"]
    cased["model"] = values_of(folder)["model"]
    cased["train_input"]["do_lower"] = False
    refused(folder, cased, "do_lower")


@pytest.mark.parametrize(
    "keys, runconfig, match",
    [
        ({"soft_weight": 0}, {}, "nothing is learned from the teacher"),
        ({}, {"checkpoint_path": "x"}, "leave one of the two out"),
        ({"student_layers": [2, 0]}, {}, "numbers of layers that increase"),
        ({"student_layers": []}, {}, "numbers of layers that increase"),
        ({"student_layers": None}, {}, "--checkpoint_path, or distillation.student_layers"),
        ({"teacher_layers": [0, 2]}, {}, "nothing is learned from layers; give one of hidden_w"),
        ({"temperature": 0}, {}, "temperature"),
        ({"teacher": "no/such"}, {}, r"line \d+: .*no/such: there is no such file"),
        ({"tempreature": 2}, {}, "did you mean temperature"),
    ],
    ids=str,
)
def test_keys_that_contradict_each_other_are_refused(folder, keys, runconfig, match):
    refused(folder, distilling(folder, **keys), match, **runconfig)


def test_another_teacher_is_refused_when_a_run_is_resumed(folder, capsys):
    values = values_of(folder, runconfig={"max_steps": 5, "tf_random_seed": 8})
    assert start(folder, "other_teacher", values) == 0
    assert start(folder, "resumed", distilling(folder), "--steps", "5") == 0
    other = distilling(folder, teacher=str(folder / "other_teacher"))
    capsys.readouterr()
    assert start(folder, "resumed", other) == 2
    assert "the teacher was " in capsys.readouterr().err
    config = json.loads((folder / "resumed" / "checkpoint-5" / "config.json").read_text())
    assert len(config["contents"]["teacher"]) == 64
