# SPDX-License-Identifier: Apache-2.0
"""input/samples/: rows worth learning from, which take the very path of glue/sst2 and glue/mnli."""

import math
import re
import socket
from collections import Counter

import pytest
import tensorflow_datasets as tfds

from common.params import EvalInputParams
from common.tasks.targets import ClassTargets
from input.samples import sample_glue
from input.sources.processors import open_source

PROCESSORS = {"sst2": "Sst2DataProcessor", "mnli": "MnliDataProcessor"}
SPLITS = [(name, split) for name, splits in sample_glue.SPLITS.items() for split in splits]
VALIDATIONS = [(name, split) for name, split in SPLITS if split != "train"]
NUM_CLASSES = {"sst2": 2, "mnli": 3}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data_dir with both parts of the sample, prepared without a network."""
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:

        def no_network(*args, **kwargs):
            raise AssertionError("the sample needs no network")

        patch.setattr(socket.socket, "connect", no_network)
        for name in PROCESSORS:
            open_sample(name, folder)
    return folder


def open_sample(name, data_dir):
    cfg = EvalInputParams(
        data_processor=PROCESSORS[name],
        dataset=f"sample_glue/{name}",
        data_dir=data_dir,
        max_sequence_length=9,
        batch_size=1,
    )
    return open_source(cfg, ClassTargets())


def rows_of(name, split):
    """[(texts, label)] in the order of the file."""
    lines = (sample_glue.FOLDER / f"{name}_{split}.tsv").read_text("utf-8").splitlines()
    assert lines[0].split("\t") == [*sample_glue.TEXT_KEYS[name], "label"]
    rows = [line.split("\t") for line in lines[1:]]
    return [(tuple(texts), int(label)) for *texts, label in rows]


def words_of(texts):
    return re.findall(r"[\w']+", " ".join(texts).lower())


# ---- The data set --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROCESSORS)
def test_features_and_label_order_are_those_of_glue(name, data_dir, shared_dir):
    glue = tfds.builder_from_directory(shared_dir / "tfds" / "glue" / name / "2.0.0").info
    sample = tfds.builder(f"sample_glue/{name}", data_dir=data_dir).info
    assert sample.features.get_tensor_spec() == glue.features.get_tensor_spec()
    assert sample.features["label"].names == glue.features["label"].names
    assert set(sample.splits) <= set(glue.splits)


@pytest.mark.parametrize("name,split", SPLITS)
def test_the_data_set_has_every_row_in_the_order_of_the_file(name, split, data_dir):
    source = open_sample(name, data_dir)
    rows = rows_of(name, split)
    assert source.num_rows(split) == len(rows)
    assert source.read_texts(split) == [texts for texts, _ in rows]
    ((_, targets),) = source.read(split, 10_000).as_numpy_iterator()
    assert targets["labels"].tolist() == [label for _, label in rows]


def test_what_is_prepared_is_used_again(data_dir, monkeypatch):
    def fail(*args):
        raise AssertionError("prepared again")

    monkeypatch.setattr(sample_glue.SampleGlue, "_generate_examples", fail)
    assert open_sample("sst2", data_dir).targets.label_names == ("negative", "positive")


def test_edited_rows_are_another_version(tmp_path, monkeypatch):
    for path in sample_glue.FOLDER.glob("*.tsv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(sample_glue, "FOLDER", tmp_path)
    before = sample_glue._version()
    assert sample_glue._version() == before
    with (tmp_path / "sst2_train.tsv").open("a") as file:
        file.write("One sentence more.\t1\n")
    assert sample_glue._version() != before


# ---- The rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name,split", SPLITS)
def test_rows_are_plain_text_with_a_known_label(name, split):
    for texts, label in rows_of(name, split):
        assert len(texts) == len(sample_glue.TEXT_KEYS[name])
        assert 0 <= label < NUM_CLASSES[name]
        for text in texts:
            assert text
            assert text == " ".join(text.split())


def test_there_are_enough_rows():
    count = Counter(name for name, split in SPLITS for _ in rows_of(name, split))
    assert count["sst2"] >= 600
    assert count["mnli"] >= 300


@pytest.mark.parametrize("name,split", SPLITS)
def test_classes_are_balanced(name, split):
    rows = rows_of(name, split)
    shares = [n / len(rows) for n in Counter(label for _, label in rows).values()]
    assert len(shares) == NUM_CLASSES[name]
    assert max(shares) < 1.1 / NUM_CLASSES[name]


@pytest.mark.parametrize("name", PROCESSORS)
def test_no_row_stands_twice(name):
    rows = [texts for part, split in SPLITS if part == name for texts, _ in rows_of(name, split)]
    count = Counter(tuple(" ".join(words_of([text])) for text in texts) for texts in rows)
    assert [texts for texts, times in count.items() if times > 1] == []


def test_no_premise_of_the_validation_was_trained_on():
    premises = {texts[0] for texts, _ in rows_of("mnli", "train")}
    for name, split in VALIDATIONS:
        if name == "mnli":
            assert premises.isdisjoint(texts[0] for texts, _ in rows_of(name, split))


@pytest.mark.parametrize("name,split", VALIDATIONS)
def test_words_alone_do_not_solve_it(name, split):
    assert naive_bayes_accuracy(rows_of(name, "train"), rows_of(name, split)) < 0.87


def naive_bayes_accuracy(train, validation):
    """Accuracy of multinomial naive Bayes over words, with add-one smoothing."""
    counts = {label: Counter() for _, label in train}
    for texts, label in train:
        counts[label].update(words_of(texts))
    vocabulary = set().union(*counts.values())
    totals = {label: sum(count.values()) + len(vocabulary) for label, count in counts.items()}
    priors = Counter(label for _, label in train)

    def score(label, words):
        likelihood = sum(math.log((counts[label][word] + 1) / totals[label]) for word in words)
        return math.log(priors[label]) + likelihood

    hits = 0
    for texts, label in validation:
        words = [word for word in words_of(texts) if word in vocabulary]
        hits += label == max(counts, key=lambda guess: score(guess, words))
    return hits / len(validation)


def test_naive_bayes_solves_what_words_do_solve():
    train = [(("good",), 1), (("a good one",), 1), (("bad",), 0), (("a bad one",), 0)]
    assert naive_bayes_accuracy(train, [(("so good",), 1), (("so bad",), 0)]) == 1
