# SPDX-License-Identifier: Apache-2.0
"""Tagged sentences from files to a trained network and its answers, as a user has them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import data
from common.checkpoints.formats import ours
from common.errors import UserError
from common.params import Params
from common.reports.listeners import standard_listeners
from common.tasks.token_classification import TagTargets
from common.training.checks import set_up
from common.training.evaluator import Evaluator
from common.training.inference import Inference
from common.training.predictor import predict
from common.training.trainer import Trainer
from common.validate.compile_ahead import compile_ahead
from common.validate.validate import Problems, validate
from input.sources.processors import open_source
from session import open_session

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh", *(f"##{c}" for c in "abcdefgh"), "."]
# A name is a word that begins with a, alone or with words that begin with b after it.
SENTENCES = ["ca ab bd c .", "d ab c d", "ab", "c d .", "dc ca ab bd b .", "e af b b af h"] * 4


def labels_of(sentence):
    labels, inside = [], False
    for word in sentence.split():
        starts, goes_on = word.startswith("a"), word.startswith("b") and inside
        labels.append("B-name" if starts else "I-name" if goes_on else "O")
        inside = starts or goes_on
    return labels


def conll(sentences=SENTENCES, between=""):
    rows = (zip(s.split(), labels_of(s), strict=True) for s in sentences)
    return f"\n{between}\n".join("\n".join(map("\t".join, row)) for row in rows) + "\n"


def params_of(tmp_path, file, optimizer=None, model=None, runconfig=None, **keys):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return Params.model_validate(
        {
            "train_input": {
                "data_processor": "TaggedTextDataProcessor",
                "train_file": str(file),
                "eval_file": str(file),
                "vocab_file": str(tmp_path / "vocab.txt"),
                "cache_dir": str(tmp_path / "cache"),
                "max_sequence_length": 8,
                "batch_size": 4,
                "packing": "packed",
                **keys,
            },
            "model": {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_heads": 2,
                "filter_size": 16,
                "max_position_embeddings": 8,
                **(model or {}),
            },
            "optimizer": {"learning_rate": 0.01, **(optimizer or {})},
            "runconfig": {
                "model_dir": str(tmp_path / "model"),
                "mode": "train_and_eval",
                "tf_random_seed": 1,
                "max_steps": 150,
                "save_checkpoints_steps": 150,
                "best_metric": "eval/entity_f1",
                "best_metric_mode": "max",
                **(runconfig or {}),
            },
        }
    )


def source_of(tmp_path, content, suffix=".conll", needs_targets=True, **keys):
    file = tmp_path / f"rows{suffix}"
    file.write_text(content)
    cfg = params_of(tmp_path, file, **keys).train_input
    return file, open_source(cfg, TagTargets.of(cfg), needs_targets)


# ---- The source ----------------------------------------------------------------------------------


def test_a_source_names_its_sentences_by_file_and_line(tmp_path):
    file, source = source_of(tmp_path, conll(["a b", "c d"], between="\t"))
    assert source.targets.label_names == ("B-name", "I-name", "O")
    assert source.num_rows("train") == 2
    assert source.read_texts("train") == [("a b",), ("c d",)]
    assert source.places("train", [1]) == [f"{file}, line 4"]
    assert source.word_spans("train")[1] == ((0, 1), (2, 3))


def test_labels_against_their_scheme_are_refused_or_left_out(tmp_path):
    content = "a\tI-name\nb\tI-name\n\nc\tO\n\nd\tB-name\n"
    with pytest.raises(UserError) as caught:
        source_of(tmp_path, content)
    assert "rows.conll: 1 sentence cannot be used" in str(caught.value)
    assert "line 1: I-name follows O, without a B-\n" in str(caught.value)
    only = "a\tI-name\nb\tI-name\n\nc\tO\n"
    with pytest.raises(UserError, match="B-; all labels fit IOB1: write tag_scheme: IOB1"):
        source_of(tmp_path, only)
    _, source = source_of(tmp_path, content, on_bad_row="skip")
    assert source.read_texts("train") == [("c",), ("d",)]
    assert "line 1: I-name follows O" in source.skipped("train")[0]
    _, source = source_of(tmp_path, only, tag_scheme="IOB1")
    assert source.num_rows("train") == 2
    lines = ['{"tokens": ["c"], "tags": ["O"]}', '{"tokens": ["c", "a"], "tags": ["O", "I-name"]}']
    with pytest.raises(UserError, match=r"rows\.jsonl: 1 sentence .*\n  line 2: I-name follows O"):
        source_of(tmp_path, "\n".join(lines), ".jsonl")


def test_labels_are_of_the_scheme_of_the_training_and_of_that_which_is_named(tmp_path):
    """Else B- and I- without their E- would be scored as no entities by the strict rule."""
    train = "a\tB-x\nb\tI-x\nc\tE-x\n\nd\tO\n"
    (tmp_path / "eval.conll").write_text("d\tO\n\na\tB-x\nb\tI-x\n")
    _, source = source_of(tmp_path, train, eval_file=str(tmp_path / "eval.conll"))
    assert source.num_rows("train") == 2
    with pytest.raises(UserError, match="line 4: I-x ends the sentence, where an E- would"):
        source.num_rows("validation")
    with pytest.raises(UserError, match="line 3: E-x is no label of IOB2; all labels fit IOBES: w"):
        source_of(tmp_path, train, tag_scheme="IOB2")


def test_a_label_that_training_did_not_have_is_named(tmp_path):
    (tmp_path / "eval.conll").write_text("a\tB-place\n")
    _, source = source_of(tmp_path, conll(), eval_file=str(tmp_path / "eval.conll"))
    with pytest.raises(UserError, match="line 1: label B-place is none of B-name, I-name, O"):
        source.num_rows("validation")


def test_columns_are_numbers_and_files_of_another_kind_are_refused(tmp_path):
    for columns in (("1", "2"), (1, 2), ([-2], -1)):
        keys = dict(zip(("text_columns", "label_column"), columns, strict=True))
        _, source = source_of(tmp_path, "x a O\ny b B-n\n", **keys)
        assert source.read_texts("train") == [("a b",)]
    with pytest.raises(UserError, match="has no labels; write another label_column, or delimiter"):
        source_of(tmp_path, "a;O\nb;B-n\n")
    with pytest.raises(
        UserError, match="label_column is ner, but the columns of this file have no"
    ):
        source_of(tmp_path, conll(), label_column="ner")
    with pytest.raises(UserError, match=r"rows\.csv is named as \.csv; tagged sentences are"):
        source_of(tmp_path, conll(), ".csv")


def test_content_and_labels_decide_the_fingerprint_and_not_the_place(tmp_path):
    file, source = source_of(tmp_path, conll())
    before = source.fingerprint("train"), source.content("train")
    (tmp_path / "elsewhere").mkdir()
    _, other = source_of(tmp_path / "elsewhere", conll())
    assert (other.fingerprint("train"), other.content("train")) == before
    file.write_text(conll().replace("O\n", "B-name\n", 1))
    assert source.fingerprint("train") != before[0]
    assert source.content("train") != before[1]


# ---- From end to end -----------------------------------------------------------------------------


def opened(params, **changes):
    params = params.with_runconfig(**changes)
    return open_session(params)


def trained(params):
    session = opened(params)
    set_up(session.run)
    listeners = standard_listeners(session.model_dir)
    return session, Trainer(session, session.new_model(), listeners).train()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The params and the Result of a whole training on a CoNLL file."""
    folder = tmp_path_factory.mktemp("tagged")
    (folder / "rows.conll").write_text(conll())
    # A rate that falls: with a constant 0.01 one of eight seeds had not settled.
    rate = {"scheduler": "Linear", "initial_learning_rate": 0.005, "end_learning_rate": 0.0}
    optimizer = {"learning_rate": {**rate, "steps": 150}}
    params = params_of(folder, folder / "rows.conll", optimizer=optimizer)
    return folder, params, trained(params)[1]


