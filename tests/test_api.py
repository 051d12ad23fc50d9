# SPDX-License-Identifier: Apache-2.0
"""The Python API, as somebody with lists of texts types it."""

import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest

from api import Classifier, Estimator, MaskedLanguageModel, QuestionAnswerer, TokenClassifier
from common.errors import UserError
from common.reports.listener import Listener
from tests.reference.tiny_bert import huggingface_tensors, save_huggingface

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ["a good day", "a bad day"] * 20
LABELS = ["happy", "sad"] * 20
KEYS = {"num_epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "max_sequence_length": 16}
SEED = {"runconfig.tf_random_seed": 1}
NEW = ["good good day", "a bad bad day", "day"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder as Hugging Face writes it."""
    folder = tmp_path_factory.mktemp("weights")
    save_huggingface(folder, huggingface_tensors())  # 23 words, 19 positions
    vocab = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "a",
        "good",
        "bad",
        "day",
        *"bcdefghijklmno",
        "[MASK]",
    ]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab), "utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def trained(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("api") / "run"
    clf = Classifier(weights, overrides=SEED)
    return clf.fit(TEXTS, LABELS, validation=(TEXTS[:8], LABELS[:8]), model_dir=folder, **KEYS)


def test_it_answers_with_names_and_probabilities(trained, capsys):
    assert trained.classes_ == ["happy", "sad"]
    proba = trained.predict_proba(NEW)
    assert proba.shape == (3, 2) and proba.dtype == np.float32
    np.testing.assert_allclose(proba.sum(axis=1), 1.0, atol=1e-6)
    found = trained.predict(NEW)
    assert found == [("happy", "sad")[row.argmax()] for row in proba]
    assert trained(NEW[0]) == {"label": found[0], "score": pytest.approx(proba[0].max())}
    assert [each["label"] for each in trained(NEW)] == found
    right = [a == b for a, b in zip(trained.predict(TEXTS), LABELS, strict=True)]
    assert trained.score(TEXTS, LABELS) == sum(right) / 40
    assert trained.evaluate(TEXTS, LABELS)["eval/accuracy_cls"] == sum(right) / 40
    assert trained.predict([]) == []
    assert capsys.readouterr() == ("", "")  # nothing is printed


def test_figures_and_history_are_those_of_the_files(trained):
    best = max(trained.history_["eval", "eval/accuracy_cls"].values())
    assert trained.evaluate()["eval/accuracy_cls"] == pytest.approx(best)
    assert max(trained.history_["train", "train/cost_cls"]) == 10  # 2 epochs of 5 steps
    folder = Path(trained.result_.model_dir)
    (record,) = folder.glob("runs/*/run.json")
    assert json.loads(record.read_text())["exit_code"] == 0


def test_the_command_line_trains_and_predicts_the_same_bits(trained, weights, tmp_path):
    """run.py, from the file that the texts became."""
    data = Path(trained.result_.model_dir) / "data"
    flags = ["--train_file", data / "train.jsonl", "--eval_file", data / "validation.jsonl"]
    flags += ["--text_columns", "text", "--label_column", "label", "--checkpoint_path", weights]
    for key, value in KEYS.items():
        flags += [f"--{key}", value]
    flags += ["--override", "runconfig.tf_random_seed=1", "--model_dir", tmp_path / "run"]
    run_py("--mode", "train_and_eval", *flags)
    words = [part for text in NEW for part in ("--text", text)]
    run_py("--mode", "predict", "--model_dir", tmp_path / "run", *words)
    (file,) = (tmp_path / "run" / "predict").glob("*.npz")
    with np.load(file) as expected:
        np.testing.assert_array_equal(trained.logits(NEW), expected["arr_0"])


def run_py(*flags):
    command = [sys.executable, str(ROOT / "run.py"), *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_second_call_goes_on_and_a_second_model_in_the_process_is_its_own(
    trained, weights, tmp_path
):
    given = {"model_dir": tmp_path, **KEYS}
    one = Classifier(weights, overrides=SEED).fit(TEXTS, LABELS, **given | {"num_epochs": 1})
    assert one.result_.step == 4  # a tenth of the 40 rows is kept: 36 rows, 8 a step
    one.fit(TEXTS, LABELS, overrides={"runconfig.allow_changed_params": True}, **given)
    assert one.result_.step == 8
    another = Classifier.load(trained.result_.model_dir)
    np.testing.assert_array_equal(trained.predict_proba(NEW), another.predict_proba(NEW))


def test_what_was_traced_is_kept_for_the_next_training(weights, tmp_path, capsys):
    """With the same bits; a folder that somebody deletes meanwhile is no fault."""
    kept = tmp_path / "kept"
    settings = SEED | {"runconfig.compile_cache_dir": str(kept)}
    logits, has_loaded = [], []
    for name in ("first", "second", "third"):
        if name == "third":
            shutil.rmtree(kept)
        clf = Classifier(weights, overrides=settings, verbose=True)
        clf.fit(TEXTS, LABELS, model_dir=tmp_path / name, **KEYS)
        has_loaded.append("programs that an earlier run kept" in capsys.readouterr().err)
        logits.append(clf.logits(NEW))
        capsys.readouterr()  # a prediction keeps, and loads, its own
    assert has_loaded == [False, True, False]
    np.testing.assert_array_equal(logits[1], logits[0])
    np.testing.assert_array_equal(logits[2], logits[0])


def test_a_thread_may_train_and_another_may_stop_it(weights, tmp_path):
    class Stops(Listener):
        def on_step(self, step, figures):
            if step == 3:
                control.request_stop()

    from common.signals import Control

    control, found = Control(), []
    clf = Classifier(weights, **KEYS)

    def work():
        clf.fit(TEXTS, LABELS, model_dir=tmp_path, listeners=[Stops()], control=control)
        found.append(clf.result_)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(300)
    assert found[0].stopped_by is not None and found[0].step < 9
    assert list(tmp_path.glob("checkpoint-*"))


def test_what_was_saved_answers_the_same_elsewhere(trained, tmp_path):
    folder = trained.save(tmp_path / "kept")
    other = Classifier.load(folder)
    np.testing.assert_array_equal(other.predict_proba(NEW), trained.predict_proba(NEW))
    assert isinstance(other.network, keras.Model)
    with pytest.raises(UserError, match="is not empty"):
        trained.save(folder)
    assert Path(other.export("onnx", tmp_path / "onnx").written[0]).is_dir()


def test_pairs_and_columns_of_other_libraries_are_lists_of_texts(weights, tmp_path):
    class Column:  # as of pandas: it has a length and yields its values
        def __init__(self, values):
            self.values = values

        def __iter__(self):
            return iter(self.values)

        def __len__(self):
            return len(self.values)

    pairs = [(text, "good") for text in TEXTS]
    clf = Classifier(weights, **KEYS).fit(Column(pairs), Column(np.array(LABELS)), num_epochs=1)
    assert set(clf.predict(pairs[:3])) <= {"happy", "sad"}
    folder = Path(clf.result_.model_dir)
    assert folder.is_dir()
    del clf  # with its temporary model_dir


def test_it_is_cloned_as_scikit_learn_clones(weights):
    clf = Classifier(weights, verbose=True, num_epochs=3)
    given = clf.get_params()
    other = type(clf)(**given)
    assert all(other.get_params()[name] is given[name] for name in given)
    assert other.set_params(num_epochs=5).get_params()["num_epochs"] == 5


def test_arguments_may_change_after_a_training_which_stays(trained, tmp_path):
    other = Classifier.load(trained.save(tmp_path / "kept"))
    other.set_params(verbose=False, batch_size=4)
    assert other.get_params()["batch_size"] == 4
    assert other.predict(NEW) == trained.predict(NEW)
    with pytest.raises(UserError, match="did you mean batch_size"):
        other.set_params(batch_siz=4)


def test_labels_are_compared_as_those_of_files_are(weights, tmp_path):
    clf = Classifier(weights, overrides=SEED, **KEYS)
    clf.fit(TEXTS, [label == "happy" for label in LABELS], model_dir=tmp_path / "run")
    assert clf.classes_ == ["false", "true"]
    found = clf.predict(TEXTS)
    for form in (str, lambda name: name == "true", lambda name: np.bool_(name == "true")):
        assert clf.score(TEXTS, [form(name) for name in found]) == 1.0
    assert clf.score(TEXTS, [name != "true" for name in found]) == 0.0
    with pytest.raises(UserError, match="label 'happy' is none of false, true"):
        clf.score(TEXTS, LABELS)
    with pytest.raises(UserError, match="40 texts have 2 labels"):
        clf.score(TEXTS, LABELS[:2])


def test_rows_that_a_training_cannot_go_on_with_do_not_take_the_place_of_its_own(
    trained, weights, tmp_path
):
    folder = trained.save(tmp_path / "run")
    shutil.copytree(Path(trained.result_.model_dir) / "data", folder / "data")
    rows = folder / "data" / "train.jsonl"
    former = rows.read_bytes()
    clf = Classifier(weights, overrides=SEED)
    with pytest.raises(UserError, match="another meaning"):
        clf.fit(TEXTS[:16], LABELS[:16], model_dir=folder, **KEYS | {"num_epochs": 3})
    assert rows.read_bytes() == former


class Table:
    """As of pandas: it yields the names of its columns."""

    columns = ("text", "label")

    def __iter__(self):
        return iter(self.columns)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: Classifier("w", learning_rat=1), "did you mean learning_rate"),
        (lambda: Classifier().predict(["a"]), "has no weights yet"),
        (lambda: Classifier("w").fit(), "fit needs texts and labels, or data="),
        (lambda: Classifier("w").fit(["a"], ["x", "y"]), "1 texts have 2 labels"),
        (lambda: Classifier("w").fit("a good day", "happy"), "not one text"),
        (lambda: Classifier("w").fit(["a", ("b", "c")], [0, 1]), "row 1 is"),
        (lambda: Classifier("w").fit(["a", None], [0, 1]), "row 1 is None; a text is wanted"),
        (lambda: Classifier("w").fit(None, [0], data="x.csv"), "labels and no texts"),
        (lambda: Classifier("w").fit({"text": ["a"]}, [0]), "the texts are a dict; a list"),
        (lambda: Classifier("w").fit(Table(), [0]), 'one column of a table, such as table["text"]'),
        (lambda: Classifier("w").fit([{"text": "a"}], [0]), "row 0 is {'text': 'a'}; a text"),
        (lambda: Classifier("w").fit(["a"], 5), "the labels are 5; a list is wanted"),
        (lambda: Classifier("w").fit(["a", "b"], "ab"), "a list of labels is wanted"),
        (lambda: Classifier("w").fit(["a", "b"], {"x", "y"}), "the labels are a set"),
        (lambda: Classifier("w").fit(["a", "b"], ["x", float("nan")]), "label 1 is nan; a name"),
        (lambda: Classifier("w").fit(["a", "b"], ["x", None]), "label 1 is None; a name"),
        (lambda: Classifier("w").fit(["a"], ["x"], validation=0.1), "validation is 0.1; (texts,"),
        (lambda: Classifier("w", overrides=["a"]), "overrides is ['a']; dotted keys"),
        (lambda: Classifier("w", zzz=1), "zzz is no keyword here. Everyday keys"),
        (lambda: Classifier("w").evaluate(["a"], ["x"], data="x.csv"), "texts and data"),
        (lambda: Classifier("w").evaluate(labels=["x"]), "labels and no texts"),
        (lambda: Classifier("w").evaluate(), "evaluate needs texts and labels, or data="),
        (
            lambda: QuestionAnswerer("w").fit([("q", "a text")], [5]),
            "answer 0 is 5; a part of its text is wanted",
        ),
        (lambda: Classifier.load("nowhere"), "nowhere holds no params.yaml"),
        (lambda: Classifier("w").save("x"), "nothing was trained here"),
        (
            lambda: Classifier("w", batch_size=-1).fit(["a", "b"], [0, 1]),
            "batch_size: is -1; a number above 0",
        ),
    ],
)
def test_a_mistake_is_told_in_a_sentence(call, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        call()
    assert sentence in str(error.value)


def test_importing_it_imports_no_tensorflow():
    code = "import sys, api; assert not {'tensorflow', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_siblings_take_the_same_arguments():
    assert {each.__name__ for each in Estimator.__subclasses__()} == {
        "Classifier", "TokenClassifier", "QuestionAnswerer", "MaskedLanguageModel"
    }  # fmt: skip


def test_words_are_trained_on_files_and_tagged_without_params(weights, tmp_path):
    (tmp_path / "rows.conll").write_text("a\tO\ngood\tB-mood\n\nbad\tB-mood\nday\tO\n\n" * 20)
    tagger = TokenClassifier(weights, overrides=SEED)
    tagger.fit(data=tmp_path / "rows.conll", model_dir=tmp_path / "run", **KEYS)
    assert {"eval/entity_f1", "eval/word_accuracy"} <= tagger.result_.figures.keys()
    (record,) = tagger.predict(["a good day"])
    assert set(record) == {"entities"}
    tagger.export("huggingface", tmp_path / "exported")
    assert TokenClassifier(str(tmp_path / "exported"), max_sequence_length=16).predict(
        ["a good day"]
    ) == [record]
    # As texts with spans, too.
    spans = [[[2, 6, "mood"]], [[2, 5, "mood"]]] * 20
    tagger = TokenClassifier(weights, overrides=SEED).fit(TEXTS, spans, **KEYS)
    assert tagger._open()[0].label_names == ("B-mood", "O")


def test_questions_are_trained_on_files_and_answered_without_params(weights, tmp_path):
    rows = [{"question": "day", "context": text, "answers": [text.split()[1]]} for text in TEXTS]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = QuestionAnswerer(weights, overrides=SEED)
    model.fit(data=tmp_path / "rows.jsonl", model_dir=tmp_path / "run", **KEYS)
    assert model.result_.figures["eval/f1"] >= 0
    assert (tmp_path / "run" / "best.json").is_file()  # by F1
    pair = "day", "a good day"
    (record,) = model.predict([pair])
    assert record["answer"] in pair[1]
    model.export("huggingface", tmp_path / "exported")
    assert QuestionAnswerer(str(tmp_path / "exported"), max_sequence_length=16).predict([pair]) == [
        record
    ]


def test_questions_are_trained_on_lists_of_pairs_and_answers(weights, tmp_path):
    pairs = [("day", text) for text in TEXTS]
    answers = [text.split()[1] for text in TEXTS]
    answers[0], answers[1] = None, [answers[1], answers[1][:2]]  # none; two right ones
    model = QuestionAnswerer(weights, overrides=SEED)
    model.fit(pairs, answers, validation=(pairs, answers), model_dir=tmp_path / "run", **KEYS)
    assert "eval/NoAns_f1" in model.result_.figures
    assert model.evaluate(pairs, answers)["eval/f1"] == model.result_.figures["eval/f1"]
    rows = (tmp_path / "run" / "data" / "train.jsonl").read_text("utf-8").splitlines()
    first = {"question": "day", "context": TEXTS[0], "answers": []}
    assert json.loads(rows[0]) == first and len(rows) == len(TEXTS)


def test_lists_that_a_sibling_cannot_learn_from_are_refused_with_what_it_takes():
    model = QuestionAnswerer("weights")
    with pytest.raises(UserError, match="2 questions have 1 answers; one for each is wanted"):
        model.fit([("who", "he"), ("what", "it")], ["he"])
    with pytest.raises(UserError, match="questions are pairs"):
        model.fit(["who"], ["he"])
    with pytest.raises(UserError, match=r"write fit\(data=...\)"):
        MaskedLanguageModel("weights").fit(TEXTS)


def test_masked_words_are_trained_on_documents_and_filled_in_without_params(weights, tmp_path):
    texts = [" ".join(f"{text} {text}" for text in TEXTS[n:]) for n in range(30)]
    (tmp_path / "documents.txt").write_text("\n\n".join(texts))
    model = MaskedLanguageModel(weights, overrides=SEED)
    model.fit(data=tmp_path / "documents.txt", model_dir=tmp_path / "run", **KEYS)
    figures = {"loss", "eval/accuracy_masked_lm", "eval/mlm_perplexity"}  # of no pairs
    assert set(model.result_.figures) == figures
    (record,) = model.predict(["a [MASK] day"])
    assert set(record) == {"mask_1"}
    model.export("huggingface", tmp_path / "exported")
    again = MaskedLanguageModel(str(tmp_path / "exported"), max_sequence_length=16)
    assert again.predict(["a [MASK] day"]) == [record]


@pytest.mark.slow
def test_the_example_of_the_page_runs(weights, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "python.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    monkeypatch.chdir(tmp_path)
    exec(code.replace("WEIGHTS", weights).replace("from bert_classifier", "from api"), {})
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("['bad', 'good']") and said[1] == "(1, 2)"
    assert json.loads(said[3].replace("'", '"'))["label"] in ("good", "bad")
