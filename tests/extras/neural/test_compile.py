# SPDX-License-Identifier: Apache-2.0
"""`python -m extras.neural compile`: each sample for each backend, with and without weights.

PyTorch runs in `tests/backends/test_neural.py`. The samples have small numbers and two layers; a
slow test counts the parameters of those at full size.
"""

import importlib.util
import json
import re
import subprocess
import sys

import numpy as np
import pytest

import run
from common.errors import UserError
from extras.neural import __main__ as program
from session import open_session
from tests.reference.small_neural import NAMES, ROWS, SAMPLES, features_of, small_text
from utils import get_params

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "day", *"bcdefghijklm"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with the samples, the weights that two of them name, and their vocabulary."""
    folder = tmp_path_factory.mktemp("neural")
    for name in NAMES:
        (folder / f"{name}.neural").write_text(small_text(name), "utf-8")
    write_vocab(folder / "vocab.txt", VOCAB)
    return folder


@pytest.fixture(scope="module")
def weights(desk):
    """{name: array} of the weights that two samples name, which are put into the desk."""
    from common.export.export import export

    flags = ["--backend", "onnx", "--vocab_file", str(desk / "vocab.txt")]
    args = program.make_parser().parse_args(["compile", str(desk / f"{NAMES[0]}.neural"), *flags])
    classifier, _ = program.classifier_of(args)
    folder, _ = export("keras", classifier, desk / "pretrained")
    (folder / "model.weights.h5").rename(desk / "pretrained_bert.h5")
    for name in ("params.yaml", "export.json"):
        (folder / name).rename(desk / name)
    return classifier.weights


def write_vocab(path, vocab):
    path.write_text("".join(f"{token}\n" for token in vocab), "utf-8")


@pytest.fixture
def compiled(desk, weights, monkeypatch, capsys):
    """A function that compiles in the desk. It gives what is printed, and the Classifier."""
    monkeypatch.chdir(desk)
    found, classifier_of = [None], program.classifier_of

    def noting(args):
        found[0], notes = classifier_of(args)
        return found[0], notes

    monkeypatch.setattr(program, "classifier_of", noting)

    def run(*flags, code=0):
        capsys.readouterr()
        assert program.main(["compile", *map(str, flags)]) == code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return (captured.out, found[0]) if code == 0 else captured.err

    return run


def some(*fast):
    """The samples for parametrize, those that are not named as slow tests."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


def expected_of(classifier):
    """The logits of ROWS, of every token where the network predicts words."""
    from common.BaseModel import EVAL

    outputs = classifier.model.build_model(features_of(classifier.params.task), EVAL)
    return np.asarray(outputs.get("mlm_logits", outputs.get("logits")))


def is_real(logits):
    """Which of the logits are of tokens: those of padding are anything."""
    return ROWS["padding_mask"] > 0 if logits.ndim == 3 else np.ones(len(logits), bool)


@pytest.mark.parametrize("name", some("albert_encoder"))
def test_onnx_runtime_computes_each_sample(compiled, tmp_path, name):
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    flags = "--backend", "onnx", "--output", tmp_path / "net.onnx"
    printed, classifier = compiled(f"{name}.neural", *flags)
    assert f"Compiled {name}.neural as onnx: {tmp_path / 'net.onnx'}" in printed
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    (logits,) = session.run(["logits"], features_of())
    expected = expected_of(classifier)
    assert logits.shape == expected.shape
    real = is_real(expected)
    np.testing.assert_allclose(logits[real], expected[real], rtol=0, atol=1e-5)


def opened(file):
    """The module of a Python file."""
    spec = importlib.util.spec_from_file_location("compiled_network", file)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", some("bert_ner"))
