# SPDX-License-Identifier: Apache-2.0
"""--mode report: its figures are those of metrics.jsonl, and what it finds NumPy finds, too."""

import csv
import itertools
import json
import re
import shutil

import numpy as np
import pytest

import run
from common.errors import UserError
from common.metrics.classification import (
    ClassificationMetrics,
    classification_predictions,
    compare_classes,
)
from common.metrics.probabilities import softmax
from common.metrics.regression import RegressionMetrics, compare_values, regression_predictions
from common.reports.evaluation_report import EvaluationReport
from common.reports.kept_rows import read_kept_rows
from common.reports.metrics_file import MetricsFile
from common.reports.prediction_files import EvaluationRows, rows_of
from common.training.reporter import write_report

NAMES = ("bad", "so <so>", "good")
STEP = 40


def random_answers(num_rows, num_classes=3, seed=0):
    """Logits and labels of a classifier that is right more often than not."""
    random = np.random.default_rng(seed)
    labels = random.choice(num_classes, num_rows)
    logits = random.normal(size=(num_rows, num_classes)) * 1.5
    logits[np.arange(num_rows), labels] += 1.6
    return logits, labels


def texts_of(num_rows):
    return [(f"row {n} <b>&" + " word" * (n % 9),) for n in range(num_rows)]


def evaluated(folder, metrics, records, mistakes, texts, task="classification", step=STEP):
    """What an evaluation of a split leaves in a model_dir, written by what writes it."""
    places = [f"/data/mine.csv, line {n + 2}" for n in range(len(texts))]
    records = [r | {"place": place} for r, place in zip(records, places, strict=True)]
    facts = {"mode": "train_and_eval", "checkpoint": f"checkpoint-{step}", "source": "mine.csv"}
    facts |= {"is_whole": True, "num_examples": len(texts)}
    file = MetricsFile(folder)
    file.on_figures("train", 20, {"train/cost": 0.7, "train/lr": 1e-4})
    file.on_figures("eval", step, metrics.compute(), facts=facts)
    file.close()
    EvaluationReport(folder).on_evaluation(step, {**facts, **metrics.report()})
    kept = *rows_of(records, texts, {}), np.array(mistakes)
    EvaluationRows(folder).on_evaluation(step, {}, rows=lambda: {"validation": kept})
    params = {"predict_input": {"task": task}, "runconfig": {"best_metric": None}}
    (folder / "params.yaml").write_text(json.dumps(params))
    return folder


def classified(folder, logits, labels, names=NAMES):
    outputs, targets = {"logits": logits}, {"labels": labels}
    metrics = ClassificationMetrics(names, len(names))
    metrics.update(outputs, targets, np.arange(len(labels)))
    truths, mistakes = compare_classes(outputs, targets, names)
    answers = classification_predictions(outputs, names)
    records = [a | b for a, b in zip(answers, truths, strict=True)]
    return evaluated(folder, metrics, records, mistakes, texts_of(len(labels)))


@pytest.fixture
def model_dir(tmp_path):
    return classified(tmp_path / "mine", *random_answers(211))


def content_of(folder):
    return json.loads((folder / "report.json").read_text("utf-8"))


def page_of(folder):
    return (folder / "report.html").read_text("utf-8")


def test_the_figures_are_those_of_the_metrics_file(model_dir, capsys):
    assert run.main(["--mode", "report", "--model_dir", str(model_dir), "--json"]) == 0
    last = json.loads((model_dir / "metrics.jsonl").read_text().splitlines()[-1])
    content = content_of(model_dir)
    assert content["figures"] == {name: last[name] for name in content["figures"]}
    assert set(content["figures"]) >= {"loss", "eval/accuracy_cls", "eval/macro_f1", "eval/mcc"}
    assert json.loads(capsys.readouterr().out)["figures"] == content["figures"]
    assert f"{last['eval/accuracy_cls']:.4f} on 211 rows" in page_of(model_dir)


def test_interval_baseline_and_calibration_are_numpys(model_dir):
    write_report(model_dir)
    content, (logits, labels) = content_of(model_dir), random_answers(211)
    is_right = logits.argmax(axis=1) == labels
    random = np.random.Generator(np.random.Philox(key=[0, 0]))
    means = [is_right[random.integers(0, 211, 211)].mean() for _ in range(2000)]
    verdict = content["verdict"]
    assert verdict["interval"] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1e-12)
    assert verdict["value"] == verdict["of_rows"] == is_right.mean() and verdict["is_same"]
    assert verdict["baseline"] == np.bincount(labels).max() / 211
    probabilities = softmax(logits)
    confidence, error = probabilities.max(axis=1), 0.0
    for low, high in itertools.pairwise(np.linspace(0, 1, 16)):
        inside = (confidence > low) & (confidence <= high)
        error += abs(confidence[inside].sum() - is_right[inside].sum()) / 211
    # The table has six decimals.
    assert content["calibration"]["error"] == pytest.approx(error, abs=1e-6)


