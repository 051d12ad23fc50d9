# SPDX-License-Identifier: Apache-2.0
"""The program beside an export: entities and answers as `--mode predict` gives them."""

import csv
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml

import run
from common.checkpoints.vocab import write_vocab
from common.export.decoders.windows import best_windows, cut_windows
from common.export.tflite import LOADING as LITERT
from input.windows import best_windows as best_of_all
from input.windows import cut_windows as cut_all
from serving.readers import make_reader
from tests.reference.toy_serving import toys_of_tasks
from tests.reference.toy_vocabularies import NETWORKS, VOCABULARIES
from tests.reference.toy_words import WORDS, make_task_data

# Accents in one and in two characters, what is tokenised to nothing, a special token, an emoji.
AWKWARD = "a f\u00edlm fi\u0301lm and\u200b joy, [SEP] \U0001f642 film. \u4e2d\u6587 Joy"
LONG = "a joy film and bad film plot joy dread warm fine " * 273  # 3,003 words
QUESTION = "an a fine plot"
SLOW = pytest.mark.slow


def trained(folder, task, kind=None):
    """A model_dir of some steps of a tiny network, and the flags of its runs.

    kind: of VOCABULARIES; None is WordPiece and BERT.
    """
    keys = {name: str(each) for name, each in make_task_data(folder, task).items()}
    if kind is not None:
        vocab = VOCABULARIES[kind]([" ".join(WORDS), " ".join(sorted(WORDS))] * 4)
        keys["vocab_file"] = str(folder / write_vocab(folder, vocab))
    rows = {"max_sequence_length": 13, "batch_size": 8, "cache_dir": str(folder / "cache")}
    if task == "question_answering":
        rows |= {"window_stride": 3, "max_query_length": 3, "version_2_with_negative": True}
    values = {
        "train_input": {**keys, **rows},
        "model": {
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_heads": 2,
            "filter_size": 16,
            "max_position_embeddings": 16,
            **NETWORKS.get(kind, {}),
        },
        "optimizer": {"learning_rate": 0.005},
        "runconfig": {"max_steps": 400, "save_checkpoints_steps": 400, "tf_random_seed": 1},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    flags = ["--params", str(folder / "params.yaml"), "--model_dir", str(folder / "model_dir")]
    assert run.main(["--mode", "train", *flags]) == 0
    return folder / "model_dir", flags


def predicted(flags, texts):
    given = [part for text in texts for part in ("--text", text)]
    assert run.main(["--mode", "predict", *flags, *given]) == 0


def decoded(flags, model_dir, texts, format="onnx"):
    """What a process without this project says of texts, by the lines of the model card."""
    if format == "onnx":
        pytest.importorskip("onnx", reason="pip install onnx brings what this needs")
        pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    assert run.main(["--mode", "export", "--export_format", format, *flags]) == 0
    folder = model_dir / "export" / format
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.S)
    (lines,) = (block for block in blocks if "from decode import" in block)
    # ai-edge-litert is no requirement; TensorFlow has the same interpreter.
    of_tensorflow = "import tensorflow as tf\nInterpreter = tf.lite.Interpreter"
    lines = lines.replace(LITERT, of_tensorflow)
    lines = re.sub(r"decoder\.rows\(.*\)", "decoder.rows(json.load(sys.stdin))", lines)
    lines = lines.replace(
        "print(decoder.decode(rows, outputs))", "answers = decoder.decode(rows, outputs)"
    )
    lines = (
        f"import json, sys\n{lines}\nassert 'common' not in sys.modules\nprint(json.dumps(answers))"
    )
    said = subprocess.run(
        [sys.executable, "-c", lines],
        cwd=folder,
        input=json.dumps(texts),
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("tagger"), "token_classification")


@pytest.mark.parametrize("aggregation", ["first", "average", "max"])
def test_entities_are_those_of_predict(aggregation, tagger):
    check_entities(*tagger, aggregation)


def check_entities(model_dir, flags, aggregation):
    flags = [*flags, "--override", f"model.word_aggregation={aggregation}"]
    texts = [AWKWARD, LONG, "joy"]
    predicted(flags, texts)
    (path,) = (model_dir / "predict").glob("*.jsonl")
    expected = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    ours = decoded(flags, model_dir, texts)
    assert sum(len(each["entities"]) for each in expected) > 5
    for mine, theirs in zip(ours, expected, strict=True):
        scores = [[each.pop("score") for each in of["entities"]] for of in (mine, theirs)]
        assert mine == theirs
        np.testing.assert_allclose(*scores, rtol=0, atol=1e-5)  # rounded to 1e-6 each


@pytest.mark.slow  # a training and a process: 20 s each
@pytest.mark.parametrize("kind", VOCABULARIES)
def test_entities_of_other_vocabularies_are_those_of_predict(kind, tmp_path):
    check_entities(*trained(tmp_path, "token_classification", kind), "average")


@pytest.mark.parametrize("kind", [None, *(pytest.param(k, marks=SLOW) for k in VOCABULARIES)])
def test_answers_are_those_of_predict(kind, tmp_path):
    model_dir, flags = trained(tmp_path, "question_answering", kind)
    # These few steps may have no answer surer than none: how sure depends on the processor.
    flags = [*flags, "--override", "model.null_score_diff_threshold=1000"]
    rows = [(QUESTION, LONG), ("joy", AWKWARD), (QUESTION, "a")]
    predicted(flags, ["\t".join(row) for row in rows])
    (path,) = (model_dir / "predict").glob("*.tsv")
    with open(path, encoding="utf-8", newline="") as file:
        expected = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    formats = ("onnx", "saved_model", "tflite")
    answers = [each for format in formats for each in decoded(flags, model_dir, rows, format)]
    assert len({each["answer"] for each in answers}) > 1
    for mine, theirs in zip(answers, expected * 3, strict=True):
        assert mine["answer"] == theirs["answer"]
        place = ["" if mine[name] is None else str(mine[name]) for name in ("start", "end")]
        assert place == [theirs["start"], theirs["end"]]
        assert mine["score"] == pytest.approx(float(theirs["score"]), abs=1e-5)


def test_windows_are_those_of_training():
    generator = np.random.default_rng(0)
    for _ in range(200):
        length, room = (int(n) for n in generator.integers(1, 40, 2))
        stride = int(generator.integers(1, 20))
        is_begin = generator.random(length) < 0.5
        for begins, flags in ((None, None), (np.flatnonzero(is_begin).tolist(), is_begin)):
            windows = cut_windows(length, room, stride, begins)
            theirs = cut_all([length], room, stride, flags)
            assert windows == list(zip(theirs.start.tolist(), theirs.count.tolist(), strict=True))
            assert best_windows(windows) == best_of_all(theirs, [length]).tolist()


@pytest.mark.parametrize("task", ["tags", "spans"])
def test_the_work_of_a_long_text_grows_with_its_length_and_not_with_its_square(task):
    toy = toys_of_tasks()[task]
    reader = make_reader(toy.settings, toy.vocab, toy.texts)

    def num_lines(num_words):
        """How many lines of Python are executed."""
        count = 0

        def trace(frame, event, argument):
            nonlocal count
            count += event == "line"
            return trace

        text = "a bad good day " * (num_words // 4)
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            prepared = reader.prepare((text,) if task == "tags" else ("a", text))
            outputs = toy.engine.run(prepared.notes.features)
            reader.answer(prepared, {name: list(rows) for name, rows in outputs.items()})
        finally:
            sys.settrace(before)
        return count

    num_lines(40)  # what is kept for later ones
    assert num_lines(2400) < 6 * num_lines(600)  # 16 times where it is the square