def test_keras_computes_each_sample(compiled, tmp_path, name):
    flags = "--backend", "tensorflow", "--output", tmp_path / "net.py"
    _, classifier = compiled(f"{name}.neural", *flags)
    logits = np.asarray(opened(tmp_path / "net.py").load()(ROWS))
    expected = expected_of(classifier)
    real = is_real(expected)
    np.testing.assert_allclose(logits[real], expected[real], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_is_a_folder_named_after_the_file(desk, compiled, name):
    import tensorflow as tf

    flags = "--backend", "tensorflow", "--export-saved-model"
    _, classifier = compiled(f"{name}.neural", *flags)
    folder = desk / f"{name}_saved_model"
    assert json.loads((folder / "export.json").read_text())["format"] == "saved_model"
    network = tf.saved_model.load(str(folder / "1")).signatures["token_ids"]
    answers = network(**{name: tf.constant(each) for name, each in features_of().items()})
    expected, real = expected_of(classifier), is_real(expected_of(classifier))
    if "logits" in answers:
        np.testing.assert_allclose(answers["logits"].numpy()[real], expected[real], atol=1e-5)
    else:
        best = answers["tokens"].numpy()[..., 0].astype(str)
        words = np.array(classifier.vocab)[expected.argmax(axis=-1)]
        assert best[real].tolist() == words[real].tolist()


# ---- Weights and vocabularies --------------------------------------------------------------------


def test_the_weights_that_a_file_names_are_in_what_is_written(compiled, weights, tmp_path):
    """Those of masked words, whose head a tagger does not have."""
    flags = "--backend", "onnx", "--output", tmp_path / "net"
    printed, classifier = compiled("bert_ner.neural", *flags)
    assert "Not trained: classifier/bias, classifier/kernel" in printed and "word0" not in printed
    same = [name for name in weights if name.startswith(("embeddings/", "encoder/"))]
    assert len(same) > 30
    for name in same:
        np.testing.assert_array_equal(classifier.weights[name], weights[name], err_msg=name)


def test_a_flag_takes_the_place_of_the_weights_that_a_file_names(compiled, tmp_path):
    flags = ("--backend", "onnx", "--output", tmp_path / "net", "--checkpoint_path", "no_such")
    assert "checkpoint no_such: there is no such file" in compiled(
        "bert_classifier.neural", *flags, code=2
    )


@pytest.fixture
def network(tmp_path):
    """A function that writes a changed sample with small numbers: the file, a line's number."""

    def write(name, old, new):
        text = small_text(name)
        assert old in text
        text = text.replace(old, new, 1)
        (tmp_path / "x.neural").write_text(text, "utf-8")
        return tmp_path / "x.neural", text[: text.index(new)].count("\n") + 1

    return write


def test_weights_that_are_not_there_are_refused_with_their_line(compiled, network, tmp_path):
    file, line = network("bert_classifier", "pretrained_bert.h5", "no.h5")
    refused = f"x.neural: line {line}: checkpoint no.h5: there is no such file"
    assert refused in compiled(file, "--backend", "onnx", code=2)
    values = {"runconfig.mode": "train", "*_input.train_file": "mine.csv"}
    values |= {"runconfig.model_dir": str(tmp_path / "model")}
    with pytest.raises(UserError, match=refused):
        open_session(get_params(file, values), str(file))


@pytest.mark.parametrize(
    ("new", "refusal"),
    [
        ("input_dim=3", "x.neural: line {}: input_dim of Embedding is 3; expected 5 or more, as "),
        ("input_dim=0", "  line {}: model.vocab_size: is 0; a number above 0 is wanted"),
        ("input_dim=1000000000000", "vocab_size 1,000,000,000,000, "),
    ],
)
def test_sizes_that_cannot_be_are_refused_before_words_are_made_up(compiled, network, new, refusal):
    file, line = network("roberta_encoder", "input_dim=41", new)
    message = compiled(file, "--backend", "onnx", code=2)
    assert refusal.format(line) in message and "vocab.txt" not in message


def test_without_weights_all_is_fresh_and_the_words_are_made_up(compiled, tmp_path):
    flags = ("--backend", "onnx", "--output", tmp_path / "net")
    printed, _ = compiled("bert_encoder.neural", *flags)
    assert "Not trained: all weights" in printed and "The words are word0, word1" in printed
    vocab = (tmp_path / "net" / "vocab.txt").read_text().splitlines()
    assert len(vocab) == 40 and vocab[:6] == [*VOCAB[:5], "word0"]
    assert "not trained: all weights" in (tmp_path / "net" / "README.md").read_text().lower()
    printed, _ = compiled("bert_encoder.neural", *flags, "--vocab_file", "vocab.txt")
    assert "word0" not in printed
    assert (tmp_path / "net" / "vocab.txt").read_text().splitlines() == VOCAB


def test_a_vocabulary_that_is_longer_than_the_table_is_refused(compiled, tmp_path):
    write_vocab(tmp_path / "vocab.txt", [*VOCAB, *map(str, range(100, 130))])
    flags = ("--backend", "onnx", "--vocab_file", tmp_path / "vocab.txt")
    message = compiled("bert_encoder.neural", *flags, code=2)
    assert re.search(
        r"encoder.neural: line \d+: .*vocab.txt has 50 tokens; write input_dim=50", message
    )


@pytest.mark.slow
def test_the_same_file_gives_the_same_bytes(compiled, tmp_path):
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for file in files:
        compiled("albert_encoder.neural", "--backend", "onnx", "--output", file)
    assert files[0].read_bytes() == files[1].read_bytes()


# ---- Files ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_that_was_edited_is_not_replaced(compiled, tmp_path):
    flags = "bert_encoder.neural", "--backend", "tensorflow", "--output", tmp_path / "net.py"
    for _ in range(2):  # the second time it is its own
        compiled(*flags)
    with open(tmp_path / "net.py", "a") as file:
        file.write("# mine\n")
    assert "net.py is not a file as compile wrote it; move it" in compiled(*flags, code=2)
    assert (tmp_path / "net.py").read_text().endswith("# mine\n")


def test_the_folder_that_a_written_file_reads_is_not_given_to_another_backend(compiled, tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net.py").write_text("# reads net")
    for output in ("net.onnx", "net"):
        flags = "bert_encoder.neural", "--backend", "onnx", "--output", tmp_path / output
        assert "net.py reads " in compiled(*flags, code=2)
    assert not list((tmp_path / "net").iterdir())


@pytest.mark.parametrize(
    ("backend", "more", "output"),
    [
        ("onnx", (), "net.py"),
        ("pytorch", (), "net.onnx"),
        ("tensorflow", ("--export-saved-model",), "net.py"),
    ],
)
def test_a_name_of_another_kind_of_file_is_refused(compiled, tmp_path, backend, more, output):
    flags = "bert_encoder.neural", "--backend", backend, *more, "--output", tmp_path / output
    assert f"{output} is no name for " in compiled(*flags, code=2)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_neural_file_is_refused(compiled):
    message = compiled("params.yaml", "--backend", "onnx", code=2)
    assert message == "params.yaml: give a file whose name ends in .neural\n"


def test_a_folder_in_the_way_is_refused_before_anything_is_built(compiled, tmp_path):
    """With no word of a flag that compile has not."""
    (tmp_path / "net.onnx").mkdir()
    flags = "bert_encoder.neural", "--backend", "onnx", "--output"
    assert "net.onnx is not a file as compile wrote it; move it" in compiled(
        *flags, tmp_path / "net.onnx", code=2
    )
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "thesis.tex").touch()
    for output in (tmp_path / "net", tmp_path / "net" / "thesis.tex", "/", "."):
        message = compiled(*flags, output, code=2)
        assert re.search("thesis.tex|holds", message) and "export_dir" not in message


def test_the_file_finds_a_folder_of_any_name(tmp_path):
    (tmp_path / 'a"b\\').mkdir()
    (tmp_path / 'a"b\\/model.py').write_bytes(b"from pathlib import Path\n" + program.HERE)
    found = {"__file__": str(tmp_path / "net.py")}
    exec(program.file_of(tmp_path / 'a"b\\/model.py'), found)
    assert found["HERE"] == tmp_path / 'a"b\\'


def test_a_saved_model_is_of_tensorflow(compiled):
    message = compiled("bert_ner.neural", "--backend", "onnx", "--export-saved-model", code=2)
    assert "--export-saved-model is for --backend tensorflow, not onnx" in message


def test_a_broken_file_ends_the_command_with_its_line(compiled, tmp_path):
    (tmp_path / "x.neural").write_text(small_text("bert_ner").replace("Add()", "Ad()", 1))
    message = compiled(tmp_path / "x.neural", "--backend", "onnx", code=2)
    assert re.search(r"x\.neural: line 7 \(used on line \d+\): Ad is neither a layer", message)


# ---- At full size, and training ------------------------------------------------------------------


def transformer(width, filter_size):
    """The parameters of an encoder layer: four matrices of attention, two wide ones, two norms."""
    attention = 4 * (width * width + width)
    return attention + 2 * width * filter_size + filter_size + width + 2 * 2 * width


@pytest.mark.slow
def test_parameters_are_as_many_as_the_papers_networks_have():
    """Counted by hand here: BERT-base has 109,482,240 with its pooler, as transformers counts."""
    tables = (30522 + 512 + 2) * 768 + 2 * 768
    bert, pooler = tables + 12 * transformer(768, 3072), 768 * 768 + 768
    assert bert + pooler == 109_482_240
    assert count_of("bert_encoder") == (bert + pooler + 2 * 768 + 30522, bert)
    classifier = bert + pooler + 2 * 768 + 2
    assert count_of("bert_classifier") == (classifier, bert)
    narrow = (30000 + 512 + 2) * 128 + 2 * 128 + 128 * 768 + 768
    albert = narrow + transformer(768, 3072)
    assert albert + pooler == 11_683_584  # of transformers' AlbertModel
    head = 768 * 128 + 128 + 2 * 128 + 30000
    assert count_of("albert_encoder") == (albert + head, albert)


def count_of(name):
    """(all parameters, those below the head) of a sample, whose weights are not drawn."""
    from common.backbones.initializers import backbone_is_loaded
    from model import make_model
    from utils import get_params

    params = get_params(SAMPLES / f"{name}.neural", {"runconfig.mode": "export"})
    with backbone_is_loaded():
        model = make_model(params.complete({}, {}, name))
    return program.counts_of(model)


def test_a_trained_description_is_exported_as_source_and_says_what_predict_says(
    desk, tmp_path, monkeypatch, capsys
):
    """With the commands of docs/neural.md; trained until both labels are told apart."""
    file, rows, texts = tmp_path / "x.neural", tmp_path / "rows.csv", ["a good day", "b c", ""]
    text = small_text("bert_classifier").replace(', weights="pretrained_bert.h5"', "")
    file.write_text(text.replace("learning_rate=2e-5", "learning_rate=0.005"), "utf-8")
    rows.write_text("text,label\n" + "a good day,fine\nb c,poor\n" * 20, "utf-8")
    model_dir = ["--model_dir", tmp_path / "run"]

    def done(*flags):
        capsys.readouterr()
        assert run.main([*map(str, flags), *map(str, model_dir)]) == 0
        return capsys.readouterr().out.splitlines()

    flags = ["--params", file, "--train_file", rows, "--max_steps", "30"]
    flags += ["--override", f"*_input.vocab_file={desk / 'vocab.txt'}"]
    flags += ["--override", "runconfig.tf_random_seed=1"]
    done("--mode", "train", *flags, "--override", f"train_input.cache_dir={tmp_path / 'cache'}")
    saved = ["--params", tmp_path / "run" / "params.yaml"]
    predicted = done("--mode", "predict", *saved, *(f"--text={text}" for text in texts))
    expected = [line.split("\t")[:2] for line in predicted]
    assert [label for label, _ in expected[:2]] == ["fine", "poor"]
    folder = tmp_path / "run" / "export" / "keras_source"
    for params in (saved, ["--params", file]):  # the description says the same
        done("--mode", "export", *params, "--export_format", "keras_source")
        monkeypatch.setattr(sys, "argv", ["model.py", *texts])
        opened(folder / "model.py").main()
        printed = capsys.readouterr().out.splitlines()
        assert [line.split("\t") for line in printed] == expected


@pytest.mark.slow
def test_the_first_sample_trains_for_20_steps(desk, tmp_path):
    words = ["a", "good", "day", "b", "c", "d", "e", "f", "g", "h"]
    rows = [" ".join(words[n % 7 : n % 7 + 4]) for n in range(400)]
    (tmp_path / "texts.txt").write_text("\n\n".join(rows), "utf-8")
    flags = ["--mode", "train", "--params", desk / "bert_encoder.neural", "--max_steps", "20"]
    flags += ["--model_dir", tmp_path / "run", "--override", "runconfig.save_summary_steps=1"]
    flags += ["--override", f"train_input.train_documents={tmp_path / 'texts.txt'}"]
    flags += ["--override", f"*_input.vocab_file={desk / 'vocab.txt'}"]
    flags += ["--override", "optimizer.learning_rate=0.01"]
    done = subprocess.run(
        [sys.executable, SAMPLES.parents[2] / "run.py", *map(str, flags)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "line 12: Dropout is left out" in done.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [each["train/cost"] for each in map(json.loads, lines) if "train/cost" in each]
    assert len(losses) == 20 and np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
    params = (tmp_path / "run" / "params.yaml").read_text()
    assert "hidden_size: 12" in params and "learning_rate: 0.01" in params