def test_every_confusion_opens_its_rows(model_dir):
    write_report(model_dir)
    content, (logits, labels) = content_of(model_dir), random_answers(211)
    counts = np.array(content["confusion"])
    assert counts.sum() == 211
    found = {(cell["true"], cell["answer"]): cell for cell in content["cells"]}
    assert set(found) == {(a, b) for a, b in np.argwhere(counts).tolist() if a != b}
    for (true, answer), cell in found.items():
        rows = np.flatnonzero((labels == true) & (logits.argmax(axis=1) == answer))
        assert cell["number"] == counts[true, answer] == len(rows)
        assert [int(row["id"]) for row in cell["rows"]] == rows[:15].tolist()
        assert f'href="#cell-{true}-{answer}"' in page_of(model_dir)
        assert f'id="cell-{true}-{answer}"' in page_of(model_dir)


def test_mistakes_come_surest_first_and_lengths_hold_every_row(model_dir):
    write_report(model_dir)
    content, (logits, labels) = content_of(model_dir), random_answers(211)
    is_wrong = logits.argmax(axis=1) != labels
    sure = np.where(is_wrong, softmax(logits).max(axis=1), 0)
    order = np.argsort(-sure, kind="stable")[: min(30, is_wrong.sum())]
    assert [int(row["id"]) for row in content["mistakes"]["rows"]] == order.tolist()
    assert content["mistakes"]["number"] == is_wrong.sum()
    assert sum(each["rows"] for each in content["lengths"]) == 211
    wrong = sum(each["rows"] * each["wrong"] for each in content["lengths"])
    assert wrong == pytest.approx(is_wrong.sum())


def test_the_page_escapes_texts_and_asks_nobody(model_dir):
    write_report(model_dir)
    page = page_of(model_dir)
    assert "&lt;b&gt;&amp;" in page and "<b>&" not in page and "so &lt;so&gt;" in page
    assert not re.search(r"<script|\ssrc=|href=\"(?!#)|@import|url\(\"?h", page)
    assert "default-src 'none'" in page


def test_many_classes_and_rows_stay_below_two_megabytes(tmp_path):
    names = tuple(f"class {n}" for n in range(77))
    folder = classified(tmp_path, *random_answers(5000, 77), names)
    write_report(folder)
    assert len(page_of(folder)) < 2_000_000
    assert "taken for" in page_of(folder)


def test_without_texts_there_are_none(model_dir):
    (model_dir / "data_report.json").write_text('{"has_texts": true}')
    write_report(model_dir, with_texts=False)
    for path in (model_dir / "report.html", model_dir / "report.json"):
        content = path.read_text("utf-8")
        assert "word word" not in content and "row 3" not in content and "&lt;b" not in content
    assert content_of(model_dir)["mistakes"]["rows"][0]["answer"] in NAMES


def test_words_that_moved_answers_are_of_mistakes_and_of_right_rows(model_dir):
    asked = []

    def explain(texts, answers):
        asked.extend(zip(texts, answers, strict=True))
        return [[("word<", 0.5), ("other", -0.25)] for _ in texts]

    write_report(model_dir, explain=explain)
    assert "words" not in content_of(model_dir)  # there is no checkpoint to ask
    (model_dir / f"checkpoint-{STEP}").mkdir()
    (model_dir / f"checkpoint-{STEP}" / "manifest.json").write_text('{"files": {}}')
    write_report(model_dir, explain=explain)
    content, (logits, labels) = content_of(model_dir), random_answers(211)
    rows = [int(row["id"]) for row in content["words"]["rows"]]
    is_right = logits.argmax(axis=1) == labels
    assert len(rows) == len(asked) == 20 and is_right[rows].tolist() == [False] * 10 + [True] * 10
    answers = logits.argmax(axis=1)
    assert asked == [(texts_of(211)[row], NAMES[answers[row]]) for row in rows]
    assert "rgba(0, 114, 178,0.60)" in page_of(model_dir) and "word&lt;" in page_of(model_dir)

    def refuse(texts, answers):
        raise UserError("no weights")

    write_report(model_dir, explain=refuse)
    assert "could not be asked: no weights" in page_of(model_dir)


def test_another_run_is_compared_row_by_row(model_dir, tmp_path):
    logits, labels = random_answers(211)
    others = logits.copy()
    others[:50] = random_answers(50, seed=9)[0]
    other = classified(tmp_path / "other", others, labels)
    result = write_report(model_dir, tmp_path / "out", other)
    assert result.written == tuple(str(tmp_path / "out" / f"report.{e}") for e in ("html", "json"))
    found = content_of(tmp_path / "out")["comparison"]
    ours, theirs = logits.argmax(axis=1) == labels, others.argmax(axis=1) == labels
    assert (found["num_gained"], found["num_lost"]) == (
        (ours > theirs).sum(),
        (ours < theirs).sum(),
    )
    assert found["num_common"] == 211 and found["is_same_data"]
    assert found["difference"] == pytest.approx(ours.mean() - theirs.mean())
    _, mine, others_figure = next(f for f in found["figures"] if f[0] == "eval/accuracy_cls")
    assert (mine, others_figure) == (ours.mean(), theirs.mean())


