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
from common.metrics.entities import TagSet
from common.metrics.multi_label import (
    MultiLabelMetrics,
    compare_label_sets,
    multi_label_predictions,
)
from common.metrics.pretraining import PretrainingMetrics
from common.metrics.probabilities import softmax
from common.metrics.regression import RegressionMetrics, compare_values, regression_predictions
from common.metrics.squad import f1
from common.metrics.tagging import TaggingMetrics, compare_texts, records_of_texts
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


def resampled(figure_of, num_rows):
    """The 95% interval of a figure that is computed anew for the rows of every resample."""
    random = np.random.Generator(np.random.Philox(key=[0, 0]))
    figures = [figure_of(random.integers(0, num_rows, num_rows)) for _ in range(2000)]
    return np.quantile(figures, [0.025, 0.975])


def test_interval_baseline_and_calibration_are_numpys(model_dir):
    write_report(model_dir)
    content, (logits, labels) = content_of(model_dir), random_answers(211)
    is_right = logits.argmax(axis=1) == labels
    verdict = content["verdict"]
    expected = resampled(lambda rows: is_right[rows].mean(), 211)
    assert verdict["interval"] == pytest.approx(expected, abs=1e-12)
    (of_rows,) = verdict["intervals"]
    assert verdict["value"] == of_rows["of_rows"] == is_right.mean() and verdict["is_same"]
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


