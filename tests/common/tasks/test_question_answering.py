# SPDX-License-Identifier: Apache-2.0
"""Question answering from files to answers, against transformers and by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import data
from common.BaseModel import PREDICT, TRAIN
from common.checkpoints import store
from common.checkpoints.formats import ours
from common.checkpoints.formats.google_tf1 import FOREIGN_NAMES as GOOGLE_NAMES
from common.checkpoints.load import load_weights, open_checkpoint
from common.errors import UserError
from common.export.export import export
from common.params import Params
from common.params.rules import rule_faults, task_faults
from common.reports.listeners import standard_listeners
from common.tasks.question_answering import SpanTargets
from common.training.checks import set_up
from common.training.evaluator import Evaluator
from common.training.inference import Inference
from common.training.predictor import predict
from common.training.trainer import Trainer
from input.question_rows import rows_of_questions
from input.sources.processors import open_source
from input.tokenizers.wordpiece import WordPieceTokenizer
from model import make_model, model_fn
from session import open_session
from tests.reference.one_step import check_one_step
from tests.reference.tiny_bert import random_features, randomize, tiny_params


def span_params(**network):
    return tiny_params(num_classes=None, task="question_answering", **network)


@pytest.fixture(scope="module")
def model():
    model = make_model(span_params())
    randomize(model)
    return model


def documented_features(**sizes):
    features = random_features(**sizes)
    features["input_mask"] = 1 - features.pop("padding_mask")
    return features


# ---- A checkpoint of transformers ----------------------------------------------------------------


@pytest.fixture(scope="module")
def fixture(shared_dir):
    return shared_dir / "fixtures" / "hf_bert_question_answering"


@pytest.mark.parametrize("softmax", ["tokens", "row"])
def test_logits_and_loss_are_those_of_transformers(fixture, softmax):
    checkpoint = open_checkpoint(fixture)
    assert checkpoint.config["task"] == "question_answering"
    keys = ("hidden_size", "num_hidden_layers", "num_heads", "filter_size", "vocab_size")
    sizes = {key: checkpoint.config[key] for key in keys}
    sizes["max_position_embeddings"] = checkpoint.config["max_position_embeddings"]
    model = make_model(span_params(span_softmax=softmax, **sizes))
    assert not load_weights(model, checkpoint).fresh
    reference = json.loads((fixture / "reference.json").read_text("utf-8"))
    mask = np.array(reference["input_mask"], np.int32)
    features = {
        "input_ids": np.array(reference["input_ids"], np.int32),
        "input_mask": 1 - mask,
        "segment_ids": np.array(reference["segment_ids"], np.int32),
    }
    outputs = {n: np.asarray(t) for n, t in model.build_model(features, PREDICT).items()}
    theirs = reference["outputs"]
    for side in ("start", "end"):
        for row, expected in enumerate(theirs[f"{side}_logits"]):
            ours = outputs[f"{side}_logits"][row, : len(expected)]
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
    targets = {f"{s}_positions": np.array(reference[f"{s}_positions"]) for s in ("start", "end")}
    loss = float(model.build_total_loss(outputs, targets))
    if softmax == "row":  # their softmax has the padding in it
        assert loss == pytest.approx(theirs["loss"], abs=1e-6)
    else:
        losses = []
        for side in ("start", "end"):
            for row, expected in enumerate(theirs[f"{side}_logits"]):
                logits = np.array(expected)
                right = logits[reference[f"{side}_positions"][row]]
                losses.append(np.log(np.exp(logits).sum()) - right)
        assert loss == pytest.approx(np.mean(losses), abs=1e-5)


def test_the_loss_of_the_original_is_the_sum(model):
    features = documented_features(batch=3, tokens=7)
    targets = {"start_positions": np.array([0, 2, 1]), "end_positions": np.array([0, 2, 3])}
    mean = model_fn(features, targets, TRAIN, span_params(), model)
    summed = make_model(span_params(qa_loss="sum"))
    for name, weight in summed.weights_by_name().items():
        weight.assign(model.weights_by_name()[name])
    total = summed.build_total_loss(summed.build_model(features, TRAIN), targets)
    assert float(total) == pytest.approx(2 * float(mean.loss), rel=1e-6)
    assert len(mean.trainable_variables) == len(model.weights)


@pytest.mark.parametrize("softmax", ["tokens", "row"])
def test_one_adamw_step_ends_with_the_weights_of_transformers_and_torch(softmax, tmp_path):
    check_one_step(span_params(span_softmax=softmax), tmp_path / "checkpoint")


def test_the_head_of_run_squad_has_its_names():
    assert GOOGLE_NAMES["qa/kernel"] == "cls/squad/output_weights"
    assert GOOGLE_NAMES["qa/bias"] == "cls/squad/output_bias"


# ---- Files ---------------------------------------------------------------------------------------

WORDS = [*"abcdefgh", "where", "is", "who", ".", "?"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *(f"##{c}" for c in "abcdefgh")]


def squad(unanswerable=False, repeats=6):
    """Who is the word b, and with `unanswerable` where nothing is."""
    contexts = ["a b c d e f g h", "h g f e d c b a .", "c a  d b . f e h g"]
    paragraphs = []
    for number, context in enumerate(contexts * repeats):
        answer = {"text": "b", "answer_start": context.index("b")}
        qas = [{"id": f"{number}b", "question": "who is who ?", "answers": [answer]}]
        if unanswerable:
            named = {"id": f"{number}none", "question": "where is where ?"}
            qas.append({**named, "answers": [], "is_impossible": True})
        paragraphs.append({"context": context, "qas": qas})
    return json.dumps({"version": "x", "data": [{"title": "T", "paragraphs": paragraphs}]})


def params_of(tmp_path, content, model=None, runconfig=None, **keys):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    (tmp_path / "rows.json").write_text(content)
    return Params.model_validate(
        {
            "train_input": {
                "data_processor": "QuestionAnsweringDataProcessor",
                "train_file": str(tmp_path / "rows.json"),
                "eval_file": str(tmp_path / "rows.json"),
                "vocab_file": str(tmp_path / "vocab.txt"),
                "cache_dir": str(tmp_path / "cache"),
                "max_sequence_length": 13,
                "window_stride": 3,
                "batch_size": 8,
                "packing": "packed",
                **keys,
            },
            "model": {
                "hidden_size": 24,
                "num_hidden_layers": 2,
                "num_heads": 2,
                "filter_size": 32,
                "max_position_embeddings": 13,
                "dropout_rate": 0.0,
                **(model or {}),
            },
            "optimizer": {"learning_rate": 0.01},
            "runconfig": {
                "model_dir": str(tmp_path / "model"),
                "mode": "train_and_eval",
                "tf_random_seed": 1,
                "max_steps": 150,
                "save_checkpoints_steps": 150,
                **(runconfig or {}),
            },
        }
    )


def trained(params):
    session = open_session(params)
    set_up(session.run)
    listeners = standard_listeners(session.model_dir)
    return session, Trainer(session, session.new_model(), listeners).train()


def test_rows_are_the_windows_of_run_squad(tmp_path):
    params = params_of(tmp_path, squad(repeats=1))
    cfg = params.train_input
    source = open_source(cfg, SpanTargets.of(cfg))
    tokens = source.tokenize("train", WordPieceTokenizer(VOCAB))
    assert tokens.targets["answer_tokens"].tolist() == [[1, 1], [6, 6], [3, 3]]
    rows, question_rows = rows_of_questions(tokens, 13, 64, 3, True)
    # Four tokens of question and three special ones leave six; of eight, windows begin at 0 and 3.
    assert question_rows.windows.start[:2].tolist() == [0, 3]
    first = [VOCAB[i] for i in rows.ids[: rows.offsets[2]]]
    assert first == ["who", "is", "who", "?", "a", "b", "c", "d", "e", "f"]
    # b is the second token of the first text, and only in its first window; the seventh of the
    # second text, and only in its second window; the fourth of the third, and in both.
    assert question_rows.windows.text.tolist() == [0, 0, 1, 1, 2, 2]
    assert rows.targets["start_positions"].tolist() == [7, 0, 0, 9, 9, 6]
    assert rows.targets["end_positions"].tolist() == [7, 0, 0, 9, 9, 6]
    cut, _ = rows_of_questions(tokens, 13, 2, 3, True)  # a question is cut, its text is not
    assert [VOCAB[i] for i in cut.ids[:4]] == ["who", "is", "a", "b"]


def test_questions_that_cannot_be_used_are_refused_with_their_place(tmp_path):
    content = json.loads(squad(unanswerable=True, repeats=1))
    with pytest.raises(
        UserError, match=r"3 questions without an answer, the first in .*question 0n"
    ):
        params = params_of(tmp_path, json.dumps(content))
        open_source(params.train_input, SpanTargets.of(params.train_input)).num_rows("train")
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["text"] = "z"
    params = params_of(tmp_path, json.dumps(content), version_2_with_negative=True)
    source = open_source(params.train_input, SpanTargets.of(params.train_input))
    with pytest.raises(UserError, match="answer 'z' is not in the words of the context"):
        source.num_rows("train")
    params = params_of(
        tmp_path, json.dumps(content), version_2_with_negative=True, on_bad_row="skip"
    )
    source = open_source(params.train_input, SpanTargets.of(params.train_input))
    assert source.num_rows("train") == 5
    assert len(source.skipped("train")) == 1


@pytest.mark.parametrize(
    ("length", "longest", "told"),
    [
        (13, 2, "max_query_length cuts 10 of 10 rows (100.0%), tokens lost: 30"),
        (10, 64, "max_sequence_length cuts 18 of 18 rows (100.0%), tokens lost: 36"),
    ],
)
def test_a_question_that_is_cut_is_told_and_leaves_half_of_a_row(tmp_path, length, longest, told):
    content = squad(repeats=2).replace("who is who ?", "who is who is who")
    sizes = {"max_sequence_length": length, "max_query_length": longest}
    batches = data.train_input_fn(params_of(tmp_path, content, batch_size=2, **sizes), 0, 1)
    assert batches.truncation == told


def test_answers_that_no_window_holds_whole_are_counted(tmp_path):
    content = json.loads(squad(repeats=1))
    for paragraph in content["data"][0]["paragraphs"][:2]:
        paragraph["qas"][0]["answers"] = [{"text": paragraph["context"], "answer_start": 0}]
    batches = data.train_input_fn(params_of(tmp_path, json.dumps(content), batch_size=2), 0, 1)
    assert "answers that no window holds whole: 2 of 3; their rows say" in batches.notes[-1]
    content = squad(repeats=1)
    batches = data.train_input_fn(params_of(tmp_path, content, batch_size=2), 0, 1)
    assert not any("no window" in note for note in batches.notes)


def test_answers_that_stand_elsewhere_are_counted_and_told_once_for_a_file(tmp_path, capsys):
    content = json.loads(squad(repeats=2))
    for paragraph in content["data"][0]["paragraphs"][:2]:
        paragraph["qas"][0]["answers"][0]["answer_start"] += 1
    cfg = params_of(tmp_path, json.dumps(content)).train_input
    source = open_source(cfg, SpanTargets.of(cfg))
    assert source.num_rows("train") == 6
    told = capsys.readouterr().err
    file = tmp_path / "rows.json"
    assert f"{file}: 2 answers not at the given answer_start; the nearest place, if any, is" in told
    assert f"{file}, article T, paragraph 1, question 1b: answer 'b' is not at 13, but" in told
    source.num_rows("train")
    # A run opens the file again, to evaluate and to look at it.
    again = open_source(cfg, SpanTargets.of(cfg))
    assert (again.num_rows("train"), again.num_rows("validation")) == (6, 6)
    assert "answer_start" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    params = params_of(folder, squad(), runconfig={"best_metric": "eval/f1"})
    params = params.with_runconfig(best_metric_mode="max")
    return folder, params, trained(params)[1]


def test_answers_are_learnt_and_scored(finished):
    folder, _, result = finished
    assert result.figures["eval/exact_match"] == 100.0
    assert result.figures["eval/f1"] == 100.0
    assert result.num_examples == 18
    rows = (folder / "model/eval/rows_validation.tsv").read_text("utf-8").split("\n")
    assert rows[0].split("\t")[:4] == ["id", "question_id", "text_a", "text_b"]
    assert rows[0].split("\t")[4:] == [
        *("answer", "score", "margin", "start", "end"),
        *("answer_true", "f1", "correct", "place"),
    ]


def test_the_files_of_run_squad_are_written_and_texts_are_answered_with_places(finished):
    _, params, _ = finished
    session = open_session(params.with_runconfig(mode="predict"))
    predicted = predict(session, Inference(session, session.new_model()))
    written = {Path(path).name: Path(path) for path in predicted.written}
    predictions = json.loads(written["predictions.json"].read_text("utf-8"))
    assert predictions == {f"{n}b": "b" for n in range(18)}
    table = written["predictions_tf_0.tsv"].read_text("utf-8").splitlines()
    columns = table[0].split("\t")
    beside = [dict(zip(columns, row.split("\t"), strict=True)) for row in table[1:]]
    assert {(row["answer_true"], row["correct"]) for row in beside} == {("b", "yes")}
    best = json.loads(written["nbest_predictions.json"].read_text("utf-8"))["2b"][0]
    assert (best["text"], best["span"]) == ("b", [7, 8])
    assert "null_odds.json" not in written
    texts = [("who is who ?", "c a  d b .")]
    session = open_session(params.with_runconfig(mode="predict"), texts=["\t".join(texts[0])])
    (answer,) = predict(session, Inference(session, session.new_model())).predictions
    assert (answer["answer"], answer["start"], answer["end"]) == ("b", "7", "8")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("new.jsonl", '{"question": "who ?", "context": "a b ."}\n'),
        ("new.json", '{"data": [{"paragraphs": [{"context": "a b .", "qas": [%s]}]}]}'),
        ("new.txt", "who ?\ta b .\n"),
    ],
)
def test_a_file_of_questions_is_read_by_what_its_name_says(finished, name, content):
    folder, params, _ = finished
    content = content.replace("%s", '{"id": "7", "question": "who ?"}')
    (folder / name).write_text(content)
    session = open_session(params.with_runconfig(mode="predict"), input_file=str(folder / name))
    _, texts = data.predict_input_fn(session.params, session.texts)
    assert list(texts.values()) == [[("who ?", "a b .")]]
    predicted_rows = predicted(params, [], folder / name).predictions
    assert "correct" not in predicted_rows[0]  # nothing is known of it


@pytest.mark.parametrize("name", ["new.csv", "new.tsv"])
def test_a_table_of_questions_is_refused(finished, name):
    params = finished[1].with_runconfig(mode="predict")
    with pytest.raises(UserError, match=r"is a table, .*give \.json, .* a question, a tab and"):
        open_session(params, input_file=name)


def predicted(params, questions, input_file):
    session = open_session(params.with_runconfig(mode="predict"), "", questions, input_file)
    return predict(session, Inference(session, session.new_model()))


def test_a_folder_of_texts_is_asked_and_its_answers_have_file_and_place(finished, tmp_path):
    _, params, _ = finished
    texts = {
        "long.txt": "c a  d b . " + "g h " * 40,
        "sub/two.txt": "\ufeffb\r\na\r\n",
        "none.txt": "",
    }
    for name, text in {**texts, "other.md": "b"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8", newline="")
    result = predicted(params, ["who is who ?", "b ?"], tmp_path)
    assert [answer["texts"][0] for answer in result.predictions] == ["who is who ?"] * 3 + [
        "b ?"
    ] * 3
    first = result.predictions[:3]
    margins = [answer["margin"] for answer in first[:2]]
    assert margins == sorted(margins, reverse=True)
    places = {
        str(Path(answer["texts"][1]).relative_to(tmp_path)): (
            answer["answer"],
            answer["start"],
            answer["end"],
        )
        for answer in first
    }
    assert places == {
        "long.txt": ("b", "7", "8"),
        "sub/two.txt": ("b", "0", "1"),  # without the mark of the file's order of bytes
        "none.txt": ("", "", ""),
    }
    assert first[2]["texts"][1].endswith("none.txt") and first[2]["score"] == 0.0  # the last
    assert result.output[0].split("\t")[-1] == f"who is who ? | {first[0]['texts'][1]}"
    (table,) = (path for path in result.written if path.endswith(".tsv"))
    assert "g h g h" not in Path(table).read_text("utf-8")  # files are named, not copied


def test_a_folder_that_cannot_be_asked_is_refused(finished, tmp_path):
    _, params, _ = finished
    with pytest.raises(UserError, match=r"is a folder without a \.txt file"):
        predicted(params, ["who ?"], tmp_path)
    (tmp_path / "a.txt").write_text("b")
    with pytest.raises(UserError, match="takes question and context; give the question with --te"):
        predicted(params, [], tmp_path)
    with pytest.raises(UserError, match="has a tab, but the texts are the files of"):
        predicted(params, ["who ?\tb"], tmp_path)
    (tmp_path / "b.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"b\.txt, line 1 is not UTF-8"):
        predicted(params, ["who ?"], tmp_path)


@pytest.mark.parametrize(("packing", "stride"), [("packed", 3), ("none", 2)])
def test_a_long_text_is_searched_as_its_windows_by_hand(finished, packing, stride):
    """3,000 words in windows of 6: of all starts, each where it has most context, and all ends
    behind it in its window, the pair of the largest sum."""
    _, params, _ = finished
    words = np.random.default_rng(1).choice(list("abcdefgh"), 3000).tolist()
    rows = params.predict_input.model_copy(update={"packing": packing, "window_stride": stride})
    params = params.model_copy(update={"predict_input": rows}).with_runconfig(mode="predict")
    session = open_session(params, texts=[f"who is who ?\t{' '.join(words)}"])
    (ours,) = predict(session, Inference(session, session.new_model())).predictions
    starts = np.array([*range(0, 3000 - 6, stride), 3000 - 6 + (-(3000 - 6)) % stride])
    assert starts[-1] < 3000 <= starts[-1] + 6
    ends = np.minimum(starts + 6, 3000)
    model = session.new_model()
    Inference(session, model).load(session.checkpoint)
    asked = [2, *(VOCAB.index(word) for word in ["who", "is", "who", "?"]), 3]
    ids = [VOCAB.index(word) for word in words]
    rows = [[*asked, *ids[a:b], 3] for a, b in zip(starts, ends, strict=True)]
    rows = np.array([row + [0] * (13 - len(row)) for row in rows], np.int32)
    features = {"input_ids": rows, "input_mask": (rows == 0).astype(np.int32)}
    features["segment_ids"] = np.where((rows != 0) & (np.arange(13) >= len(asked)), 1, 0)
    outputs = model.build_model(features, PREDICT)
    logits = [np.asarray(outputs[f"{side}_logits"])[:, len(asked) :] for side in ("start", "end")]
    found = {}
    for token in range(3000):
        context = np.minimum(token - starts, ends - 1 - token) + 0.01 * (ends - starts)
        best = int(np.argmax(np.where((starts <= token) & (token < ends), context, -1)))
        for last in range(token, int(ends[best])):
            score = logits[0][best, token - starts[best]] + logits[1][best, last - starts[best]]
            found[token, last] = score
    first, last = int(ours["start"]) // 2, int(ours["end"]) // 2  # words of one letter
    assert ours["answer"] == " ".join(words[first : last + 1])
    assert found[first, last] == pytest.approx(max(found.values()), abs=1e-4)  # by rounding, equal


def test_a_stopped_training_ends_with_the_bits_of_one_that_was_not(finished, tmp_path):
    folder, params, _ = finished
    params = params.with_runconfig(model_dir=str(tmp_path / "model"))
    trained(params.with_runconfig(max_steps=61))
    trained(params)
    whole, resumed = (
        ours.read_weights(path / "checkpoint-150")
        for path in (folder / "model", tmp_path / "model")
    )
    for name in whole:
        np.testing.assert_array_equal(np.asarray(whole[name]), np.asarray(resumed[name]))


def test_no_answer_is_learnt_and_its_threshold_is_kept_with_the_checkpoint(tmp_path):
    run = {"tune_thresholds": True, "max_steps": 100, "save_checkpoints_steps": 100}
    params = params_of(
        tmp_path, squad(True), version_2_with_negative=True, packing="none", runconfig=run
    )
    session, result = trained(params)
    assert {"eval/HasAns_f1", "eval/best_f1_thresh"} <= result.figures.keys()
    newest = open_checkpoint(store.newest_checkpoint(session.model_dir))
    assert "null_threshold" in newest.config
    network = params.model.model_copy(update={"null_score_diff_threshold": 1e6})
    written = params.with_runconfig(mode="predict").model_copy(update={"model": network})
    model = open_session(written).new_model()
    (note,) = model.restore(newest.config)
    assert model.threshold == 1e6
    assert "as given, in place of the checkpoint's" in note
    session = open_session(params.with_runconfig(mode="eval"))
    evaluated = Evaluator(Inference(session, session.new_model())).evaluate_checkpoint()
    figures = evaluated.figures
    assert figures["eval/f1"] == figures["eval/best_f1"] >= result.figures["eval/f1"]
    session = open_session(params.with_runconfig(mode="predict"))
    predicted = predict(session, Inference(session, session.new_model()))
    (odds,) = (path for path in predicted.written if path.endswith("null_odds.json"))
    assert len(json.loads(Path(odds).read_text("utf-8"))) == 36


def test_what_does_not_go_with_the_task_is_refused(tmp_path):
    params = params_of(tmp_path, squad())
    assert dict(task_faults(params)) == {}
    rows = params.train_input.model_copy(update={"add_special_tokens": False})
    network = params.model.model_copy(update={"span_softmax": "row"})
    faults = dict(task_faults(params.model_copy(update={"train_input": rows, "model": network})))
    assert "is false, but [CLS] stands for no answer" in faults["train_input.add_special_tokens"]
    assert "is row, but packed rows have no padding" in faults["model.span_softmax"]
    tuned = dict(rule_faults(params.with_runconfig(tune_thresholds=True)))
    assert "every question has an answer and there is" in tuned["runconfig.tune_thresholds"]
    network = params.model.model_copy(update={"null_score_diff_threshold": -2.5})
    both = params.with_runconfig(tune_thresholds=True).model_copy(update={"model": network})
    text = dict(rule_faults(both))["model.null_score_diff_threshold"]
    assert text.startswith("is -2.5, and runconfig.tune_thresholds is true, which finds it")
    answers = both.with_runconfig(mode="predict")  # of the params that were saved
    assert "model.null_score_diff_threshold" not in dict(rule_faults(answers))
    short = params.train_input.model_copy(update={"max_sequence_length": 5})
    faults = dict(task_faults(params.model_copy(update={"train_input": short})))
    assert (
        "is 5, which has no room for a question and its text; write 6 or more"
        in (faults["train_input.max_sequence_length"])
    )


# ---- Exports -------------------------------------------------------------------------------------


@pytest.fixture
def classifier(make_classifier, model):
    """A Classifier of the network for answers."""
    return replace(make_classifier(texts_per_row=2), model=model, params=span_params())


@pytest.mark.parametrize("format", ["huggingface", "keras", "tf1"])
def test_an_export_is_read_back_with_its_task_its_threshold_and_bits(format, classifier, tmp_path):
    classifier.model.threshold = -1.5  # as tuned
    folder, _ = export(format, classifier, tmp_path / "out")
    classifier.model.threshold = 0.0
    checkpoint = open_checkpoint(folder)
    assert checkpoint.config["task"] == "question_answering"
    assert checkpoint.config["null_threshold"] == -1.5
    other = make_model(span_params())
    assert not load_weights(other, checkpoint).fresh
    other.restore(checkpoint.config)
    assert other.threshold == -1.5
    weights = classifier.model.weights_by_name()
    for name, weight in other.weights_by_name().items():
        np.testing.assert_array_equal(weight.numpy(), weights[name].numpy())


def test_the_card_for_run_squad_names_it_and_its_last_layer(classifier, tmp_path):
    folder, _ = export("tf1", classifier, tmp_path / "out")
    shapes = dict(tf.train.list_variables(str(folder / "bert_model.ckpt")))
    assert shapes["cls/squad/output_weights"] == [2, 6] and shapes["cls/squad/output_bias"] == [2]
    card = (folder / "README.md").read_text("utf-8")
    assert "run_squad.py" in card and "`cls/squad/output_weights`" in card


def test_onnx_runtime_and_a_saved_model_compute_the_networks_logits(classifier, tmp_path):
    pytest.importorskip("onnx", reason="pip install onnx brings what this needs")
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    folder, _ = export("onnx", classifier, tmp_path / "onnx")
    features = documented_features(batch=3, tokens=7)
    expected = classifier.model.build_model(dict(features), PREDICT)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    features = {name: each.astype(np.int32) for name, each in features.items()}
    start, end = session.run(["start_logits", "end_logits"], features)
    is_token = features["input_mask"] == 0
    for logits, side in ((start, "start"), (end, "end")):
        theirs = np.asarray(expected[f"{side}_logits"])
        np.testing.assert_allclose(logits[is_token], theirs[is_token], rtol=0, atol=1e-5)
    folder, _ = export("saved_model", classifier, tmp_path / "saved_model")
    served = tf.saved_model.load(str(folder / "1")).signatures["token_ids"]
    result = served(**{name: tf.constant(each) for name, each in features.items()})
    np.testing.assert_allclose(
        result["start_logits"].numpy(), np.asarray(expected["start_logits"]), rtol=0, atol=1e-5
    )
