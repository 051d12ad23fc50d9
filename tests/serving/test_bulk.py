# SPDX-License-Identifier: Apache-2.0
"""`--mode predict --engine`: the files of a prediction, computed by an export."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import run
from api import Classifier, Estimator, new_model
from common.errors import UserError
from common.export.engine import Engine, run_batch
from serving.bulk import open_for
from session import open_session
from tests.test_api import KEYS, LABELS, SEED, TEXTS, weights
from utils import get_params

# Of every length, none in order, one cut, one empty, one twice.
LINES = [
    "bad" + " bad" * 29,
    "a good day",
    "",
    "day",
    "a bad bad day a",
    "good" + " day" * 6,
    "a good day",
    "b a d",
]


@pytest.fixture(scope="module")
def onnx_packages():
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="pip install onnx onnxruntime")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The model_dir of a calibrated classifier after some steps, in float32, and its exports."""
    pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime")
    folder = tmp_path_factory.mktemp("bulk") / "run"
    overrides = SEED | {"model.mixed_precision": False, "runconfig.calibrate_temperature": True}
    clf = Classifier(weights.__wrapped__(tmp_path_factory), overrides=overrides)
    clf.fit(TEXTS, LABELS, validation=(TEXTS[:8], LABELS[:8]), model_dir=folder, **KEYS)
    clf.export("onnx", quantize="int8")
    clf.export("saved_model")
    return folder


def predict(model_dir, *flags, copy=None):
    """Returns the exit code of a prediction in a copy of model_dir, and that Path."""
    copy = Path(copy or model_dir)
    if copy != Path(model_dir):
        shutil.copytree(model_dir, copy)
    return run.main(["--mode", "predict", "--model_dir", str(copy), *flags]), copy


