# SPDX-License-Identifier: Apache-2.0
"""input/sources/tfds.py: what is prepared is read as it is; what is not says so in a sentence."""

import functools
import os
import shutil
import socket
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import data
from common.errors import UserError
from common.metrics.classification import classification_metrics
from common.metrics.regression import regression_metrics
from common.params import DataProcessor, EvalInputParams, pretraining
from common.platform.machine import check_reachable
from input.sources.processors import PROCESSORS, get_processor

NAME = "awkward_sentences/whole"
ROWS = {
    "train": [("a", 0), ("", 1), ("naïve 中", 1), (b"caf\xe9", 0), ("tab\tand\nline", 1)],
    "validation": [("b", 1), ("c", 0)],
    "test": [("hidden", -1), ("hidden too", -1)],
}


LABELS = {
    "whole": tfds.features.ClassLabel(names=["no", "yes"]),
    "numbers": tfds.features.Scalar(np.int64),
    "small_numbers": tfds.features.Tensor(shape=(), dtype=np.int8),
    "fractions": tfds.features.Scalar(np.float64),
    "compressed": tfds.features.Tensor(shape=(), dtype=np.float32, encoding="zlib"),
}


class AwkwardSentences(tfds.core.GeneratorBasedBuilder):
    """Five sentences, one of them not UTF-8, with each kind of label."""

    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in LABELS]  # noqa: RUF012

    def _info(self):
        label = LABELS[self.builder_config.name]
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"sentence": tfds.features.Text(), "label": label}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in ROWS}

    def _generate_examples(self, split):
        for n, (sentence, label) in enumerate(ROWS[split]):
            yield n, {"sentence": sentence, "label": label}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared data_dir, not to be changed."""
    data_dir = tmp_path_factory.mktemp("tfds")
    for name in LABELS:
        AwkwardSentences(config=name, data_dir=data_dir).download_and_prepare()
    return data_dir


@pytest.fixture
def data_dir(prepared, tmp_path):
    """A data_dir to damage."""
    return shutil.copytree(prepared, tmp_path / "tfds")


def make_cfg(processor="Sst2DataProcessor", data_dir="none", **keys):
    shape = {"max_sequence_length": 9, "batch_size": 1}
    return EvalInputParams(data_processor=processor, data_dir=str(data_dir), **shape, **keys)


def joined(batches):
    """The texts and the labels of all batches of a Source."""
    texts, targets = zip(*batches, strict=True)
    return np.concatenate(texts), np.concatenate([each["labels"] for each in targets])


def open_source(data_dir, name=NAME, processor="Sst2DataProcessor", **keys):
    return data.get_source(make_cfg(processor, data_dir, dataset=name, **keys))


@pytest.fixture
def no_network(monkeypatch):
    """Makes every preparation of a data set fail as without a network; lists the attempts."""
    attempts = []

    def fail(builder, *args, **kwargs):
        attempts.append(builder.name)
        raise ConnectionError("Max retries exceeded\nwith a long story")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    monkeypatch.setattr("input.sources.tfds.check_reachable", lambda urls: None)
    return attempts


# ---- The table of processors ---------------------------------------------------------------------


def test_the_schema_accepts_exactly_the_processors_there_are():
    assert sorted(get_args(DataProcessor)) == sorted([*PROCESSORS, *pretraining.PROCESSORS])


def test_a_dataset_of_the_params_replaces_the_processors_own():
    assert get_processor(make_cfg("MnliDataProcessor")).dataset == "glue/mnli"
    processor = get_processor(make_cfg("MnliDataProcessor", dataset="sample_glue/mnli"))
    assert processor.dataset == "sample_glue/mnli"
    assert processor.text_keys == ("premise", "hypothesis")
    assert processor.eval_splits == ("validation_matched", "validation_mismatched")


# ---- Real GLUE -----------------------------------------------------------------------------------

# Rows of each label, as published with the data.
GLUE = [
    ("sst2", "train", [29780, 37569]),
    ("sst2", "validation", [428, 444]),
    ("mnli", "validation_matched", [3479, 3123, 3213]),
    ("mnli", "validation_mismatched", [3463, 3129, 3240]),
]
GLUE_PROCESSORS = {"sst2": "Sst2DataProcessor", "mnli": "MnliDataProcessor"}


@pytest.mark.parametrize("name,split,count", GLUE, ids=[f"{n}-{s}" for n, s, _ in GLUE])
def test_prepared_glue_is_read_whole_and_without_a_download(
    name, split, count, shared_dir, no_network
):
    source = open_source(shared_dir / "tfds", None, GLUE_PROCESSORS[name])
    assert source.num_rows(split) == sum(count)
    batches = list(source.read(split, 8192).as_numpy_iterator())
    texts, labels = joined(batches)
    assert texts.shape == (sum(count), len(source.processor.text_keys))
    assert np.bincount(labels).tolist() == count
    assert no_network == []


def test_glue_labels_have_the_published_order(shared_dir):
    names = {
        name: open_source(shared_dir / "tfds", None, processor).targets.label_names
        for name, processor in GLUE_PROCESSORS.items()
    }
    assert names["sst2"] == ("negative", "positive")
    assert names["mnli"] == ("entailment", "neutral", "contradiction")


def test_rows_come_in_the_order_of_the_file(shared_dir):
    source = open_source(shared_dir / "tfds", None, "MnliDataProcessor")
    folder = shared_dir / "tfds" / "glue" / "mnli" / "2.0.0"
    file = folder / "glue-validation_matched.tfrecord-00000-of-00001"
    expected = []
    for record in tf.data.TFRecordDataset(str(file)).take(100).as_numpy_iterator():
        values = tf.train.Example.FromString(record).features.feature
        keys = ("premise", "hypothesis")
        expected.append(tuple(values[key].bytes_list.value[0].decode() for key in keys))
    assert source.read_texts("validation_matched")[:100] == expected


# ---- A small set ---------------------------------------------------------------------------------


def test_texts_that_are_not_utf_8_are_shown_with_a_replacement_character(prepared):
    source = open_source(prepared)
    texts = [("a",), ("",), ("naïve 中",), ("caf\ufffd",), ("tab\tand\nline",)]
    assert source.read_texts("train") == texts
    raw, labels = joined(source.read("train", 9).as_numpy_iterator())
    assert raw[3, 0] == b"caf\xe9"  # the tokenizer decides what to do with it
    assert labels.tolist() == [0, 1, 1, 0, 1]


@pytest.mark.parametrize("name", LABELS)
def test_rows_are_those_that_tfds_reads_whatever_the_labels_are_stored_as(name, prepared):
    is_float = np.issubdtype(LABELS[name].np_dtype, np.floating)
    keys = {"task": "regression"} if is_float else {"label_names": ["no", "yes"]}
    for split in ("train", "validation"):
        rows = list(
            tfds.builder_from_directory(prepared / "awkward_sentences" / name / "2.0.0")
            .as_dataset(split=split, shuffle_files=False)
            .as_numpy_iterator()
        )
        read = open_source(prepared, f"awkward_sentences/{name}", **keys).read(split, 2)
        texts, labels = joined(read.as_numpy_iterator())
        assert texts.tolist() == [[row["sentence"]] for row in rows]
        expected = np.array([row["label"] for row in rows], np.float32 if is_float else np.int32)
        np.testing.assert_array_equal(labels, expected, strict=True)


def test_files_with_fewer_rows_than_they_should_have_are_noticed(data_dir):
    (file,) = (data_dir / NAME / "2.0.0").glob("*-train.tfrecord*")
    records = list(tf.data.TFRecordDataset(str(file)))
    with tf.io.TFRecordWriter(str(file)) as writer:
        for record in records[:4]:
            writer.write(record.numpy())
    with pytest.raises(tf.errors.FailedPreconditionError, match="expected to contain 5"):
        list(open_source(data_dir).read("train", 2))


def test_rows_of_several_files_come_file_after_file(prepared, data_dir):
    folder = data_dir / NAME / "2.0.0"
    whole = folder / "awkward_sentences-train.tfrecord-00000-of-00001"
    records = list(tf.data.TFRecordDataset(str(whole)))
    whole.unlink()
    for shard, part in enumerate((records[:3], records[3:])):
        path = folder / f"awkward_sentences-train.tfrecord-0000{shard}-of-00002"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in part:
                writer.write(record.numpy())
    info = folder / "dataset_info.json"
    text = info.read_text()
    assert text.count('"5"') == 1  # rows of each file of the training split
    info.write_text(text.replace('"5"', '"3",\n        "2"'))
    assert open_source(data_dir).read_texts("train") == open_source(prepared).read_texts("train")


def test_the_fingerprint_follows_the_contents_not_the_place(prepared, data_dir):
    original, copy = open_source(prepared), open_source(data_dir)
    assert copy.fingerprint("train") == original.fingerprint("train")
    assert copy.fingerprint("train") != copy.fingerprint("validation")
    file = data_dir / NAME / "2.0.0" / "awkward_sentences-train.tfrecord-00000-of-00001"
    stat = file.stat()
    content = bytearray(file.read_bytes())
    content[30] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert copy.fingerprint("train") != original.fingerprint("train")


def test_the_highest_version_is_read_and_what_a_killed_download_left_is_not(data_dir):
    folder = data_dir / NAME
    for version in ("10.0.0", "9.9.9", "incomplete.ABCDEF_11.0.0", "11.0.0.incompleteABCDEF"):
        shutil.copytree(folder / "2.0.0", folder / version)
    (folder / "12.0.0").mkdir()
    (folder / "10.0.0" / "label.labels.txt").write_text("down\nup\n")
    assert open_source(data_dir).targets.label_names == ("down", "up")


def test_only_half_a_download_is_not_prepared(data_dir, no_network):
    folder = data_dir / NAME
    (folder / "2.0.0").rename(folder / "incomplete.ABCDEF_2.0.0")
    with pytest.raises(UserError, match="is not prepared in"):
        open_source(data_dir)
    assert no_network == ["awkward_sentences"]


# ---- Any data set by its keys --------------------------------------------------------------------

# What GLUE publishes of each task: its texts, and the metrics of its leader board.
TASKS = {
    "cola": (("sentence",), ["eval/mcc"]),
    "mrpc": (("sentence1", "sentence2"), ["eval/f1_score", "eval/accuracy_cls"]),
    "qnli": (("question", "sentence"), ["eval/accuracy_cls"]),
    "qqp": (("question1", "question2"), ["eval/f1_score", "eval/accuracy_cls"]),
    "rte": (("sentence1", "sentence2"), ["eval/accuracy_cls"]),
    "wnli": (("sentence1", "sentence2"), ["eval/accuracy_cls"]),
    "stsb": (("sentence1", "sentence2"), ["eval/pearson", "eval/spearman"]),
}


def prepare_glue(data_dir, name, rows):
    """Prepares `glue/<name>` with the given rows and TFDS' schema of it."""
    info = tfds.builder(f"glue/{name}", data_dir=data_dir).info
    Path(info.data_dir).mkdir(parents=True)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=2)
    writer.initialize_splits(["train", "validation"])
    writer.add_examples({"train": rows, "validation": rows[:1]})
    writer.close_all()


