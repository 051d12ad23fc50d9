# SPDX-License-Identifier: Apache-2.0
"""What every export has in common: whole or not at all, its model card, its refusals."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common.checkpoints.formats import huggingface
from common.errors import RunError, UserError
from common.export.export import _temporary_folder, check_folder, export
from common.export.formats import EXPORT_FORMATS
from common.files import held

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_every_file_is_listed_with_its_hash_and_none_names_a_place(
    make_classifier, tmp_path, format
):
    if format == "onnx":
        pytest.importorskip("onnx", reason="pip install onnx brings what this needs")
    classifier = make_classifier()
    section = classifier.params.predict_input.model_copy(
        update={"data_dir": str(tmp_path), "vocab_file": str(tmp_path / "vocab.txt")}
    )
    params = classifier.params.model_copy(update={"predict_input": section})
    folder, _ = export(format, replace(classifier, params=params), tmp_path / "out")
    manifest = json.loads((folder / "export.json").read_text())
    files = {path for path in folder.rglob("*") if path.is_file()}
    listed = {folder / name for name in manifest["files"]}
    assert files - listed == {folder / "export.json"} and listed <= files
    card = (folder / "README.md").read_text()
    for name, of in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert len(content) == of["size"]
        assert hashlib.sha256(content).hexdigest() == of["sha256"]
        assert of["sha256"] in card or name == "README.md"
    for path in files:
        assert str(tmp_path).encode() not in path.read_bytes(), path
        assert path.stat().st_mode == (folder / "export.json").stat().st_mode
    assert manifest["format"] == format and manifest["step"] == 1234
    assert manifest["label_names"] == ["awful", "bad", "so so", "good", "père"]
    for fact in ("0.8750", "step 1,234", "4 père", "tensorflow", "learning_rate"):
        assert fact in card


def test_an_earlier_export_is_replaced_and_nothing_else_is_left(make_classifier, tmp_path):
    export("keras", make_classifier(), tmp_path / "out")
    folder, _ = export("tf1", make_classifier(), tmp_path / "out")
    assert not (folder / "model.weights.h5").exists() and (folder / "bert_config.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_only_what_a_killed_export_left_half_written_is_deleted(make_classifier, tmp_path):
    names = [".out.123.tmp", ".out.notes.tmp", ".out.5.tmp", ".out.7.replaced.tmp"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("years of work")
    (tmp_path / ".out.123.tmp" / "export.json").touch()
    (tmp_path / ".out.124.tmp").mkdir()
    (tmp_path / ".out.124.tmp" / "export.json").touch()
    with held(tmp_path / ".out.124.tmp"):  # another export, which still writes
        export("keras", make_classifier(), tmp_path / "out")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".out.124.tmp", *sorted(names[1:]), "out"]


def test_a_kill_between_the_two_renames_leaves_the_former_export(make_classifier, tmp_path):
    folder, _ = export("keras", make_classifier(), tmp_path / "out")
    folder.rename(tmp_path / ".out.123.replaced.tmp")
    with pytest.raises(RunError), _temporary_folder(folder):
        raise RunError("a later export fails, too")
    check_folder(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


EXPORT_OFTEN = """
import sys
from pathlib import Path
from common.checkpoints.small_files import EXPORT_FILE, write_json
from common.export.export import _files_of, _put_in_place, _temporary_folder
for number in range(30):
    with _temporary_folder(Path(sys.argv[1])) as folder:
        (folder / "model").write_text(f"{sys.argv[2]} {number}")
        write_json(folder / EXPORT_FILE, {"files": _files_of(folder)})
        _put_in_place(folder, Path(sys.argv[1]))