def files_of(folder):
    """Returns the rows of predictions_tf_0.tsv, and the logits."""
    with open(folder / "predict" / "predictions_tf_0.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return rows, np.load(folder / "predict" / "predictions_tf_0.npz")["arr_0"]


def temperature_of(folder):
    best = json.loads((folder / "best.json").read_text())["step"]
    return json.loads((folder / f"checkpoint-{best}" / "config.json").read_text())["temperature"]


@pytest.mark.parametrize("engine", ["onnx", "saved_model", "openvino"])
def test_an_engine_leaves_the_files_of_the_network(engine, trained, tmp_path, capsys):
    if engine == "openvino":
        pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    (tmp_path / "lines.txt").write_text("".join(f"{line}\n" for line in LINES), "utf-8")
    flags = ["--input_file", str(tmp_path / "lines.txt"), "--batch_size", "3"]
    found = []
    for chosen in ([], ["--engine", engine]):
        code, folder = predict(trained, *flags, *chosen, copy=tmp_path / f"{len(chosen)}")
        assert code == 0
        lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        found.append((*files_of(folder), lines))
    (expected, logits, lines), (rows, ours, our_lines) = found
    assert [row["text"] for row in rows] == LINES
    # Float32 against float32 by another program; OpenVINO may compute in bfloat16.
    atol = 0.02 if engine == "openvino" else 1e-5
    temperature = temperature_of(trained)
    assert abs(temperature - 1) > 0.01  # which is in the weights of an export
    np.testing.assert_allclose(ours, logits / temperature, rtol=0, atol=atol)
    for row, theirs in zip(rows, expected, strict=True):
        numbers = [
            [float(each[name]) for name in each if name.startswith("p_")] for each in (row, theirs)
        ]
        np.testing.assert_allclose(*numbers, rtol=0, atol=atol)
        same = {name: value for name, value in theirs.items() if not name.startswith("p_")}
        assert {name: row[name] for name in same} == same
    assert [[line[0], *line[2:]] for line in our_lines] == [[line[0], *line[2:]] for line in lines]


def test_int8_gives_what_onnx_runtime_gives_of_each_row_alone(trained, tmp_path):
    import onnxruntime
    from tokenizers import BertWordPieceTokenizer

    (tmp_path / "lines.txt").write_text("".join(f"{line}\n" for line in LINES), "utf-8")
    flags = ["--input_file", str(tmp_path / "lines.txt"), "--engine", "onnx_int8"]
    code, folder = predict(trained, *flags, copy=tmp_path / "copy")
    rows, ours = files_of(folder)
    assert code == 0
    export = trained / "export" / "onnx"
    session = onnxruntime.InferenceSession(str(export / "model_int8.onnx"))
    tokenizer = BertWordPieceTokenizer(str(export / "vocab.txt"), lowercase=True)
    tokenizer.enable_truncation(KEYS["max_sequence_length"])
    expected = []
    for line in LINES:
        ids = tokenizer.encode(line).ids
        features = {"input_ids": [ids], "input_mask": [[0] * len(ids)]}
        features = {name: np.array(each, np.int32) for name, each in features.items()}
        features["segment_ids"] = np.zeros_like(features["input_ids"])
        expected.append(session.run(["logits"], features)[0][0])
    # The same program, with other threads; beside other rows they differ by 6e-6.
    np.testing.assert_allclose(ours, np.array(expected), rtol=0, atol=1e-7)
    names = json.loads((export / "export.json").read_text("utf-8"))["label_names"]
    assert [row["label"] for row in rows] == [names[row.argmax()] for row in np.array(expected)]


@pytest.mark.parametrize(
    ("task", "labels"),
    [("regression", [0.5, -1.0] * 20), ("multi_label", [["happy", "day"], ["day"]] * 20)],
)
def test_values_and_sets_of_labels_are_those_of_the_network(task, labels, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime")
    overrides = SEED | {"model.mixed_precision": False, "*_input.task": task}
    clf = Estimator(weights.__wrapped__(Folders(tmp_path)), overrides=overrides)
    clf.fit(TEXTS, labels, model_dir=tmp_path / "run", **KEYS)
    clf.export("onnx")
    given = [part for line in LINES for part in ("--text", line)]
    said = []
    for engine in ([], ["--engine", "onnx"]):
        capsys.readouterr()
        assert predict(tmp_path / "run", "--json", *given, *engine)[0] == 0
        said.append(json.loads(capsys.readouterr().out)["predictions"])
    for theirs, ours in zip(*said, strict=True):
        numbers = [
            {name: each.pop(name) for name in list(each) if isinstance(each[name], float)}
            for each in (theirs, ours)
        ]
        assert numbers[0] and numbers[1] == pytest.approx(numbers[0], abs=1e-5)
        assert ours == theirs
    assert len(said[1]) == len(LINES)


class Folders:
    """In the place of pytest's tmp_path_factory: a folder in one."""

    def __init__(self, folder):
        self.folder = folder

    def mktemp(self, name):
        (self.folder / name).mkdir()
        return self.folder / name


@pytest.mark.parametrize("task", ["token_classification", "question_answering"])
def test_words_and_answers_are_those_of_the_network(task, tmp_path, capsys, onnx_packages):
    from tests.common.export.test_decoder import LONG, QUESTION
    from tests.common.export.test_decoder import trained as trained_for

    _, flags = trained_for(tmp_path, task)
    if task == "question_answering":  # these few steps may have no answer surer than none
        flags = [*flags, "--override", "model.null_score_diff_threshold=1000"]
    assert run.main(["--mode", "export", "--export_format", "onnx", *flags]) == 0
    texts = [LONG, "joy", "a film and joy"]
    texts = [f"{QUESTION}\t{text}" for text in texts] if task == "question_answering" else texts
    given = [part for text in texts for part in ("--text", text)]
    said = []
    for engine in ([], ["--engine", "onnx"]):
        capsys.readouterr()
        assert run.main(["--mode", "predict", "--json", *flags, *given, *engine]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0]["engine"] is None and said[1]["engine"].startswith("ONNX Runtime, ")
    assert len(said[0]["predictions"]) == 3
    for theirs, ours in zip(*(each["predictions"] for each in said), strict=True):
        numbers = [
            [each.pop(k) for k in ("score", "margin") if k in each] for each in (theirs, ours)
        ]
        np.testing.assert_allclose(*numbers, rtol=0, atol=1e-4)
        assert ours == theirs


class Counting(Engine):
    """Gives the ids of each row, doubled, with their sum. Attribute: shapes, of each call."""

    title = "counting"

    def __init__(self, max_rows):
        super().__init__("nowhere")
        self.max_rows, self.shapes = max_rows, []

    def run(self, features):
        ids = features["input_ids"]
        self.shapes.append(ids.shape)
        return {"of_tokens": ids[:, :, None] * [[[1.0, 2.0]]], "of_row": ids.sum(1)[:, None]}


@pytest.mark.parametrize("is_mask_inverted", [True, False])
@pytest.mark.parametrize(
    ("max_rows", "shapes"),
    [(None, [(5, 7)]), (5, [(5, 7)]), (2, [(2, 4), (2, 6), (1, 1)]), (1, 0)],
)
def test_rows_of_a_call_are_without_their_padding(max_rows, shapes, is_mask_inverted):
    lengths = [3, 4, 6, 5, 0]
    is_token = np.arange(7) < np.array(lengths)[:, None]
    ids = np.where(is_token, np.arange(1, 36).reshape(5, 7), 0)
    mask = (~is_token if is_mask_inverted else is_token).astype(np.int32)
    engine = Counting(max_rows)
    outputs = run_batch(engine, {"input_ids": ids, "input_mask": mask}, is_mask_inverted)
    assert engine.shapes == (shapes or [(1, max(1, length)) for length in lengths])
    np.testing.assert_array_equal(outputs["of_row"], ids.sum(1)[:, None])
    width = outputs["of_tokens"].shape[1]
    assert width >= 6
    np.testing.assert_array_equal(outputs["of_tokens"], (ids[:, :, None] * [[[1, 2]]])[:, :width])


# ---- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "flags", "sentence"),
    [
        ("eval", ["--engine", "onnx"], "--engine is for --mode serve and --mode predict"),
        ("train", ["--engine", "onnx"], "come with --mode export --quantize int8"),
        ("predict", ["--engine", "onnx", "--validate_only"], "a prediction that computes"),
        ("predict", ["--export_dir", "x"], "--export_dir is for --mode export, and for"),
        ("predict", ["--export_dir", "x", "--engine", "auto"], "--export_dir is for --mode export"),
        ("predict", ["--quantize", "int8"], "--export_format and --quantize are for --mode export"),
    ],
)
def test_a_flag_of_another_mode_is_refused(mode, flags, sentence, capsys):
    params = ["--params", "configs/params_bert_tiny.yaml", "--model_dir", "x"]
    assert run.main(["--mode", mode, *params, *flags]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("engine", "damage", "sentence"),
    [
        ("onnx", "rm", r"make one with: run.py --mode export .* --export_format onnx\n"),
        ("onnx_int8", "rm", r"--export_format onnx --quantize int8\n"),
        ("onnx_int8", "rm8", r"has no model_int8.onnx; export it with --quantize int8"),
        ("onnx", "onnx", r"export/onnx cannot be read by engine onnx \(.*; copy or export it"),
        ("onnx", {"step": 7}, r"is of step 7, and .*checkpoint-\d+ of step \d+; export it again"),
        ("onnx", {"label_names": ["sad", "happy"]}, r"label_names sad, happy, and .* happy, sad;"),
        ("onnx", {"rows": {"do_lower_case": False}}, r"has do_lower_case False, and .* True; exp"),
        ("onnx", "vocab", r"export/onnx has another vocabulary than .*vocab.txt"),
        ("saved_model", {"format": "onnx"}, r"is an export as onnx; engine saved_model cannot"),
    ],
)
def test_an_export_that_is_not_that_of_the_checkpoint_is_refused(
    engine, damage, sentence, trained, tmp_path, capsys
):
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    export = copy / "export" / ("saved_model" if engine == "saved_model" else "onnx")
    if damage == "rm":
        shutil.rmtree(export)
    elif damage == "rm8":
        (export / "model_int8.onnx").unlink()
    elif damage == "onnx":
        (export / "model.onnx").write_bytes(b"no graph")
    elif damage == "vocab":
        entries = (export / "vocab.txt").read_text().split("\n")
        (export / "vocab.txt").write_text("\n".join([*entries[:-2], "other", ""]))
    else:
        manifest = json.loads((export / "export.json").read_text("utf-8"))
        manifest |= {k: manifest[k] | v if k == "rows" else v for k, v in damage.items()}
        (export / "export.json").write_text(json.dumps(manifest), "utf-8")
    assert predict(copy, "--engine", engine, "--text", "a good day")[0] == 2
    told = capsys.readouterr().err
    assert re.search(sentence, told) and "Traceback" not in told


def test_an_export_elsewhere_is_named_by_its_folder(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    shutil.move(tmp_path / "run" / "export" / "onnx", tmp_path / "moved")
    flags = ["--engine", "onnx", "--text", "a good day", "--export_dir"]
    assert predict(tmp_path / "run", *flags, str(tmp_path / "moved"))[0] == 0
    assert capsys.readouterr().out.endswith("\ta good day\n")
    assert predict(tmp_path / "run", *flags, str(tmp_path / "run"))[0] == 2
    assert "holds no export.json, as an export does" in capsys.readouterr().err


def test_what_an_engine_cannot_do_is_refused(trained):
    values = {"runconfig.mode": "predict", "runconfig.model_dir": str(trained)}
    session = open_session(get_params(trained / "params.yaml", values), texts=["-"])
    model = new_model(session)
    on_gpu = dataclasses.replace(session, params=session.params.with_runconfig(device="/gpu:0"))
    with pytest.raises(UserError, match=r"--engine onnx computes on the CPU, and .* is /gpu:0"):
        open_for(on_gpu, model, "onnx")
    vars(model)["task"] = "pretraining"
    with pytest.raises(UserError, match="the checkpoint fills in the masked ones"):
        open_for(session, model, "onnx")