@pytest.mark.parametrize("name", TASKS)
def test_every_task_of_glue_is_read_by_its_keys_and_scored_by_its_metrics(
    name, tmp_path, no_network
):
    keys, metrics = TASKS[name]
    is_regression = name == "stsb"
    labels = [0.5, 4.75, 3.0] if is_regression else [0, 1, 1]
    rows = [
        {**{key: f"{key} {n}" for key in keys}, "label": label, "idx": n}
        for n, label in enumerate(labels)
    ]
    prepare_glue(tmp_path, name, rows)
    own = {"task": "regression"} if is_regression else {}
    source = open_source(tmp_path, f"glue/{name}", "TfdsDataProcessor", text_keys=keys, **own)
    assert source.read_texts("train") == [tuple(row[key] for key in keys) for row in rows]
    _, read = joined(source.read("train", 9).as_numpy_iterator())
    np.testing.assert_array_equal(read, np.array(labels, read.dtype), strict=True)
    assert read.dtype == (np.float32 if is_regression else np.int32)
    assert len(source.targets.label_names) == (1 if is_regression else 2)
    assert source.processor.eval_splits == ("validation",)
    if is_regression:
        scored = regression_metrics(read[:, None], read)
    else:
        scored = classification_metrics(np.eye(2)[read], read, 2)
    assert [scored[metric] for metric in metrics] == [pytest.approx(1)] * len(metrics)
    assert no_network == []