"""


def test_exports_to_one_folder_at_once_leave_one_whole_export(tmp_path):
    processes = [
        subprocess.Popen([sys.executable, "-c", EXPORT_OFTEN, tmp_path / "out", str(n)], cwd=ROOT)
        for n in range(3)
    ]
    assert [process.wait(300) for process in processes] == [0, 0, 0]
    check_folder(tmp_path / "out")
    assert (tmp_path / "out" / "model").read_text().endswith(" 29")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_export_leaves_what_was_there(make_classifier, tmp_path, monkeypatch):
    folder, _ = export("huggingface", make_classifier(), tmp_path / "out")
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def disk_is_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface, "write_vocab", disk_is_full)
    with pytest.raises(RunError, match="No space left on device"):
        export("huggingface", make_classifier(), folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_files_of_others_is_refused(make_classifier, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis\.tex, which no export wrote"):
        export("keras", make_classifier(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file"):
        export("keras", make_classifier(), tmp_path / "thesis.tex")


def test_a_home_that_nobody_has_is_the_name_of_a_folder(make_classifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = export("keras", make_classifier(), "~nobody9/out")
    assert folder == tmp_path / "~nobody9" / "out"


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "sub/checkpoint-3/weights", "link"])
def test_an_export_with_a_file_of_the_users_in_it_is_refused(make_classifier, tmp_path, name):
    folder, _ = export("keras", make_classifier(), tmp_path / "out")
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name == "link":
        path.symlink_to(tmp_path)
    else:
        path.write_text("years of work")
    fault = "has changed since it was exported" if name == "README.md" else "no export wrote"
    with pytest.raises(UserError, match=rf"holds {name}, which {fault}: .* Move the file away"):
        export("keras", make_classifier(), folder)
    assert path.is_symlink() or path.read_text() == "years of work"


def test_an_export_of_an_earlier_version_is_replaced(make_classifier, tmp_path):
    folder, _ = export("keras", make_classifier(), tmp_path / "out")
    manifest = json.loads((folder / "export.json").read_text())
    del manifest["files"]["README.md"]  # which they did not list
    (folder / "export.json").write_text(json.dumps(manifest))
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text("years of work")
    with pytest.raises(UserError, match=r"holds README\.md, which no export wrote"):
        export("keras", make_classifier(), folder)
    (folder / "README.md").write_text(card)
    export("tf1", make_classifier(), folder)
    assert (folder / "bert_config.json").exists()


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"files": {"thesis.tex": "mine"}}'])
def test_a_file_of_that_name_does_not_make_a_folder_an_export(make_classifier, tmp_path, content):
    (tmp_path / "export.json").write_text(content)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds (export\.json|thesis\.tex), which no export wrote"):
        export("keras", make_classifier(), tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_an_unknown_format_is_refused_with_those_that_there_are(make_classifier, tmp_path):
    with pytest.raises(UserError, match=r"'coreml'; available: saved_model, .*tflite"):
        export("coreml", make_classifier(), tmp_path / "out")


def test_the_card_has_the_params_of_the_training_without_places(make_classifier, tmp_path):
    sections = {
        "train_input": {"train_file": "/home/me/reviews.csv", "data_dir": "/data", "batch_size": 7},
        "optimizer": {"learning_rate": 3e-5},
        "csconfig": {"mgmt_address": "10.0.0.1:9000"},
    }
    classifier = replace(
        make_classifier(), trained_with=sections, data="reviews.csv: body -> stars"
    )
    folder, _ = export("keras", classifier, tmp_path / "out")
    card = (folder / "README.md").read_text()
    assert "The params of its training." in card and "learning_rate: 3.0e-05" in card
    assert "train_file: reviews.csv" in card and "batch_size: 7" in card
    assert "| Data | reviews.csv: body -> stars |" in card
    for place in ("/home", "/data", "10.0.0.1"):
        assert place not in card


def test_the_card_leaves_out_keys_that_say_nothing_and_has_what_was_measured(
    make_classifier, tmp_path
):
    sections = {
        "train_input": {"batch_size": 7, "shuffle_buffer": 100, "use_multiple_workers": None},
        "model": {"mlm_loss_weight": 1.0, "hidden_size": 6},
        "csconfig": {"mgmt_address": None},
    }
    of_class = {"label": "awful", "precision": 0.25, "recall": 0.5, "f1": 1 / 3, "support": 1200}
    classifier = replace(
        make_classifier(),
        trained_with=sections,
        evaluation={"num_examples": 5321, "source": "dev.csv: body -> stars"},
        per_class=[of_class],
        calibration=[("Temperature", "1.2500, in the classifier's weights")],
    )
    folder, _ = export("saved_model", classifier, tmp_path / "out")
    card = (folder / "README.md").read_text()
    made = card[card.index("## How it was made") :]
    assert "batch_size: 7" in made and "hidden_size: 6" in made
    for dead in ("shuffle_buffer", "null", "csconfig"):
        assert dead not in made
    assert "5,321 rows: dev.csv: body -> stars." in card
    assert "| awful | 0.2500 | 0.5000 | 0.3333 | 1,200 |" in card
    assert "| Temperature | 1.2500, in the classifier's weights |" in card
    assert "a text to classify" in card and "dull" not in card


def test_what_the_written_files_score_stands_in_card_and_manifest(make_classifier, tmp_path):
    seen = []

    def score(folder):
        seen.extend(path.name for path in folder.iterdir())
        return {"model.weights.h5": {"eval/accuracy_cls": 0.59375}}

    folder, _ = export("keras", make_classifier(), tmp_path / "out", score)
    assert "model.weights.h5" in seen and "README.md" not in seen
    card = (folder / "README.md").read_text()
    assert "| evaluation | in training | `model.weights.h5` |" in card
    assert "| accuracy | 0.8750 |  |" in card and "| eval/accuracy_cls |  | 0.5938 |" in card
    manifest = json.loads((folder / "export.json").read_text())
    assert manifest["metrics_of_files"] == {"model.weights.h5": {"eval/accuracy_cls": 0.59375}}


@pytest.mark.parametrize("format", ["huggingface", "tf1"])
def test_a_pre_norm_network_is_refused_where_the_format_has_none(make_classifier, tmp_path, format):
    with pytest.raises(UserError, match="use_pre_normalization"):
        export(format, make_classifier(use_pre_normalization=True), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_quantization_is_refused_where_the_format_has_none(make_classifier, tmp_path):
    with pytest.raises(UserError, match="for export_format onnx and tflite, not keras"):
        export("keras", make_classifier(quantize="int8"), tmp_path / "out")


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    make_classifier, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="pip install onnx"):
        export("onnx", make_classifier(), tmp_path / "out")


def test_an_export_without_an_evaluation_says_so(make_classifier, tmp_path):
    folder, _ = export("keras", replace(make_classifier(), metrics={}), tmp_path / "out")
    assert "without an evaluation" in (folder / "README.md").read_text()