def test_a_run_of_another_task_is_no_run_to_compare_with(model_dir, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    with_figures(other, "regression", {"eval/pearson": 0.5})
    flags = ["--mode", "report", "--model_dir", str(model_dir), "--compare", str(other)]
    assert run.main(flags) == 2
    told = (
        f"--compare {other} is a run of task: regression, and {model_dir} of task: classification"
    )
    assert told in capsys.readouterr().err
    assert not (model_dir / "report.html").exists()
    (other / "params.yaml").unlink()  # of a run without params nobody knows the task
    assert run.main([*flags, "--explain", "0"]) == 0


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
    assert verdict["intervals"][0]["of_rows"] == verdict["value"]
    assert "mean error" in page_of(folder)
    assert "better than always answering the mean" in page_of(folder)


def test_sets_of_labels_have_the_interval_of_their_f1(tmp_path):
    random = np.random.default_rng(6)
    logits, labels = random.normal(size=(60, 3)) * 2, (random.random((60, 3)) < 0.4).astype(float)
    outputs, targets, thresholds = {"logits": logits}, {"labels": labels}, [0.5, 0.4, 0.6]
    metrics = MultiLabelMetrics(NAMES, thresholds)
    metrics.update(outputs, targets, np.arange(60))
    truths, mistakes = compare_label_sets(outputs, targets, NAMES, thresholds, ", ")
    answers = multi_label_predictions(outputs, NAMES, thresholds, ", ")
    records = [a | b for a, b in zip(answers, truths, strict=True)]
    write_report(evaluated(tmp_path, metrics, records, mistakes, texts_of(60), "multi_label"))
    found, is_true = 1 / (1 + np.exp(-logits)) >= np.array(thresholds), labels > 0.5

    def micro_f1(rows):
        return 2 * (found & is_true)[rows].sum() / (found[rows].sum() + is_true[rows].sum())

    verdict = content_of(tmp_path)["verdict"]
    assert verdict["figure"] == "eval/micro_f1" and verdict["is_same"]
    assert verdict["interval"] == pytest.approx(resampled(micro_f1, 60), abs=1e-12)
    assert verdict["intervals"][1]["of_rows"] == (found == is_true).all(axis=1).mean()
    assert "exact_match is " in page_of(tmp_path)  # not surely better than always the same set


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


TAGS = ("O", "B-person", "I-person", "B-place")


def tagged(folder, random, right_share):
    """The evaluation of random sentences whose words have the right label so often."""
    lengths = np.array([2, 5, 1, 3, 4, 7, 2, 6, 3, 11, 2, 3, 4])
    words = int(lengths.sum())
    labels = np.random.default_rng(7).choice(4, words, p=[0.5, 0.2, 0.2, 0.1])
    predicted = np.where(random.random(words) < right_share, labels, random.choice(4, words))
    logits = 3.0 * np.eye(4)[predicted]
    outputs = {"logits": logits, "num_words": lengths}
    targets = {"labels": labels, "has_tokens": np.ones(words, bool)}
    metrics = TaggingMetrics(TAGS)
    metrics._splits = [(np.arange(len(lengths)), outputs, targets)]
    texts = [" ".join(["word"] * n) for n in lengths]
    spans = [[(5 * place, 5 * place + 4) for place in range(n)] for n in lengths]
    tags = TagSet(TAGS)
    answers = records_of_texts(outputs, TAGS, tags, texts, spans)
    truths, mistakes = compare_texts(outputs, targets, TAGS, tags, texts, spans)
    records = [a | b for a, b in zip(answers, truths, strict=True)]
    texts = [(text,) for text in texts]
    evaluated(folder, metrics, records, mistakes, texts, "token_classification")
    return lengths, labels, predicted


def test_tagged_sentences_have_the_interval_of_their_entities(tmp_path):
    lengths, labels, predicted = tagged(tmp_path / "a", np.random.default_rng(8), 0.7)
    *_, others = tagged(tmp_path / "b", np.random.default_rng(9), 0.4)
    write_report(tmp_path / "a", compared=tmp_path / "b")
    content, page = content_of(tmp_path / "a"), page_of(tmp_path / "a")
    parts = np.split(np.arange(len(labels)), np.cumsum(lengths)[:-1])

    def entity_f1(rows, predicted=predicted):
        """Every resample is scored anew, as a file with these sentences would be."""
        words, of_rows = np.concatenate([parts[n] for n in rows]), lengths[rows]
        sides = [TagSet(TAGS).entities(side[words], of_rows) for side in (labels, predicted)]
        true, found = (set(map(tuple, side.tolist())) for side in sides)
        return 2 * len(true & found) / (len(true) + len(found))

    verdict = content["verdict"]
    assert content["main"] == "eval/entity_f1" and verdict["is_same"]
    assert verdict["value"] == pytest.approx(entity_f1(np.arange(13)), abs=1e-12)
    assert verdict["interval"] == pytest.approx(resampled(entity_f1, 13), abs=1e-12)
    of_words = verdict["intervals"][1]
    is_right = labels == predicted
    assert of_words["figure"] == "eval/word_accuracy"
    assert of_words["of_rows"] == pytest.approx(is_right.mean(), abs=1e-12)
    assert f"word_accuracy {is_right.mean():.4f}; interval" in page
    num_wrong = sum(not is_right[part].all() for part in parts)
    assert content["mistakes"]["number"] == num_wrong and "B-place" in page
    compared = content["comparison"]
    expected = resampled(lambda rows: entity_f1(rows) - entity_f1(rows, others), 13)
    assert compared["interval"] == pytest.approx(expected, abs=1e-12)
    assert f"a difference of {compared['difference']:+.4f} in entity_f1" in page


def test_answers_to_questions_have_the_interval_of_their_f1(tmp_path):
    columns = ["id", "text_a", "text_b", "answer", "score", "answer_true", "f1", "correct", "place"]
    kinds = [
        ("Who?", "Ada did.", "Ada", "0.9", "Ada"),
        ("Where?", "In Rome.", "In Rome", "0.7", "Rome"),
        ("When?", "Now.", "", "0.8", "Now"),
    ]
    rows = [
        [str(n), *kind, f"{f1(kind[2], kind[4]):.6f}", "no" if n % 3 else "yes", f"f, question {n}"]
        for n, kind in enumerate(kinds * 7)
    ]
    overlap = np.array([1.0, 2 / 3, 0.0] * 7)  # of two words and one: 2 * 1 / (2 + 1)
    content, page = with_figures(
        wrote_rows(tmp_path, columns, rows),
        "question_answering",
        {"eval/f1": 100 * overlap.mean(), "eval/exact_match": 100 / 3, "loss": 1.0},
    )
    assert content["mistakes"]["rows"][0]["texts"] == ["When?", "Now."]  # the surest
    assert content["mistakes"]["rows"][0]["sure"] == 0.8 and content["lengths"]
    verdict = content["verdict"]
    expected = resampled(lambda rows: 100 * overlap[rows].mean(), 21)
    assert verdict["interval"] == pytest.approx(expected, abs=1e-4) and verdict["is_same"]
    expected = resampled(lambda rows: 100 * (rows % 3 == 0).mean(), 21)
    assert verdict["intervals"][1]["interval"] == pytest.approx(expected, abs=1e-9)
    assert "exact_match 33.3333; interval" in page and verdict["baseline"] is None
    words = {each["word"]: each for each in content["first_words"]}
    assert words["where?"]["f1"] == pytest.approx(200 / 3, abs=1e-4)
    assert words["who?"] == {"word": "who?", "exact_match": 100.0, "f1": 100.0, "rows": 7}


def test_a_long_text_is_shown_around_its_answer(tmp_path):
    columns = ["id", "text_a", "text_b", "answer", "score", "answer_true", "f1", "correct"]
    text = "before " * 100 + "Ada did." + " after" * 100
    rows = [["0", "Who?", text, "before", "0.9", "Ada", "0.0", "no"]]
    figures = {"eval/f1": 0.0, "eval/exact_match": 0.0, "loss": 1.0}
    content, page = with_figures(wrote_rows(tmp_path, columns, rows), "question_answering", figures)
    _, shown = content["mistakes"]["rows"][0]["texts"]
    assert shown.startswith("...") and shown.endswith("...") and len(shown) < 310
    assert 120 < shown.index("Ada did.") < 180
    assert 'id="the-run"' not in page  # no start is known: no heading without a content


def test_questions_without_an_answer_are_a_baseline(tmp_path):
    columns = ["id", "text_a", "text_b", "answer", "score", "answer_true", "f1", "correct"]
    rows = [
        [str(n), "Who?", "Ada did.", "Ada", "0.9", "Ada" if n else "", str(float(n > 0)), right]
        for n, right in enumerate(["no", "yes", "yes", "yes"])
    ]
    figures = {"eval/f1": 75.0, "eval/exact_match": 75.0, "loss": 1.0}
    content, page = with_figures(wrote_rows(tmp_path, columns, rows), "question_answering", figures)
    assert content["verdict"]["baseline"] == 25.0
    assert "never answering, which gives 25.0000" in page


def test_pretraining_has_curves_and_figures_alone(tmp_path):
    figures = {"loss": 3.2, "eval/accuracy_masked_lm": 0.4, "eval/mlm_perplexity": 20.0}
    content, page = with_figures(tmp_path, "pretraining", figures)
    assert content["main"] == "eval/accuracy_masked_lm"
    assert "<svg" in page and "accuracy_masked_lm 0.4000" in page


def test_pretraining_has_the_interval_of_its_masked_words(tmp_path):
    random = np.random.default_rng(3)
    weights = (random.random((40, 7)) < 0.6).astype(np.float32)
    outputs = {"mlm_loss": random.random((40, 7)), "mlm_correct": random.random((40, 7)) < 0.4}
    outputs |= {"nsp_loss": random.random(40), "nsp_correct": random.random(40) < 0.8}
    metrics, second = PretrainingMetrics(), PretrainingMetrics()
    for each, rows in ((metrics, np.arange(25)), (second, np.arange(25, 40))):
        part = {name: values[rows] for name, values in outputs.items()}
        each.update(part, {"masked_lm_weights": weights[rows]}, rows)
    metrics.merge(second)
    report = metrics.report() | {"num_examples": 3}
    content, page = with_figures(tmp_path, "pretraining", metrics.compute(), **report)
    masked, right = weights.sum(axis=1), (weights * outputs["mlm_correct"]).sum(axis=1)
    share = right.sum() / masked.sum()
    half = 1.959964 * np.sqrt(((right - share * masked) ** 2).sum()) / masked.sum()
    assert content["verdict"]["interval"] == pytest.approx((share - half, share + half), abs=1e-6)
    next_right = outputs["nsp_correct"].mean()
    half = 1.959964 * np.sqrt(next_right * (1 - next_right) / 40)
    of_rows = content["verdict"]["intervals"][1]
    expected = next_right - half, next_right + half
    assert of_rows["interval"] == pytest.approx(expected, abs=1e-6)
    assert "(95%, normal)" in page


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