def test_renamed_features_are_found_under_the_processors_own_names(prepared):
    keys = {"feature_rename_map": {"sentence": "premise"}, "text_keys": ["premise"]}
    assert open_source(prepared, **keys).read_texts("validation") == [("b",), ("c",)]
    with pytest.raises(UserError, match="has no feature nowhere; it has label, sentence"):
        open_source(prepared, feature_rename_map={"nowhere": "x"})


def test_columns_of_files_can_be_renamed(tmp_path):
    (tmp_path / "file.csv").write_text("Review Text,stars\na,1\nb,2\n")
    cfg = EvalInputParams(
        data_processor="TextFileDataProcessor",
        train_file=str(tmp_path / "file.csv"),
        text_columns="text",
        feature_rename_map={"Review Text": "text", "stars": "label"},
        max_sequence_length=9,
        batch_size=1,
    )
    source = data.get_source(cfg)
    assert source.targets.label_names == ("1", "2")
    texts, labels = joined(source.read("train", 9).as_numpy_iterator())
    assert texts.tolist() == [[b"a"], [b"b"]]
    assert labels.tolist() == [0, 1]


def test_names_can_be_given_to_classes_and_to_whole_numbers(prepared):
    assert open_source(prepared, label_names=["bad", "good"]).targets.label_names == ("bad", "good")
    numbers = open_source(prepared, "awkward_sentences/numbers", label_names=["bad", "good"])
    assert numbers.targets.label_names == ("bad", "good")
    with pytest.raises(UserError, match=r"label_names has 3 names, but .* has 2 classes: no, yes"):
        open_source(prepared, label_names=["a", "b", "c"])


