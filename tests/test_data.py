# SPDX-License-Identifier: Apache-2.0
"""data.py: from params to batches, on the sample of the project; and what it refuses."""

import dataclasses
import inspect
import itertools
import re

import numpy as np
import pytest

import data
from common.errors import UserError
from common.params import Params
from input.samples import sample_glue
from input.sources.processors import PROCESSORS
from model import TASKS
from utils import get_params

# Every character by itself, so that the text can be read off the ids.
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"-()$&%"
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *CHARACTERS, *(f"##{c}" for c in CHARACTERS)]
KINDS = {"sst2": "Sst2DataProcessor", "mnli": "MnliDataProcessor"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with vocab.txt, to which tests add the prepared sample and the token cache."""
    path = tmp_path_factory.mktemp("data")
    (path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return path


@pytest.fixture
def make_params(folder):
    """make_params("sst2", batch_size=7, ...) -> Params of the sample; seed: of the run."""

    def make(name="sst2", seed=3, predict_input=None, model=None, **train_input):
        train_input = {
            "data_processor": KINDS[name],
            "dataset": f"sample_glue/{name}",
            "data_dir": str(folder / "tfds"),
            "cache_dir": str(folder / "cache"),
            "vocab_file": str(folder / "vocab.txt"),
            "max_sequence_length": 101,
            "batch_size": 7,
            "num_buckets": 3,
        } | train_input
        run = {"tf_random_seed": seed}
        values = {"train_input": train_input, "model": model or {}, "runconfig": run}
        if predict_input is not None:
            values["predict_input"] = predict_input
        return Params.model_validate(values)

    return make


def rows_of(name, split):
    """[(texts, label)] of the sample's file."""
    lines = (sample_glue.FOLDER / f"{name}_{split}.tsv").read_text("utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    return [(tuple(texts), int(label)) for *texts, label in rows]


def text_of(ids):
    return "".join(VOCAB[i].removeprefix("##") for i in ids)


# ---- Training ------------------------------------------------------------------------------------


def same_batches(batches, others):
    for one, other in itertools.zip_longest(batches, others):
        for name in one[0]:
            np.testing.assert_array_equal(one[0][name], other[0][name])
        np.testing.assert_array_equal(one[1]["labels"], other[1]["labels"])


def test_training_batches_hold_the_rows_they_name(make_params):
    batches = data.train_input_fn(make_params(), 0, 5)
    rows = rows_of("sst2", "train")
    assert batches.num_rows == len(rows)
    checked = 0
    for step, (features, targets) in enumerate(batches.dataset.as_numpy_iterator()):
        for place, row in enumerate(batches.rows[step]):
            (text,), label = rows[row]
            text = "".join(text.lower().split())
            assert targets["labels"][place] == label
            if len(text) + 2 <= 101 and set(text) <= set(CHARACTERS):
                length = int((1 - features["input_mask"][place]).sum())
                ids = features["input_ids"][place]
                assert text_of(ids[:length]) == f"[CLS]{text}[SEP]"
                assert (ids[length:] == 0).all()
                checked += 1
    assert checked > 20


def test_training_goes_on_at_any_step(make_params):
    params = make_params()
    epoch = len(rows_of("sst2", "train")) // 7
    whole = list(data.train_input_fn(params, epoch - 3, epoch + 3))
    same_batches(data.train_input_fn(params, epoch - 1, epoch + 2), whole[2:5])


def rows_in_batches(params):
    return data.train_input_fn(params, 0, 20).rows


def test_the_order_follows_the_seed_of_the_input_or_else_of_the_run(make_params):
    orders = [
        rows_in_batches(make_params(seed=seed, shuffle_seed=shuffle_seed))
        for seed, shuffle_seed in ((3, None), (3, None), (4, None), (4, 3), (4, 0), (None, None))
    ]
    run, again, other, fixed, zero, none = orders
    np.testing.assert_array_equal(run, again)
    np.testing.assert_array_equal(run, fixed)
    np.testing.assert_array_equal(zero, none)
    assert (run != other).any()
    assert (run != zero).any()


def test_packing_chooses_the_lengths(make_params):
    lengths = data.train_input_fn(make_params(num_buckets=4), 0, 150).shapes[:, 1]
    assert len(set(lengths)) == 4
    assert max(lengths) == 101  # some sentences are cut to it
    assert set(data.train_input_fn(make_params(packing="none"), 0, 9).shapes[:, 1]) == {101}


def test_without_shuffling_rows_come_in_the_order_of_the_file(make_params):
    rows = rows_in_batches(make_params(shuffle=False, packing="none"))
    assert rows.ravel().tolist() == list(range(20 * 7))


def test_a_batch_of_more_rows_than_there_are_is_refused(make_params):
    count = len(rows_of("sst2", "train"))
    assert data.train_input_fn(make_params(batch_size=count), 0, 2).rows.shape == (2, count)
    with pytest.raises(UserError, match=f"batch_size is {count + 1}, but .* only {count:,} rows"):
        data.train_input_fn(make_params(batch_size=count + 1), 0, 2)


# ---- Evaluation and prediction -------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("packing", ["buckets", "packed"])
def test_evaluation_scores_every_row_of_every_split_once(make_params, name, packing):
    batches_of_split = data.eval_input_fn(make_params(name, packing=packing))
    assert list(batches_of_split) == list(PROCESSORS[KINDS[name]].eval_splits)
    for split, batches in batches_of_split.items():
        labels = [label for _, label in rows_of(name, split)]
        assert batches.targets["labels"].tolist() == labels
        read = list(batches.dataset.as_numpy_iterator())
        seen = np.concatenate([targets["labels"] for _, targets, _ in read])
        weights = np.concatenate([weights for *_, weights in read])
        is_real = weights == 1
        assert not weights[~is_real].any()
        if packing == "buckets":  # packed batches differ in how many rows they have
            assert len(weights) == len(labels) + -len(labels) % 7
        assert sorted(batches.rows.ravel()[is_real]) == list(range(len(labels)))
        assert seen[is_real].tolist() == [labels[row] for row in batches.rows.ravel()[is_real]]


def test_packed_rows_of_an_evaluation_are_those_that_buckets_pad(make_params):
    def texts_in(batches):
        for rows, (features, *_) in zip(batches.rows, batches, strict=True):
            is_real = features["input_mask"].numpy().ravel() == 0
            texts = text_of(features["input_ids"].numpy().ravel()[is_real]).split("[SEP]")
            if not batches.is_packed:  # there rows that fill up repeat row 0
                rows = np.where(rows < 0, 0, rows)
            yield from zip(rows[rows >= 0].tolist(), texts[:-1], strict=True)

    packed, padded = (
        data.eval_input_fn(make_params(packing=packing))["validation"]
        for packing in ("packed", "buckets")
    )
    assert packed.is_packed and len(np.unique(packed.shapes, axis=0)) == 1
    assert dict(texts_in(packed)) == dict(texts_in(padded))
    assert packed.num_real == padded.num_real


@pytest.mark.parametrize(("packing", "is_packed"), [("auto", True), ("buckets", False)])
def test_auto_packs_an_evaluation_where_that_computes_less(make_params, packing, is_packed):
    params = make_params(packing=packing, batch_size=32, model={"hidden_size": 64})
    assert data.eval_input_fn(params)["validation"].is_packed == is_packed


def test_auto_makes_no_program_that_a_few_rows_do_not_pay_for(make_params, tmp_path):
    rows = [f"{'a' * (n % 5 + 3)},{'yes' if n % 2 else 'no'}" for n in range(40)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    keys = {"data_processor": "TextFileDataProcessor", "dataset": None, "data_dir": None}
    keys |= {"train_file": str(tmp_path / "train.csv"), "text_columns": ["text"]}
    keys |= {"label_column": "label", "batch_size": 8, "num_buckets": 8}
    for packing, most in (("auto", 1), ("buckets", 5)):
        params = make_params(packing=packing, model={"hidden_size": 64}, **keys)
        assert len(data.train_input_fn(params, 0, 5).distinct_shapes) == most


def test_prediction_of_the_splits_brings_their_texts(make_params):
    batches, texts = data.predict_input_fn(make_params("mnli"))
    assert list(batches) == list(texts) == ["validation_matched", "validation_mismatched"]
    for split in texts:
        assert texts[split] == [pair for pair, _ in rows_of("mnli", split)]
        assert batches[split].num_rows == len(texts[split])


@pytest.mark.parametrize("count", [6, 8])
def test_prediction_of_texts_keeps_their_order(make_params, count):
    texts = [("ab" * (3 * n % 8) + "c",) for n in range(count)]
    batches, given = data.predict_input_fn(make_params(), texts)
    assert given == {"texts": texts}
    assert batches["texts"].rows.shape == (1 + count // 8, min(count, 7))  # no needless filling
    read = {}
    read_batches = batches["texts"].dataset.as_numpy_iterator()
    for rows, (features, _, weights) in zip(batches["texts"].rows, read_batches, strict=True):
        for row, ids, mask, weight in zip(
            rows, features["input_ids"], features["input_mask"], weights, strict=True
        ):
            assert weight == (row >= 0)
            if weight:
                read[int(row)] = text_of(ids[mask == 0])
    assert [read[n] for n in range(count)] == [f"[CLS]{text}[SEP]" for (text,) in texts]


def test_prediction_of_pairs(make_params):
    batches, _ = data.predict_input_fn(make_params("mnli"), [("ab", "c")])
    ((features, _, _),) = batches["texts"]
    assert text_of(features["input_ids"][0].numpy()) == "[CLS]ab[SEP]c[SEP]"
    assert features["segment_ids"][0].numpy().tolist() == [0, 0, 0, 0, 1, 1]


def test_a_pair_for_a_model_of_sentences_is_refused(make_params):
    with pytest.raises(UserError, match=r"'ab' is a pair .* takes single texts \(sentence\)"):
        data.predict_input_fn(make_params(), [("ab", "c")])


def test_a_single_text_for_a_model_of_pairs_is_refused(make_params):
    with pytest.raises(UserError, match=r"'ab' is a single text, .* pairs \(premise, hypothesis\)"):
        data.predict_input_fn(make_params("mnli"), [("ab",)])


# ---- Labels and files ----------------------------------------------------------------------------


def test_a_split_without_labels_can_be_predicted_but_not_scored(
    make_params, shared_dir, monkeypatch
):
    hidden = dataclasses.replace(
        PROCESSORS["Sst2DataProcessor"], eval_splits=("test",), train_split="test"
    )
    monkeypatch.setitem(PROCESSORS, "Sst2DataProcessor", hidden)
    params = make_params(dataset="glue/sst2", data_dir=str(shared_dir / "tfds"))
    refused = pytest.raises(
        UserError, match=r"row 0 of split test .* has label -1 \(1,821 such row"
    )
    with refused:
        data.eval_input_fn(params)
    with refused:
        data.train_input_fn(params, 0, 1)
    batches, texts = data.predict_input_fn(params)
    assert batches["test"].num_rows == len(texts["test"]) == 1821


def test_a_damaged_data_file_is_refused(make_params, tmp_path):
    params = make_params(data_dir=str(tmp_path))
    data.get_source(params.eval_input)  # prepares it
    (file,) = tmp_path.rglob("*validation.tfrecord*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        UserError,
        match=r"(?s)split validation of .* cannot be read: .*, record \d+: damaged",
    ):
        data.eval_input_fn(params)


# ---- Files of one's own, and parts of the data ---------------------------------------------------


@pytest.fixture
def make_file_params(folder, tmp_path):
    """make_file_params(train="text,label\\n...", batch_size=2, ...) -> Params of CSV files."""

    def make(train=None, validation=None, seed=3, **keys):
        for key, content in (("train_file", train), ("eval_file", validation)):
            if content is not None:
                keys[key] = str(tmp_path / f"{key}.csv")
                (tmp_path / f"{key}.csv").write_text(content)
        keys = {
            "data_processor": "TextFileDataProcessor",
            "text_columns": ["text"],
            "cache_dir": str(tmp_path / "cache"),
            "vocab_file": str(folder / "vocab.txt"),
            "max_sequence_length": 31,
            "batch_size": 2,
        } | keys
        runconfig = {"tf_random_seed": seed, "model_dir": str(tmp_path / "model_dir")}
        return Params.model_validate({"train_input": keys, "model": {}, "runconfig": runconfig})

    return make


def csv_of(rows):
    return "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows)


def rows_seen(batches):
    """{text: label} of all batches, in any order."""
    seen = {}
    for features, targets, *weights in batches.dataset.as_numpy_iterator():
        for place, label in enumerate(targets["labels"]):
            if not weights or weights[0][place]:
                ids = features["input_ids"][place][features["input_mask"][place] == 0]
                seen[text_of(ids)[len("[CLS]") : -len("[SEP]")]] = label
    return seen


ROWS = [("abc", "wet"), ("d", "dry"), ("ef", "wet"), ("ghij", "dry"), ("k", "wet")]


def test_files_are_trained_on_scored_and_predicted(make_file_params):
    params = make_file_params(csv_of(ROWS[:4]), csv_of(ROWS))
    names = {"dry": 0, "wet": 1}
    trained = rows_seen(data.train_input_fn(params, 0, 2))
    assert trained == {text: names[label] for text, label in ROWS[:4]}
    ((split, batches),) = data.eval_input_fn(params).items()
    assert split == "validation"
    assert rows_seen(batches) == {text: names[label] for text, label in ROWS}
    _, texts = data.predict_input_fn(params)
    assert texts == {"validation": [(text,) for text, _ in ROWS]}
    completed, label_names, _ = data.complete_params(params, GEOMETRY, "params.yaml")
    assert label_names == ("dry", "wet")
    assert completed.model.num_cls_classes == 2


def test_a_file_gives_the_batches_that_the_same_rows_give_in_tfds(make_params, make_file_params):
    files = {
        f"{name}_file": str(sample_glue.FOLDER / f"sst2_{split}.tsv")
        for name, split in (("train", "train"), ("eval", "validation"))
    }
    keys = {"max_sequence_length": 101, "batch_size": 7, "num_buckets": 3}
    params = make_file_params(text_columns="sentence", label_names=["no", "yes"], **keys, **files)
    same_batches(data.train_input_fn(params, 0, 9), data.train_input_fn(make_params(), 0, 9))
    own, tfds = (data.eval_input_fn(p)["validation"] for p in (params, make_params()))
    same_batches(own, tfds)


def test_a_regression_has_one_output_and_float_labels(make_file_params):
    params = make_file_params(
        csv_of([("a", 0.5), ("b", 4.25)]), csv_of([("c", 1)]), task="regression"
    )
    assert rows_seen(data.train_input_fn(params, 0, 1)) == {"a": 0.5, "b": 4.25}
    assert data.eval_input_fn(params)["validation"].targets["labels"].dtype == np.float32
    completed, label_names, _ = data.complete_params(params, GEOMETRY, "params.yaml")
    assert (completed.model.num_cls_classes, label_names) == (1, ("value",))


def test_a_row_of_several_labels_has_a_number_for_each(make_file_params):
    rows = csv_of([("a", "x;y"), ("b", "")])
    params = make_file_params(rows, rows, task="multi_label", label_separator=";")
    batches = data.eval_input_fn(params)["validation"]
    np.testing.assert_array_equal(
        batches.targets["labels"], np.float32([[1, 1], [0, 0]]), strict=True
    )
    _, targets, _ = next(iter(batches))
    assert targets["labels"].shape == (2, 2)
    completed, label_names, _ = data.complete_params(params, GEOMETRY, "params.yaml")
    assert (completed.model.num_cls_classes, label_names) == (2, ("x", "y"))


@pytest.mark.parametrize(
    ("trained", "advice"),
    [
        ("multi_label", "write task: multi_label in the params file"),
        ("multiple choice (BertForMultipleChoice)", "take one for classification, or train from"),
        ("pretraining", "take one for classification, or train from this one"),
        ("token_classification", "take one for classification, or train from this one"),
    ],
)
def test_a_checkpoint_that_answers_another_question_scores_nothing(
    make_file_params, trained, advice
):
    params = make_file_params(csv_of([("a", "x"), ("b", "y")]))
    config = GEOMETRY | {"task": trained, "label_names": ["x", "y"], "path": "weights"}
    with pytest.raises(UserError, match=f"weights is a model for .*task is classif.*{advice}"):
        data.complete_params(params.with_runconfig(mode="predict"), config, "params.yaml", True)
    data.complete_params(params.with_runconfig(mode="train"), config, "params.yaml")


MANY = [("".join(p), "xy"[n % 2]) for n, p in enumerate(itertools.product("abc", repeat=3))]


def test_rows_that_are_held_out_are_not_trained_on_whatever_the_seed(make_file_params):
    held_out = []
    for seed in (3, 4):
        params = make_file_params(csv_of(MANY), seed=seed, eval_fraction=0.2)
        trained = rows_seen(data.train_input_fn(params, 0, 11))
        held_out.append(rows_seen(data.eval_input_fn(params)["validation"]))
        assert len(trained) == 22
        assert len(held_out[-1]) == 5  # a fifth of 27
        assert trained | held_out[-1] == {text: "xy".index(label) for text, label in MANY}
    assert held_out[0] == held_out[1]
    _, texts = data.predict_input_fn(params)
    assert sorted(text for (text,) in texts["validation"]) == sorted(held_out[0])


@pytest.mark.parametrize("place", ["train_input", "eval_input", "predict_input"])
def test_a_file_that_is_named_is_read_although_rows_are_held_out(make_file_params, tmp_path, place):
    """The rows of eval_fraction are not trained on; a named file is scored and predicted whole."""
    new = tmp_path / "new.csv"
    new.write_text(csv_of([("ad", "x"), ("ae", "y"), ("af", "y")]))
    params = make_file_params(csv_of(MANY), eval_file=str(new), eval_fraction=0.2)
    values = params.model_dump(exclude_none=True)
    if place == "train_input":  # whose keys the others take
        values = {name: values[name] for name in ("train_input", "model", "runconfig")}
    else:
        del values["train_input"]["eval_file"]
    if place == "eval_input":  # without the keys that training has
        del values["predict_input"]
        del values["eval_input"]["eval_fraction"], values["eval_input"]["train_file"]
    elif place == "predict_input":
        del values["eval_input"]["eval_file"]
    params = Params.model_validate(values)
    assert len(rows_seen(data.train_input_fn(params, 0, 11))) == 22  # of 27
    _, texts = data.predict_input_fn(params)
    assert texts == {"validation": [("ad",), ("ae",), ("af",)]}
    scored = rows_seen(data.eval_input_fn(params)["validation"])
    if place == "predict_input":
        assert len(scored) == 5  # a fifth of 27
    else:
        assert scored == {"ad": 0, "ae": 1, "af": 1}


def test_rows_that_a_prediction_asks_to_hold_out_replace_the_file_that_is_scored(make_file_params):
    values = make_file_params(csv_of(MANY), csv_of(MANY[:3])).model_dump(exclude_none=True)
    values["predict_input"] = {"eval_fraction": 0.2}
    _, texts = data.predict_input_fn(Params.model_validate(values))
    assert len(texts["validation"]) == 5


def test_a_smaller_sample_is_part_of_a_larger_one(make_file_params):
    def chosen(number):
        params = make_file_params(
            csv_of(MANY), csv_of(MANY), max_train_samples=2 * number, max_eval_samples=number
        )
        trained = rows_seen(data.train_input_fn(params, 0, number))
        return set(trained), set(rows_seen(data.eval_input_fn(params)["validation"]))

    (train_3, eval_3), (train_9, eval_9) = chosen(3), chosen(9)
    assert (len(train_3), len(eval_3), len(train_9), len(eval_9)) == (6, 3, 18, 9)
    assert train_3 < train_9
    assert eval_3 < eval_9
    assert eval_9 != {text for text, _ in MANY[:9]}  # a file is often sorted by its labels


def test_a_limited_evaluation_is_of_random_rows_the_same_however_they_are_batched(make_file_params):
    rows = [("a" * length, "xy"[length % 2]) for length in range(1, 29)]
    drawn = []
    for packing in ("none", "buckets"):
        params = make_file_params(csv_of(rows), csv_of(rows), packing=packing, num_buckets=4)
        (batches,) = data.eval_input_fn(params.with_runconfig(eval_steps=4)).values()
        drawn.append(rows_seen(batches))
        assert len(drawn[-1]) == 4 * 2 and not batches.is_whole
        (all_of_them,) = data.eval_input_fn(params.with_runconfig(eval_steps=14)).values()
        assert all_of_them.is_whole and len(rows_seen(all_of_them)) == 28
    assert drawn[0] == drawn[1]
    lengths = sorted(map(len, drawn[0]))
    assert lengths[3] > 4 and lengths[-1] > 14  # neither the shortest nor the first rows
    params = make_file_params(csv_of(rows), csv_of(rows), packing="packed", max_sequence_length=64)
    (packed,) = data.eval_input_fn(params.with_runconfig(eval_steps=4)).values()
    assert packed.is_packed and sorted(packed.num_tokens - 2) == lengths
    params = make_file_params(csv_of(rows), csv_of(rows), max_eval_samples=9)
    assert not data.eval_input_fn(params)["validation"].is_whole


def test_bad_rows_are_listed_and_left_out_also_when_the_cache_is_read(
    make_file_params, tmp_path, capsys
):
    content = csv_of(ROWS) + "only text\n" * 11
    with pytest.raises(UserError, match="11 rows cannot be used"):
        data.train_input_fn(make_file_params(content), 0, 2)
    params = make_file_params(content, on_bad_row="skip")
    for _ in range(2):
        batches = data.train_input_fn(params, 0, 2)
        assert batches.num_rows == 5
        lines = capsys.readouterr().err.splitlines()
        assert lines[0].startswith("11 skipped in split train; all are in ")
        assert lines[1].endswith("train_file.csv, line 7: has 1 column, the row of names 2")
        assert len(lines) == 11
    listed = (tmp_path / "model_dir" / "skipped_rows_train.txt").read_text().splitlines()
    assert len(listed) == 11
    assert listed[-1].endswith("line 17: has 1 column, the row of names 2")


def test_rows_without_a_label_that_counts_can_be_skipped(make_params, shared_dir, monkeypatch):
    hidden = dataclasses.replace(PROCESSORS["Sst2DataProcessor"], eval_splits=("test",))
    monkeypatch.setitem(PROCESSORS, "Sst2DataProcessor", hidden)
    keys = {"dataset": "glue/sst2", "data_dir": str(shared_dir / "tfds"), "on_bad_row": "skip"}
    with pytest.raises(UserError, match=r"1,821 such rows, the first in .*, record 0\); labels go"):
        data.eval_input_fn(make_params(**keys))  # nothing would be left


def test_without_repeat_training_has_one_epoch(make_params):
    epoch = len(rows_of("sst2", "train")) // 7
    params = make_params(repeat=False)
    assert len(data.train_input_fn(params, epoch - 2, epoch + 9)) == 2
    assert len(data.train_input_fn(params, epoch, epoch + 9)) == 0


def test_shuffle_of_an_evaluation_changes_nothing(make_params):
    orders = []
    for shuffle in (True, False):
        params = make_params()
        section = params.eval_input.model_copy(update={"shuffle": shuffle})
        params = params.model_copy(update={"eval_input": section})
        orders.append(data.eval_input_fn(params)["validation"].rows)
    np.testing.assert_array_equal(*orders)


def test_mask_padding_and_special_tokens_follow_their_keys(make_params):
    keys = {"invert_mask": False, "pad_id": 7, "add_special_tokens": False, "packing": "none"}
    params = make_params(**keys)
    (features, _), *_ = data.train_input_fn(params, 0, 1).dataset.as_numpy_iterator()
    is_token = features["input_mask"] == 1
    assert (features["input_ids"][~is_token] == 7).all()
    assert not np.isin(features["input_ids"][is_token], [2, 3]).any()  # [CLS], [SEP]
    exported = data.get_text_features(params)(np.array([["ab"]]))
    assert exported["input_ids"].numpy().tolist() == [[VOCAB.index("a"), VOCAB.index("##b")]]
    assert exported["input_mask"].numpy().tolist() == [[1, 1]]
    with pytest.raises(UserError, match=rf"pad_id is 999, .* has the ids 0 to {len(VOCAB) - 1}"):
        data.train_input_fn(make_params(pad_id=999), 0, 1)


# What the checkpoint calls its classes, label_names of the user, the labels of the files,
# the order that the network then has, and the class of each label.
ORDERS = [
    (["wet", "dry"], None, "wet dry", ("wet", "dry"), [0, 1]),
    (["WET", "Dry"], None, "wet dry", ("wet", "dry"), [0, 1]),
    ([" dry", "w e t"], None, "wet dry", ("dry", "wet"), [1, 0]),
    (["POSITIVE", "NEGATIVE"], ["negative", "positive"], "0 1", ("positive", "negative"), [1, 0]),
    (["1", "0"], None, "0 1", ("1", "0"), [1, 0]),
    (["0.0", "10.0", "2.0"], None, "0 2 10", ("0", "10", "2"), [0, 2, 1]),  # of an earlier version
    (["LABEL_0", "LABEL_1"], None, "wet dry", ("dry", "wet"), [1, 0]),
    ([], ["wet", "dry"], "wet dry", ("wet", "dry"), [0, 1]),
]


@pytest.mark.parametrize("found,names,labels,order,classes", ORDERS)
def test_classes_have_the_order_of_the_checkpoint_whose_names_they_are(
    make_file_params, capsys, found, names, labels, order, classes
):
    rows = [(text, label) for text, label in zip("abc", labels.split(), strict=False)]
    params = make_file_params(csv_of(rows), csv_of(rows), label_names=names)
    config = GEOMETRY | {"label_names": found}
    params, label_names, _ = data.complete_params(params, config, "params.yaml")
    assert label_names == params.label_names == order
    expected = dict(zip("abc", classes, strict=False))
    assert rows_seen(data.train_input_fn(params, 0, 1)).items() <= expected.items()
    assert rows_seen(data.eval_input_fn(params)["validation"]) == expected
    assert capsys.readouterr().err == ""  # the same names are nothing to tell


@pytest.mark.parametrize("names", [None, ["POSITIVE", "negative"]])
def test_classes_of_a_data_set_are_mapped_to_the_checkpoints_not_renamed(make_params, names):
    """TFDS stores numbers: class 0 is negative, whatever the order of the network's outputs."""
    params = make_params(label_names=names)
    stored = {text: label for (text,), label in rows_of("sst2", "validation")}
    config = GEOMETRY | ({} if names else {"label_names": ["POSITIVE", "negative"]})
    params, label_names, _ = data.complete_params(params, config, "params.yaml")
    assert label_names == ("positive", "negative")
    batches = data.eval_input_fn(params)["validation"]
    assert batches.targets["labels"].tolist() == [1 - label for label in stored.values()]


def test_other_names_than_the_checkpoints_are_told_with_both(make_file_params, capsys):
    params = make_file_params(csv_of(ROWS))
    config = GEOMETRY | {"label_names": ["up", "down"]}
    assert data.complete_params(params, config, "params.yaml")[1] == ("dry", "wet")
    told = capsys.readouterr().err
    assert "the data are dry, wet, those of checkpoint-7 up, down: each is taken for" in told


def test_a_checkpoint_to_use_may_have_more_classes_than_the_data(make_file_params):
    params = make_file_params(csv_of(ROWS), csv_of(ROWS)).with_runconfig(mode="eval")
    config = GEOMETRY | {"label_names": ["wet", "snow", "dry"]}
    params, label_names, _ = data.complete_params(params, config, "params.yaml")
    assert label_names == ("wet", "snow", "dry") and params.model.num_cls_classes == 3
    expected = {text: {"wet": 0, "dry": 2}[label] for text, label in ROWS}
    assert rows_seen(data.eval_input_fn(params)["validation"]) == expected


@pytest.mark.parametrize("mode", ["eval", "predict"])
def test_a_new_file_needs_no_training_file_where_the_checkpoint_has_the_names(
    make_file_params, tmp_path, mode
):
    params = make_file_params(csv_of(ROWS), csv_of(ROWS[:3])).with_runconfig(mode=mode)
    (tmp_path / "train_file.csv").unlink()
    config = GEOMETRY | {"label_names": ["Wet", "Dry"]}
    completed, label_names, _ = data.complete_params(params, config, "params.yaml")
    assert label_names == ("Wet", "Dry")
    input_fn = {"eval": data.eval_input_fn, "predict": lambda p: data.predict_input_fn(p)[0]}[mode]
    assert input_fn(completed)["validation"].targets["labels"].tolist() == [0, 1, 0]
    with pytest.raises(UserError, match=r"train_file\.csv cannot be read: No such file"):
        data.complete_params(params.with_runconfig(mode="train"), config, "params.yaml")


def test_labels_that_differ_by_case_alone_are_told_and_stay_apart(make_file_params, capsys):
    params = make_file_params(csv_of([("a", "cat"), ("b", "Cat"), ("c", "dog")]))
    _, label_names, _ = data.complete_params(params, GEOMETRY, "params.yaml")
    assert label_names == ("Cat", "cat", "dog")
    assert "classes Cat, cat differ by case or blanks alone" in capsys.readouterr().err


def test_rows_know_where_they_stand_and_what_stands_beside_them(make_file_params):
    new = 'ticket,text,label,n\n7,"ab\nc",dry,\n,d,wet,x\n0x,ef,dry,"1,5"\n'
    params = make_file_params(csv_of(ROWS), new, id_columns=["n", "ticket"])
    for batches in (data.eval_input_fn(params), data.predict_input_fn(params)[0]):
        origins = batches["validation"].origins()
        assert origins.texts == [("ab\nc",), ("d",), ("ef",)]
        assert origins.columns == {"n": ["", "x", "1,5"], "ticket": ["7", "", "0x"]}
        assert [place.split("/")[-1] for place in origins.places()] == [
            f"eval_file.csv, line {line}" for line in (2, 4, 5)
        ]
    params = make_file_params(csv_of(ROWS), new, id_columns="id", eval_fraction=0.5)
    with pytest.raises(UserError, match=r"no column id, which id_columns names; it has ticket, t"):
        data.eval_input_fn(params)


def test_rows_to_predict_may_lack_a_column_that_only_stands_beside_them(make_file_params, capsys):
    new = "text,ticket\nab,7\nc,8\n"
    params = make_file_params(csv_of(ROWS), new, id_columns=["n", "ticket"])
    origins = data.predict_input_fn(params)[0]["validation"].origins()
    assert origins.columns == {"ticket": ["7", "8"]}
    told = "eval_file.csv has no column n, which id_columns names; predictions are without it"
    assert capsys.readouterr().err.count(told) == 1


def test_the_origins_of_a_file_that_changed_since_are_refused(make_file_params, tmp_path):
    batches = data.eval_input_fn(make_file_params(csv_of(ROWS), csv_of(ROWS[:2])))["validation"]
    (tmp_path / "eval_file.csv").write_text(csv_of(ROWS[1:]))
    with pytest.raises(UserError, match="changed while it was read"):
        batches.origins()


@pytest.mark.parametrize("label", ["", "?", "nan", "storm"])
def test_rows_to_predict_may_have_any_label_or_none(make_file_params, tmp_path, label):
    rows = [("a", label), ("b", "dry"), ("c", label)]
    params = make_file_params(csv_of(ROWS), csv_of(rows))
    batches, texts = data.predict_input_fn(params)
    assert texts["validation"] == [("a",), ("b",), ("c",)]
    assert batches["validation"].targets["labels"].tolist() == [-1, 0, -1]
    with pytest.raises(UserError, match=r"eval_file\.csv: 2 rows cannot be used\n  line 2: label"):
        data.eval_input_fn(params)


# ---- Texts given by the user ---------------------------------------------------------------------


def test_texts_come_from_the_flags_and_then_from_the_file(tmp_path):
    path = tmp_path / "texts"
    path.write_bytes("\ufefffirst\r\n\n  \nsecond\u2028line\x0b of a text\n last\n".encode())
    expected = [
        "flag",
        "",
        "two\nlines",
        "first",
        "",
        "",
        "second\u2028line\x0b of a text",
        " last",
    ]
    assert data.read_texts(["flag", "", "two\nlines"], path) == [(text,) for text in expected]
    path.write_text("a\tb\n\nc\td\n")  # a blank line among pairs keeps its place
    assert data.read_texts([], path) == [("a", "b"), ("", ""), ("c", "d")]
    assert data.read_texts([], None) == []
    assert data.read_texts(["a\tb", "c\t"], None) == [("a", "b"), ("c", "")]


def test_a_report_on_questions_says_that_they_are_read_to_answers():
    cfg = get_params("configs/params_bert_minilm_questions_sample.yaml").train_input
    assert data.describe(cfg).endswith(": question and context -> answers")


def test_a_table_without_the_column_of_a_models_data_is_told_what_to_change(make_params, tmp_path):
    """Flags that name columns are none for data of TFDS: the advice is on the file."""
    file = tmp_path / "new.csv"
    file.write_text("text,place\na good day,1\n")
    params = make_params("sst2")
    told = r"new.csv has no column sentence, .* as in sample_glue/sst2; it has text, place; rename "
    with pytest.raises(UserError, match=told + "the column of the text in the file$"):
        data.with_input_file(params, file)
    file.write_text("sentence;place\na good day;1\n")
    with pytest.raises(UserError, match=r"it has sentence;place; separate its columns by ','$"):
        data.with_input_file(params, file)
    file.write_text("sentence,place\na good day,1\n")
    assert data.with_input_file(params, file).predict_input.text_columns == ("sentence",)
    file = tmp_path / "new.jsonl"
    file.write_text('{"text": "a good day"}\n')
    with pytest.raises(UserError, match=r"no key premise, hypothesis, .* rename the key of the"):
        data.with_input_file(make_params("mnli"), file)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_a_file_without_a_text_is_refused(tmp_path, content):
    path = tmp_path / "texts"
    path.write_bytes(content)
    with pytest.raises(UserError, match="has no text"):
        data.read_texts([], path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--input_file .*nowhere cannot be read: .*No such file"):
        data.read_texts([], tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is a folder without a \.txt file"):
        data.read_texts([], tmp_path)
    (tmp_path / "latin").write_bytes(b"good\ncaf\xe9")
    with pytest.raises(UserError, match=r"latin, line 2 is not UTF-8; save it as UTF-8"):
        data.read_texts([], tmp_path / "latin")


def test_bytes_on_the_command_line_that_are_not_utf_8_are_refused():
    # What Python makes of the argument b"caf\xe9".
    with pytest.raises(UserError, match=r"--text 'caf\\udce9' is not UTF-8"):
        data.read_texts(["good", b"caf\xe9".decode("utf-8", "surrogateescape")], None)


@pytest.mark.parametrize("texts", [["a", "b\tc"], ["a\tb", "c"], ["a\tb\tc"]])
def test_pairs_among_single_texts_and_triples_are_refused(texts):
    with pytest.raises(UserError, match="one text per row, or pairs"):
        data.read_texts(texts, None)


# ---- Completing the params -----------------------------------------------------------------------

GEOMETRY = {
    "family": "ours",
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_heads": 3,
    "filter_size": 13,
    "max_position_embeddings": 101,
    "vocab_size": len(VOCAB),
    "path": "checkpoint-7",
}


def test_the_checkpoint_and_the_data_complete_the_params(make_params, folder):
    params = make_params("mnli", vocab_file=None)
    config = GEOMETRY | {"vocab_file": str(folder / "vocab.txt")}
    completed, label_names, vocab = data.complete_params(params, config, "params.yaml")
    assert label_names == ("entailment", "neutral", "contradiction")
    assert completed.model.num_cls_classes == 3
    assert completed.model.hidden_size == 12
    assert completed.train_input.vocab_file == str(folder / "vocab.txt")
    assert vocab == VOCAB


def test_texts_need_no_data_set_where_the_checkpoint_knows_its_labels(make_params):
    params = make_params(dataset="nonsense")
    config = GEOMETRY | {"label_names": ["bad", "middling", "good"]}
    completed, label_names, _ = data.complete_params(params, config, "params.yaml", True)
    assert label_names == ("bad", "middling", "good")
    assert completed.model.num_cls_classes == 3
    with pytest.raises(UserError, match="nonsense"):
        data.complete_params(params, config, "params.yaml")
    with pytest.raises(UserError, match="nonsense"):
        data.complete_params(params, GEOMETRY, "params.yaml", True)


def test_a_missing_vocabulary_is_refused(make_params):
    with pytest.raises(UserError, match="vocab_file is not given"):
        data.complete_params(make_params(vocab_file=None), GEOMETRY, "params.yaml")


def test_a_vocab_size_that_is_not_the_files_is_refused(make_params):
    params = make_params(vocab_size=len(VOCAB) - 1)
    with pytest.raises(UserError, match=f"vocab_size is {len(VOCAB) - 1}, but .* {len(VOCAB)} lin"):
        data.complete_params(params, GEOMETRY, "params.yaml")


def test_inputs_that_tokenise_differently_are_refused(make_params, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("\n".join([*VOCAB[:4], *reversed(VOCAB[4:])]) + "\n")
    for difference in ({"vocab_file": str(other)}, {"do_lower": False}):
        params = make_params(predict_input=difference)
        with pytest.raises(UserError, match="train_input tokenises differently"):
            data.complete_params(params, GEOMETRY, "params.yaml")
    copy = tmp_path / "copy.txt"
    copy.write_text("\n".join(VOCAB) + "\n")
    data.complete_params(
        make_params(predict_input={"vocab_file": str(copy)}), GEOMETRY, "params.yaml"
    )


def test_a_cased_checkpoint_is_refused_where_the_text_is_lower_cased(make_params):
    config = GEOMETRY | {"do_lower_case": False}
    with pytest.raises(
        UserError, match=r"do_lower is true, .*checkpoint-7 has do_lower_case false"
    ):
        data.complete_params(make_params(), config, "params.yaml")
    data.complete_params(make_params(do_lower=False), config, "params.yaml")


def test_the_tokenizer_is_built_once(make_params):
    params = make_params()
    assert data.get_tokenizer(params.train_input) is data.get_tokenizer(params.eval_input)


def test_rows_are_described_by_names_without_folders(make_params):
    assert data.describe(make_params("mnli").predict_input) == (
        "sample_glue/mnli of TensorFlow Datasets: premise and hypothesis -> label"
    )
    files = {
        "data_processor": "TextFileDataProcessor",
        **{"dataset": None, "data_dir": None, "text_columns": "body", "label_column": "stars"},
        **{"train_file": "/home/me/train.csv", "eval_file": "/home/me/eval.csv"},
    }
    described = data.describe(make_params(**files).predict_input)
    assert described == "train.csv and eval.csv: body -> stars"
    files["eval_file"] = files["train_file"]  # as of an evaluation of the training's rows
    assert data.describe(make_params(**files).predict_input) == "train.csv: body -> stars"


# ---- Case ---------------------------------------------------------------------------------------


def test_texts_that_the_vocabulary_does_not_fit_are_told_before_training(make_params, folder):
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "The", "the"]
    (folder / "cased.txt").write_text("".join(f"{token}\n" for token in vocab))
    notes = data.train_input_fn(make_params(vocab_file=str(folder / "cased.txt")), 0, 1).notes
    assert "1 of 6 entries" in notes[0] and "of the tokens are [UNK]" in notes[1]
    assert not data.train_input_fn(make_params(), 0, 1).notes


# ---- Precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_auto_precision_is_what_the_machine_is_best_at(make_params, monkeypatch, policy):
    monkeypatch.setattr(data, "best_precision", lambda gpu_capabilities: policy)
    params = make_params().with_precision("auto")
    completed, *_ = data.complete_params(params, GEOMETRY, "params.yaml")
    assert completed.model.mixed_precision == completed.model.dtype_policy == policy
    other, *_ = data.complete_params(make_params(), GEOMETRY, "params.yaml")
    assert other.model.dtype_policy == "float32"


def test_the_rows_of_every_task_have_a_reader_with_all_that_data_asks_of_one():
    assert {task.targets.rows for task in TASKS.values()} == data.READER_OF.keys()
    asked = {*re.findall(r"_reader\(\w+\)\.(\w+)\(", inspect.getsource(data))} - {"source"}
    assert {"train_batches", "eval_batches", "predict_batches", "contents", "describe"} <= asked
    for rows, reader in data.READER_OF.items():
        # Masks are drawn anew in each epoch: a teacher has no outputs of such rows to keep.
        unasked = {"training_rows"} if rows == TASKS["pretraining"].targets.rows else set()
        assert [name for name in sorted(asked - unasked) if not hasattr(reader, name)] == []