def test_numbers_have_a_correlation_with_its_interval(tmp_path):
    random = np.random.default_rng(2)
    labels = random.normal(size=90).astype(np.float32)
    outputs = {"logits": (labels + random.normal(size=90) * 0.5)[:, None].astype(np.float32)}
    targets = {"labels": labels}
    metrics = RegressionMetrics()
    metrics.update(outputs, targets, np.arange(90))
    truths, mistakes = compare_values(outputs, targets)
    records = [a | b for a, b in zip(regression_predictions(outputs), truths, strict=True)]
    folder = evaluated(tmp_path, metrics, records, mistakes, texts_of(90), "regression")
    write_report(folder)
    verdict = content_of(folder)["verdict"]
    assert verdict["figure"] == "eval/pearson"
    assert verdict["interval"][0] < verdict["value"] < verdict["interval"][1]
    assert verdict["of_rows"] == verdict["value"]
    assert "mean error" in page_of(folder)


def wrote_rows(folder, columns, rows):
    """A model_dir with a figure and kept rows of another task."""
    (folder / "eval").mkdir(parents=True)
    lines = [columns, *rows]
    for name in ("rows", "errors"):
        with open(folder / "eval" / f"{name}_validation.tsv", "w", encoding="utf-8") as file:
            wanted = lines if name == "rows" else [columns, *[r for r in rows if "no" in r]]
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows(wanted)
    return folder


def with_figures(folder, task, figures, **report):
    facts = {"mode": "eval", "checkpoint": "checkpoint-7", "source": "mine", "is_whole": True}
    facts["num_examples"] = 3
    file = MetricsFile(folder)
    file.on_figures("eval", 7, figures, facts=facts)
    file.close()
    EvaluationReport(folder).on_evaluation(7, {**facts, **report})
    (folder / "params.yaml").write_text(json.dumps({"predict_input": {"task": task}}))
    write_report(folder)
    return content_of(folder), page_of(folder)


def test_tagged_words(tmp_path):
    columns = ["id", "text", "entities", "entities_true", "correct", "place"]
    rows = [
        ["0", "Ada wrote", "Ada (person 0-3 0.9)", "Ada (person)", "yes", "f, line 1"],
        ["1", "in Rome now", "", "Rome (place)", "no", "f, line 4"],
        ["2", "so", "", "", "yes", "f, line 8"],
    ]
    per_class = [{"label": "place", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}]
    confusions = [{"true": "B-place", "predicted": "O", "count": 1}]
    content, page = with_figures(
        wrote_rows(tmp_path, columns, rows),
        "token_classification",
        {"eval/entity_f1": 0.6667, "eval/word_accuracy": 0.8, "loss": 0.4},
        per_class=per_class,
        confusions=confusions,
    )
    assert content["main"] == "eval/entity_f1" and content["mistakes"]["number"] == 1
    assert content["verdict"]["of_rows"] == pytest.approx(2 / 3)
    assert "texts without a wrong word 0.6667" in page and "B-place" in page
    assert "in Rome now" in page and "Rome (place)" in page


def test_answers_to_questions(tmp_path):
    columns = ["id", "text_a", "text_b", "answer", "score", "answer_true", "correct", "place"]
    rows = [
        ["0", "Who?", "Ada did.", "Ada", "0.9", "Ada", "yes", "f, question 1"],
        ["1", "Where?", "In Rome.", "In", "0.7", "Rome", "no", "f, question 2"],
        ["2", "When?", "Now.", "Now", "0.8", "Now", "yes", "f, question 3"],
    ]
    content, page = with_figures(
        wrote_rows(tmp_path, columns, rows),
        "question_answering",
        {"eval/f1": 66.7, "eval/exact_match": 66.7, "loss": 1.0},
    )
    assert content["mistakes"]["rows"][0]["texts"] == ["Where?", "In Rome."]
    assert "exact answers 0.6667" in page and content["lengths"]


def test_pretraining_has_curves_and_figures_alone(tmp_path):
    figures = {"loss": 3.2, "eval/accuracy_masked_lm": 0.4, "eval/mlm_perplexity": 20.0}
    content, page = with_figures(tmp_path, "pretraining", figures)
    assert content["main"] == "eval/accuracy_masked_lm"
    assert "<svg" in page and "accuracy_masked_lm 0.4000" in page


def test_a_folder_without_a_run_is_refused(tmp_path, model_dir, capsys):
    with pytest.raises(UserError, match="nothing to report on"):
        write_report(tmp_path)
    assert run.main(["--mode", "report", "--model_dir", str(tmp_path / "none")]) == 2
    assert "is not there" in capsys.readouterr().err
    assert run.main(["--mode", "report", "--model_dir", str(model_dir), "--batch_size", "3"]) == 2
    assert "is not for --mode report" in capsys.readouterr().err
    table = model_dir / "eval" / "rows_validation.tsv"
    table.write_text(table.read_text() + "1\ttoo short\n")
    with pytest.raises(UserError, match="line 213 has 2 columns"):
        read_kept_rows(model_dir / "eval")
    shutil.rmtree(model_dir / "eval")
    write_report(model_dir)
    assert content_of(model_dir)["verdict"]["value"] is not None