def test_a_regression_needs_numbers(prepared):
    numbers = open_source(prepared, "awkward_sentences/numbers", task="regression")
    _, labels = joined(numbers.read("train", 9).as_numpy_iterator())
    np.testing.assert_array_equal(labels, np.float32([0, 1, 1, 0, 1]), strict=True)
    with pytest.raises(UserError, match="feature label that is no number"):
        open_source(prepared, task="regression")


def test_one_label_a_row_is_no_list_of_several(prepared):
    with pytest.raises(UserError, match=r"one label a row, ClassLabel.*TextFileDataProcessor"):
        open_source(prepared, task="multi_label")


def test_a_text_key_that_is_no_text_is_refused(prepared):
    with pytest.raises(UserError, match="feature label that is no text"):
        open_source(prepared, text_keys=["sentence", "label"])


def test_a_set_without_a_validation_split_is_scored_on_its_test_split(prepared, data_dir):
    info = data_dir / NAME / "2.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"validation"', '"development"'))
    keys = {"processor": "TfdsDataProcessor", "text_keys": ["sentence"]}
    assert open_source(data_dir, **keys).processor.eval_splits == ("test",)
    info.write_text(info.read_text().replace('"test"', '"hidden"'))
    with pytest.raises(UserError, match=r"no split validation or test; .* Write eval_fraction"):
        open_source(data_dir, **keys)
    assert open_source(data_dir, eval_fraction=0.2, **keys).processor.eval_splits == ()


# ---- Damaged records -----------------------------------------------------------------------------


def damage_record(folder, number, split="train"):
    """Changes a byte in a record of a split. Returns the file."""
    (path,) = (folder / NAME / "2.0.0").glob(f"*-{split}.tfrecord*")
    content, start = bytearray(path.read_bytes()), 0
    for _ in range(number):
        start += 16 + int.from_bytes(content[start : start + 8], "little")  # 12 before, 4 behind
    content[start + 20] ^= 1
    path.write_bytes(content)
    return path


def test_a_damaged_record_is_named_and_can_be_skipped_with_what_follows(data_dir):
    path = damage_record(data_dir, 3)
    source = open_source(data_dir)
    (sentence,) = source.damages("train")
    assert sentence.startswith(f"{path}, record 3: damaged or missing; ")
    assert "2 of 5" in sentence
    with pytest.raises(tf.errors.DataLossError):
        list(source.read("train", 2))
    assert source.skipped("train") == []
    source = open_source(data_dir, on_bad_row="skip")
    assert source.read_texts("train") == [("a",), ("",), ("naïve 中",)]
    assert source.skipped("train") == [sentence]
    assert source.skipped("validation") == []