def test_names_are_learnt_scored_and_reported(finished):
    folder, _, result = finished
    assert result.figures["eval/entity_f1"] == 1.0
    assert result.num_examples == len(SENTENCES)
    assert any(name == "Entities" for name, _ in result.lines)
    report = json.loads((folder / "model/eval/report-validation.json").read_text("utf-8"))
    assert report["per_class"] == [
        {"label": "name", "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 24}
    ]
    assert (report["scheme"], report["rule"], report["confusions"]) == ("IOB2", "conlleval", [])
    rows = (folder / "model/eval/rows_validation.tsv").read_text("utf-8").split("\n")
    columns = ["id", "text", "entities", "entities_true", "hits", "missed", "extra"]
    assert rows[0].split("\t") == [*columns, "words", "wrong_words", "correct", "place"]
    assert rows[1].startswith("0\tca ab bd c .\tab bd (name 3-8 ")
    assert "\tab bd (name)\t1\t0\t0\t5\t0\tyes\t" in rows[1]


def test_an_evaluation_of_the_checkpoint_gives_the_same_figures(finished):
    _, params, result = finished
    session = opened(params, mode="eval")
    inference = Inference(session, session.new_model())
    evaluated = Evaluator(inference).evaluate_checkpoint()
    assert evaluated.figures == result.figures


def test_texts_are_tagged_with_their_characters(finished):
    _, params, _ = finished
    session = open_session(params.with_runconfig(mode="predict"), texts=["c. ab  bd c", ""])
    predicted = predict(session, Inference(session, session.new_model()))
    first, second = predicted.predictions
    assert first["entities"].startswith("ab  bd (name 3-9 ")
    assert second["entities"] == ""
    written = {path.rpartition(".")[2]: path for path in predicted.written}
    lines = Path(written["jsonl"]).read_text("utf-8").splitlines()
    answer = json.loads(lines[0])
    assert answer["tokens"] == ["c", ".", "ab", "bd", "c"]
    assert answer["tags"] == ["O", "O", "B-name", "I-name", "O"]
    (entity,) = answer["entities"]
    assert (entity["start"], entity["end"], entity["text"]) == (3, 9, "ab  bd")
    assert json.loads(lines[1])["entities"] == []


def test_a_conll_file_is_predicted_beside_its_own_labels(finished):
    folder, params, _ = finished
    file = folder / "other.conll"
    file.write_text("c\tO\nab\tO\n\nab\tB-name\n")
    session = open_session(params.with_runconfig(mode="predict"), input_file=str(file))
    predicted = predict(session, Inference(session, session.new_model()))
    (path,) = (path for path in predicted.written if path.endswith(".conll"))
    content = Path(path).read_text("utf-8")
    assert content == "c\tO\tO\nab\tO\tB-name\n\nab\tB-name\tB-name\n\n"
    file.write_text("c\nab\n\nab\n")  # words alone
    session = open_session(params.with_runconfig(mode="predict"), input_file=str(file))
    predict(session, Inference(session, session.new_model()))
    assert Path(path).read_text("utf-8") == "c\tO\nab\tB-name\n\nab\tB-name\n\n"


def test_a_file_to_predict_may_have_labels_that_cannot_be_read(finished):
    folder, params, _ = finished
    rows = [{"tokens": ["c", "ab"], "tags": [0, 1]}, {"tokens": ["ab\nc"], "tags": ["B-name"]}]
    (folder / "odd.jsonl").write_text("\n".join(map(json.dumps, rows)))
    session = open_session(
        params.with_runconfig(mode="predict"), input_file=str(folder / "odd.jsonl")
    )
    predicted = predict(session, Inference(session, session.new_model()))
    (path,) = (path for path in predicted.written if path.endswith(".conll"))
    lines = Path(path).read_text("utf-8").splitlines()
    assert [line.split("\t")[:-1] for line in lines] == [["c"], ["ab"], [], ["ab c", "B-name"], []]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("new.tsv", "c\tO\nab\tO\n\nd\tO\n"),
        ("eng.testb", "-DOCSTART- O\n\nc O\nab O\n\nd O\n"),
        ("new.jsonl", '{"tokens": ["c", "ab"]}\n{"tokens": ["d"]}\n'),
        ("texts.jsonl", '{"text": "c ab"}\n{"text": "d"}\n'),
        ("texts.txt", "c ab\nd\n"),
    ],
)
def test_a_file_to_tag_is_read_by_what_its_name_says(finished, name, content):
    folder, params, _ = finished
    file = folder / name
    file.write_text(content)
    session = open_session(params.with_runconfig(mode="predict"), input_file=str(file))
    batches, _ = data.predict_input_fn(session.params, session.texts)
    (origins,) = (each.origins() for each in batches.values())
    assert origins.texts == [("c ab",), ("d",)]
    spans = [[tuple(span) for span in spans] for spans in origins.words]
    assert spans == [[(0, 1), (2, 4)], [(0, 1)]]


