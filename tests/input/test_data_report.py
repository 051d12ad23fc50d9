# SPDX-License-Identifier: Apache-2.0
"""--mode data_report: a page, figures and rows of a user's files, each figure counted by hand."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import pytest

import run
from common.errors import UserError
from input.data_report import without_values
from session import data_report
from utils import get_params

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
LONG = "a b c d e f g h i j k l"
MARKED = "<b>q</b>&nbsp;\u200bz"
TRAIN = [
    (LONG, "yes"),
    (LONG, "yes"),
    (LONG.upper(), "no"),  # an uncased vocabulary knows no case
    (f"{LONG[:-1]}m", "yes"),
    ("x", "no"),
    (MARKED, "no"),
    ("", "no"),  # cannot be used
]
VALIDATION = [(LONG, "no"), ("n o p", "yes")]


@pytest.fixture
def report(tmp_path, capsys):
    """report(*flags) -> exit code, what was printed to stdout and to stderr."""
    for name, rows in (("train", TRAIN), ("validation", VALIDATION)):
        with open(tmp_path / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")

    def call(*flags):
        given = {
            "train_file": tmp_path / "train.csv",
            "eval_file": tmp_path / "validation.csv",
            "model_dir": tmp_path / "run",
            "max_sequence_length": 16,
            "batch_size": 2,
        }
        words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
        sizes = {"hidden_size": 4, "num_heads": 2, "filter_size": 8, "num_hidden_layers": 2}
        keys = {f"model.{key}": value for key, value in sizes.items()}
        keys |= {"*_input.vocab_file": tmp_path / "vocab.txt", "*_input.packing": "none"}
        keys |= {"*_input.cache_dir": tmp_path / "cache"}
        for key, value in keys.items():
            words += ["--override", f"{key}={value}"]
        code = run.main(["--mode", "data_report", *words, *flags])
        return code, *capsys.readouterr()

    return call


def content_of(folder):
    return json.loads((folder / "data_report.json").read_text("utf-8"))


def test_the_figures_are_those_counted_by_hand(report, tmp_path):
    code, out, _ = report()
    assert code == 0
    content = content_of(tmp_path / "run")
    train, validation = content["splits"]["train"], content["splits"]["validation"]
    assert (train["rows"], train["num_skipped"], validation["rows"]) == (6, 1, 2)
    assert train["skipped"] == [f"{tmp_path / 'train.csv'}, line 8: text is empty"]
    assert train["labels"] == {"no": 3, "yes": 3}
    assert train["repeated"]["rows"] == 2 and train["repeated"]["examples"][0]["times"] == 3
    assert (train["contradicting"]["texts"], train["contradicting"]["rows"]) == (1, 3)
    assert train["contradicting"]["ceiling"] == 5 / 6  # two of the three, and the others
    assert train["near"]["texts"] == 1
    # With [CLS] and [SEP]; the marked row is 12 tokens, of which < > < / > & nbsp ; are unknown.
    assert (train["tokens"]["least"], train["tokens"]["most"]) == (3, 14)
    assert train["unknown"]["tokens"] == 8 and train["unknown"]["share"] == 8 / (4 * 12 + 1 + 12)
    assert train["unknown"]["words"][:2] == [["<", 2], [">", 2]]
    odd = {kind: found["rows"] for kind, found in train["characters"]["odd"].items()}
    assert odd == {"invisible": 1, "markup": 1}
    (across,) = content["across"]
    assert (across["rows"], across["share"], across["other_label"]) == (1, 0.5, 1)
    place = across["examples"][0]["rows"][1]["place"]
    assert place == f"{tmp_path / 'train.csv'}, line 2"
    assert "1 row of validation (50.0%) also in train, 1 of them with another label" in out
    figures = json.loads(report("--json")[1])["figures"]
    assert figures["data/leaked_validation_in_train"] == 1


def test_lengths_are_compared_by_what_they_cut_and_the_work_they_make(report, tmp_path):
    report("--max_sequence_length", "8")
    lengths = content_of(tmp_path / "run")["max_sequence_length"]
    rows = {row["length"]: row for row in lengths["lengths"]}
    assert (lengths["given"], lengths["suggested"], *rows) == (8, 16, 8, 16)
    assert rows[8]["cut"] == {"train": 5, "validation": 1} and rows[8]["lost"] == 6 * (14 - 8)
    # 3 steps of 2 rows, padded to the length; 2 layers; 4 D^2 + 2 D F + 2 T D a token; times 3.
    assert rows[16]["work"] == 3 * 2 * (3 * 2 * 16) * (4 * 16 + 2 * 4 * 8 + 2 * 16 * 4)
    assert rows[8]["work"] == 3 * 2 * (3 * 2 * 8) * (4 * 16 + 2 * 4 * 8 + 2 * 8 * 4)
    assert rows[16]["relative"] == rows[16]["work"] / rows[8]["work"]


def test_every_row_that_repeats_contradicts_or_leaks_is_in_the_table(report, tmp_path):
    report()
    lines = (tmp_path / "run" / "data_report_rows.tsv").read_text("utf-8").splitlines()
    found = [dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:]]
    kinds = [(each["finding"], each["split"], each["row"], each["other_row"]) for each in found]
    assert (
        kinds
        == [
            ("repeats a row", "train", "1", "0"),
            ("repeats a row", "train", "2", "0"),
            ("contradicts a row", "train", "2", "0"),
            ("nearly repeats a row", "train", "3", "0"),
            ("is in split train", "validation", "0", "0"),
            ("is nearly in split train", "validation", "0", "3"),
        ][:5]
    )
    assert found[1]["text"] == LONG.upper() and found[1]["other_label"] == "yes"


def test_the_page_escapes_texts_and_asks_nobody(report, tmp_path):
    report("--report_dir", str(tmp_path / "there"))
    page = (tmp_path / "there" / "data_report.html").read_text("utf-8")
    assert "&lt;b&gt;q&lt;/b&gt;&amp;nbsp;" in page and "<b>q</b>" not in page
    assert not re.search(r"<script|\ssrc=|href=\"(?!#)|@import|url\(\"?h", page)
    assert "default-src 'none'" in page and len(page) < 2_000_000
    assert not (tmp_path / "run").exists()


def test_without_texts_no_file_has_any(report, tmp_path):
    report("--no_texts")
    for path in (tmp_path / "run").iterdir():
        content = path.read_text("utf-8").lower()
        assert "a b c d" not in content and "nbsp;" not in content.replace("&nbsp;", "")
    content = content_of(tmp_path / "run")
    assert content["across"][0]["examples"][0]["rows"][0]["row"] == 0
    told = f"{tmp_path / 'train.csv'}, line 8: text is empty"
    assert content["splits"]["train"]["skipped"] == [told]
    assert told in (tmp_path / "run" / "data_report.html").read_text("utf-8")


def test_without_texts_a_bad_row_has_its_place_and_its_reason_without_values(report, tmp_path):
    lines = [
        ('{"text": "a b", "label": "yes"}', None),
        ('{"text": ["secret is"], "label": "yes"}', "text is ...; text is wanted"),
        ('"secret; an object is wanted"', "is ...; an object is wanted"),
        ('{"text": "x", "label": {"secret": 1}}', "label is ...; a name or a number is wanted"),
        ('{"text": "x", "label": "secret; x"}', "label is ...; the labels are yes, no"),
        ('{"text": "secret"', "is not JSON: Expecting ',' delimiter: line 2 column 1 (char 18)"),
        ('{"label": "secret"}', "has no text"),
    ]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(f"{line}\n" for line, _ in lines))
    names = "*_input.label_names=['yes', 'no']"
    code, _, err = report("--no_texts", "--train_file", str(file), "--override", names)
    assert code == 0, err
    told = [f"{file}, line {n}: {told}" for n, (_, told) in enumerate(lines, start=1) if told]
    assert content_of(tmp_path / "run")["splits"]["train"]["skipped"] == told
    for path in (tmp_path / "run").iterdir():
        assert "secret" not in path.read_text("utf-8")


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (
            "answer 'secret \"' is not in the context, and has no answer_start",
            "answer '...' is not",
        ),
        ('answer "secret\'s" is not in the words of the context', 'answer "..." is not in the'),
        ("label secret is none of O, B", "label ... is none of O, B"),
        ("labels has spans that overlap at 'secret'", ""),
        ("has is_impossible secret; true or false is wanted", ""),
    ],
)
def test_a_reason_that_is_not_known_is_left_out_with_the_values(reason, told):
    place = "a.json, article 0, question 7"
    found = without_values(f"{place}: {reason}")
    assert found.startswith(f"{place}: {told}" if told else place) and "secret" not in found


def test_a_run_without_a_vocabulary_or_for_another_mode_is_refused(report, tmp_path):
    code, _, err = report("--override", "*_input.vocab_file=null")
    assert code == 2 and "give --checkpoint_path" in err
    code = run.main(["--mode", "train", "--train_file", "x.csv", "--no_texts"])
    assert code == 2
    code, _, err = report("--validate_only")
    assert code == 2 and "--validate_only" in err


def test_pretraining_is_referred_to_its_own_mode(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*VOCAB, "[MASK]"]) + "\n")
    config = "configs/params_bert_minilm_pretrain_sample.yaml"
    given = {"*_input.vocab_file": str(tmp_path / "vocab.txt"), "runconfig.model_dir": tmp_path}
    params = get_params(config, {**given, "runconfig.mode": "data_report"})
    with pytest.raises(UserError, match="--mode prepare_data describes"):
        data_report(params, tmp_path, True)


@pytest.fixture
def report_on_sample(tmp_path):
    """report_on_sample(name, with_texts) -> the content, of a config of the embedded samples."""

    def call(name, with_texts):
        (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
        given = {"*_input.vocab_file": str(tmp_path / "vocab.txt"), "runconfig.mode": "data_report"}
        given |= {"*_input.cache_dir": str(tmp_path / "cache"), "runconfig.model_dir": tmp_path}
        params = get_params(f"configs/params_bert_minilm_{name}_sample.yaml", given)
        data_report(params, tmp_path, with_texts)
        return content_of(tmp_path)

    return call


def test_words_with_labels_are_counted_by_word(report_on_sample):
    content = report_on_sample("names", True)
    lines = Path("input/samples/names_train.conll").read_text("utf-8").splitlines()
    words = [line.split() for line in lines if line.strip()]
    expected = Counter(label for _, *_, label in words)
    assert content["splits"]["train"]["labels"] == dict(expected)
    assert content["max_sequence_length"]["is_windowed"]


def test_answers_are_texts_too(report_on_sample, tmp_path):
    articles = json.loads(Path("input/samples/questions_train.json").read_text("utf-8"))["data"]
    questions = [qa for a in articles for p in a["paragraphs"] for qa in p["qas"]]
    content = report_on_sample("questions", False)
    counts = content["splits"]["train"]["labels"]
    assert content["splits"]["train"]["rows"] == sum(counts.values()) == len(questions)
    assert counts["without an answer"] == sum(not question["answers"] for question in questions)
    for path in tmp_path.glob("data_report*"):
        assert questions[0]["question"] not in path.read_text("utf-8")
    header = (tmp_path / "data_report_rows.tsv").read_text("utf-8").split("\n")[0]
    assert "label" not in header and "text" not in header