def test_the_place_of_a_row_is_its_file_and_record(prepared):
    source = open_source(prepared)
    first, last, absent = source.places("train", [0, 4, 5])
    assert first.endswith("train.tfrecord-00000-of-00001, record 0")
    assert last.endswith("train.tfrecord-00000-of-00001, record 4")
    assert absent == "row 5"


# ---- Refusals ------------------------------------------------------------------------------------


def test_without_a_network_it_says_how_to_prepare_the_data_elsewhere(tmp_path, no_network, capsys):
    with pytest.raises(UserError) as error:
        open_source(tmp_path, None)
    text = str(error.value)
    assert "data set glue/sst2 is not prepared" in text
    assert str(tmp_path / "glue/sst2") in text
    assert "ConnectionError: Max retries exceeded)" in text  # the first line of the reason
    assert "tfds.load('glue/sst2', data_dir='DIR')" in text
    assert "--data_dir" in text
    assert no_network == ["glue"]
    assert capsys.readouterr().out == ""


def test_a_data_dir_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"sst2 is not prepared .* Not a directory") as error:
        open_source(tmp_path / "file", "sample_glue/sst2")
    assert "network" not in str(error.value)


@pytest.mark.parametrize("name", ["glue/sst3", "nonsense", "sample_glue/x", "a b", "../glue", "/"])
def test_an_unknown_dataset_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=f"data set {name} is neither prepared in .* nor known"):
        open_source(tmp_path, name)


def test_a_missing_split_is_refused(prepared):
    source = open_source(prepared)
    read = functools.partial(source.read, batch_size=2)
    for method in (read, source.num_rows, source.fingerprint, source.read_texts):
        with pytest.raises(UserError, match="split dev; its splits are train, validation, test"):
            method("dev")


def test_a_missing_feature_is_refused(prepared):
    with pytest.raises(UserError, match="has no feature premise, hypothesis; it has label, sen"):
        open_source(prepared, processor="MnliDataProcessor")


def test_labels_that_are_no_classes_are_refused(prepared):
    with pytest.raises(UserError, match="feature label that is no class"):
        open_source(prepared, "awkward_sentences/numbers")


def test_a_missing_file_is_refused(data_dir):
    (data_dir / NAME / "2.0.0" / "awkward_sentences-train.tfrecord-00000-of-00001").unlink()
    with pytest.raises(UserError, match=r"is incomplete: .*No such file.*Copy it there again"):
        open_source(data_dir).fingerprint("train")


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_a_damaged_description_is_refused(data_dir, file):
    (data_dir / NAME / "2.0.0" / file).write_text('{"half')
    with pytest.raises(UserError, match=r"2\.0\.0 cannot be read .*delete the folder"):
        open_source(data_dir)


@pytest.mark.parametrize("name", LABELS)
def test_a_set_stored_as_array_records_is_read_like_one_of_tfrecords(name, prepared, tmp_path):
    builder = AwkwardSentences(config=name, data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    keys = {"label_names": ["no", "yes"]} if "number" in name else {}
    keys |= {"task": "regression"} if name in ("fractions", "compressed") else {}
    expected, found = (
        open_source(data_dir, f"awkward_sentences/{name}", on_bad_row="skip", **keys)
        for data_dir in (prepared, tmp_path)
    )
    for split in ROWS:
        for theirs, ours in zip(
            joined(expected.read(split, 2).as_numpy_iterator()),
            joined(found.read(split, 2).as_numpy_iterator()),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs, strict=True)
        assert found.skipped(split) == [] and found.num_rows(split) == len(ROWS[split])


def test_without_a_network_no_download_is_tried(tmp_path, monkeypatch, no_network):
    def no_answer(address, timeout):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("input.sources.tfds.check_reachable", check_reachable)
    monkeypatch.setattr(socket, "create_connection", no_answer)
    with pytest.raises(
        UserError, match=r"dl\.fbaipublicfiles\.com: Name or service not known"
    ) as told:
        open_source(tmp_path, "glue/mnli", "MnliDataProcessor")
    assert "tfds.load('glue/mnli'" in str(told.value)
    assert no_network == []  # the attempts, each of which would take minutes