def test_a_table_to_tag_is_refused(finished):
    folder = finished[0]
    params = finished[1].with_runconfig(mode="predict")
    with pytest.raises(UserError, match=r"new\.csv is a table, .*\.conll, .* is a text to tag"):
        open_session(params, input_file="new.csv")
    (folder / "tagged.txt").write_text("c\tO\nab\tO\n")
    session = open_session(params, input_file=str(folder / "tagged.txt"))
    with pytest.raises(UserError, match=r"or name a file with a word and its label .* \.conll"):
        data.predict_input_fn(session.params, session.texts)


@pytest.mark.parametrize(("packing", "stride"), [("packed", None), ("none", 2)])
def test_a_long_text_is_tagged_as_its_windows_by_hand(finished, packing, stride):
    """3,000 words in rows of 6 tokens: each answer is that of the window of most context."""
    _, params, _ = finished
    words = (" ".join(SENTENCES).replace(".", "").split() * 60)[:3000]
    rows = params.predict_input.model_copy(update={"packing": packing, "window_stride": stride})
    params = params.model_copy(update={"predict_input": rows}).with_runconfig(mode="predict")
    session = open_session(params, texts=[" ".join(words)])
    predicted = predict(session, Inference(session, session.new_model()))
    (path,) = (path for path in predicted.written if path.endswith(".jsonl"))
    ours = json.loads(Path(path).read_text("utf-8"))["tags"]
    assert len(ours) == 3000
    # By hand: pieces of one letter; a window of 6 begins so many tokens on, not given half of its
    # 6, or at the word before that.
    firsts = np.cumsum([0, *(len(word) for word in words)])
    total, begins, starts = firsts[-1], set(firsts[:-1].tolist()), [0]
    while starts[-1] + 6 < total:
        after = starts[-1] + (stride or 3)
        allowed = [place for place in range(starts[-1] + 1, after + 1) if place in begins]
        starts.append(allowed[-1] if allowed else after)
    model = session.new_model()
    Inference(session, model).load(session.checkpoint)
    ids = [VOCAB.index(c if n == 0 else f"##{c}") for word in words for n, c in enumerate(word)]
    rows = [[2, *ids[s : s + 6], 3] for s in starts]
    rows = np.array([row + [0] * (8 - len(row)) for row in rows], np.int32)
    features = {"input_ids": rows, "input_mask": (rows == 0).astype(np.int32)}
    features["segment_ids"] = np.zeros_like(rows)
    logits = np.asarray(model.build_model(features, "predict")["logits"])
    names, starts = session.label_names, np.array(starts)
    ends = np.minimum(starts + 6, total)
    for word in range(3000):
        token = firsts[word]
        context = np.minimum(token - starts, ends - 1 - token) + 0.01 * (ends - starts)
        best = int(np.argmax(np.where((starts <= token) & (token < ends), context, -1)))
        assert ours[word] == names[logits[best, 1 + token - starts[best]].argmax()], word


def test_a_stopped_training_ends_with_the_bits_of_one_that_was_not(finished, tmp_path):
    folder, params, _ = finished
    params = params.with_runconfig(model_dir=str(tmp_path / "model"))
    trained(params.with_runconfig(max_steps=41))
    _, result = trained(params)
    assert result.outcome.startswith("Trained to step 150")
    whole, resumed = (
        ours.read_weights(path / "checkpoint-150")
        for path in (folder / "model", tmp_path / "model")
    )
    assert whole.keys() == resumed.keys()
    for name in whole:
        np.testing.assert_array_equal(np.asarray(whole[name]), np.asarray(resumed[name]))


def test_a_run_is_validated_and_its_programs_are_compiled(finished, tmp_path, capsys):
    _, params, _ = finished
    problems = Problems()
    with problems.collecting():
        session = opened(params, model_dir=str(tmp_path / "model"))
    assert validate(session, problems) == 0
    report = json.loads((tmp_path / "model/validate/report.json").read_text("utf-8"))
    labels = report["data"]["train"]["first_batch"]["labels"]
    assert (labels["shape"][0], labels["dtype"]) == (4, "int32")
    session = replace(session, params=session.params.with_runconfig(compile_only=True))
    set_up(session.run)
    assert compile_ahead(session) == 0
    assert "predict" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("packing", "precision"), [("none", "mixed_bfloat16"), ("buckets", "float32")]
)
def test_json_lines_of_spans_are_trained_on_in_every_packing_and_precision(
    tmp_path, packing, precision
):
    rows = []
    for sentence in SENTENCES:
        spans, place = [], 0
        for word, label in zip(sentence.split(), labels_of(sentence), strict=True):
            if label == "B-name":
                spans.append({"start": place, "end": place + len(word), "label": "name"})
            elif label == "I-name":
                spans[-1]["end"] = place + len(word)
            place += len(word) + 1
        rows.append({"text": sentence, "spans": spans})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    params = params_of(
        tmp_path,
        tmp_path / "rows.jsonl",
        packing=packing,
        num_buckets=2,
        model={"mixed_precision": precision},
        runconfig={"max_steps": 60, "save_checkpoints_steps": 60},
    )
    _, result = trained(params)
    assert result.figures["eval/entity_f1"] > 0.9
