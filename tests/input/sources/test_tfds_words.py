# SPDX-License-Identifier: Apache-2.0
"""Words with labels, and questions, of TensorFlow Datasets: the rows that files of them give."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

import data
from common.errors import UserError
from common.params import EvalInputParams, Params
from common.reports.listeners import standard_listeners
from common.training.checks import set_up
from common.training.inference import Inference
from common.training.predictor import predict
from common.training.trainer import Trainer
from input.tokenizers.wordpiece import WordPieceTokenizer
from session import open_session
from utils import get_params

NAMES = ("O", "B-name", "I-name")
SENTENCES = [
    (["ca", "ab", "bd", "c"], ["O", "B-name", "I-name", "O"]),
    (["d", "naïve", "c"], ["O", "O", "O"]),
    (["ab", "."], ["B-name", "O"]),
    (["ab", "bd"], ["B-name", "I-name"]),
]
BROKEN = (["ab", "bd"], ["O", "I-name"])  # an I- without its B-
CONTEXTS = ["a b c d", "d c b a ."]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh", *(f"##{c}" for c in "abcdefgh"), ".", "?"]


def answers(*pairs):
    return {"text": [text for text, _ in pairs], "answer_start": [start for _, start in pairs]}


QUESTIONS = [
    {"id": "q0", "question": "b ?", "context": CONTEXTS[0], "answers": answers(("b", 2))},
    {"id": "q1", "question": "c ?", "context": CONTEXTS[1], "answers": answers(("c b", 2))},
    {"id": "q2", "question": "d ?", "context": CONTEXTS[1], "answers": answers(("d", 3))},  # at 0
]
UNANSWERED = {"id": "q3", "question": "e ?", "context": CONTEXTS[0], "answers": answers()}


class ToyWords(tfds.core.GeneratorBasedBuilder):
    """As conll2003: words, and a class for each; or a text for each."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=name) for name in ("classes", "texts", "broken")
    ]

    def _info(self):
        kind = tfds.features.ClassLabel(names=NAMES)
        if self.builder_config.name == "texts":
            kind = tfds.features.Text()
        sequence = tfds.features.Sequence
        features = {"tokens": sequence(tfds.features.Text()), "ner": sequence(kind)}
        features |= {"sentence": tfds.features.Text(), "label": tfds.features.Scalar(np.int64)}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "validation": self._generate_examples()}

    def _generate_examples(self):
        rows = [*SENTENCES, BROKEN] if self.builder_config.name == "broken" else SENTENCES
        for n, (words, labels) in enumerate(rows):
            yield n, {"tokens": words, "ner": labels, "sentence": "", "label": 0}


class ToySquad(tfds.core.GeneratorBasedBuilder):
    """As squad: v1.1 and v2.0."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("v1", "v2")]  # noqa: RUF012

    def _info(self):
        text = tfds.features.Text
        features = {"id": text(), "title": text(), "question": text(), "context": text()}
        answer = {"text": text(), "answer_start": np.int32}
        features["answers"] = tfds.features.Sequence(answer)
        if self.builder_config.name == "v2":
            features["is_impossible"] = np.bool_
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "validation": self._generate_examples()}

    def _generate_examples(self):
        is_second = self.builder_config.name == "v2"
        for n, row in enumerate([*QUESTIONS, UNANSWERED] if is_second else QUESTIONS):
            impossible = {"is_impossible": not row["answers"]["text"]} if is_second else {}
            yield n, {**row, "title": "T", **impossible}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (ToyWords, ToySquad):
        for config in builder.BUILDER_CONFIGS:
            builder(config=config.name, data_dir=folder).download_and_prepare()
    return folder


TAGGING = {"task": "token_classification", "text_keys": "tokens", "label_key": "ner"}
ASKING = {"task": "question_answering", "text_keys": ["question", "context"]}
ASKING["label_key"] = "answers"


def source_of(data_dir, dataset, keys=TAGGING, **more):
    of_set = {"data_processor": "TfdsDataProcessor", "dataset": dataset, "data_dir": str(data_dir)}
    cfg = EvalInputParams(**of_set, max_sequence_length=9, batch_size=1, **{**keys, **more})
    return data.get_source(cfg)


def source_of_file(path, content, **keys):
    path.write_text(content)
    files = {"train_file": str(path), "eval_file": str(path)}
    return data.get_source(EvalInputParams(**files, max_sequence_length=9, batch_size=1, **keys))


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return WordPieceTokenizer.from_vocab_file(str(tmp_path / "vocab.txt"))


# ---- Words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ["classes", "texts"])
def test_words_are_read_as_those_of_a_file(config, data_dir, tmp_path, tokenizer):
    source = source_of(data_dir, f"toy_words/{config}")
    names = NAMES if config == "classes" else tuple(sorted(NAMES))
    assert source.targets.label_names == names
    assert source.processor.eval_splits == ("validation",)
    lines = [zip(words, labels, strict=True) for words, labels in SENTENCES]
    content = "\n\n".join("\n".join(map("\t".join, row)) for row in lines) + "\n"
    keys = {"data_processor": "TaggedTextDataProcessor", "task": "token_classification"}
    of_file = source_of_file(tmp_path / "x.conll", content, label_names=names, **keys)
    ours, theirs = source.tokenize("train", tokenizer), of_file.tokenize("train", tokenizer)
    assert ours.ids.tolist() == theirs.ids.tolist()
    assert ours.words.num_pieces.tolist() == theirs.words.num_pieces.tolist()
    expected = [names.index(label) for _, labels in SENTENCES for label in labels]
    assert ours.words.labels.tolist() == expected
    assert source.read_texts("train")[1] == ("d naïve c",)
    assert source.word_spans("train") == of_file.word_spans("train")
    (place,) = source.places("validation", [2])
    assert place == f"split validation of {source}, row 2"
    assert source.num_rows("train") == 4


def test_labels_against_their_scheme_are_told_with_split_and_row(data_dir):
    source = source_of(data_dir, "toy_words/broken")
    with pytest.raises(UserError) as caught:
        source.num_rows("train")
    told = str(caught.value)
    assert f"split train of {source}: 1 sentence cannot be used\n" in told
    assert "row 4: I-name follows O, without a B-" in told
    source = source_of(data_dir, "toy_words/broken", on_bad_row="skip")
    assert source.num_rows("train") == 4
    (skipped,) = source.skipped("train")
    assert skipped.startswith(f"split train of {source}, row 4: I-name follows O")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"text_keys": "sentence"}, "a feature sentence that is no list of words"),
        ({"label_key": "label"}, "a feature label that is no list of labels"),
        ({"label_key": "tags"}, "has no feature tags; it has label, ner, sentence, tokens"),
    ],
)
def test_features_of_another_kind_are_refused(change, reason, data_dir):
    with pytest.raises(UserError, match=reason):
        source_of(data_dir, "toy_words/classes", **change)


# ---- Questions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ["v1", "v2"])
def test_questions_are_read_as_those_of_a_file(config, data_dir, tmp_path, tokenizer, capsys):
    more = {"version_2_with_negative": config == "v2"}
    source = source_of(data_dir, f"toy_squad/{config}", ASKING, **more)
    rows = [*QUESTIONS, UNANSWERED] if config == "v2" else QUESTIONS
    ours = source.tokenize("train", tokenizer)
    told = capsys.readouterr().err
    keys = {"data_processor": "QuestionAnsweringDataProcessor", "task": "question_answering"}
    lines = "\n".join(map(json.dumps, rows))
    of_file = source_of_file(tmp_path / "x.jsonl", lines, **keys, **more)
    theirs = of_file.tokenize("train", tokenizer)
    assert ours.ids.tolist() == theirs.ids.tolist()
    assert ours.offsets.tolist() == theirs.offsets.tolist()
    tokens = [[1, 1], [1, 2], [0, 0], [-1, -1]][: len(rows)]
    assert ours.targets["answer_tokens"].tolist() == tokens
    assert source.answers("validation") == [row["answers"]["text"] for row in rows]
    assert source.id_columns("train") == {"question_id": [row["id"] for row in rows]}
    assert "1 answer not at the given answer_start; the nearest place, if any, is" in told
    place = f"split train of {source}, row 2"
    assert f"{place}, question q2: answer 'd' is not at 3, but stands at 0" in told
    assert source.places("train", [1]) == [f"split train of {source}, row 1, question q1"]


def test_the_features_that_are_read_decide_the_fingerprint(data_dir):
    """Else the tokens that were kept of other features would be taken."""
    ours = source_of(data_dir, "toy_squad/v1", ASKING).fingerprint("train")
    turned = source_of(data_dir, "toy_squad/v1", ASKING, text_keys=["context", "question"])
    assert turned.fingerprint("train") != ours
    other = source_of(data_dir, "toy_squad/v1", ASKING, text_keys=["title", "context"])
    assert other.fingerprint("train") != ours


def test_questions_without_an_answer_have_to_be_asked_for(data_dir):
    source = source_of(data_dir, "toy_squad/v2", ASKING)
    with pytest.raises(UserError, match="row 3, question q3; write version_2_with_negative: true"):
        source.num_rows("train")
    with pytest.raises(UserError, match="feature title that is no list of answers"):
        source_of(data_dir, "toy_squad/v1", ASKING, label_key="title")


def test_a_damaged_file_is_named_with_its_record(data_dir, tmp_path):
    (file,) = (data_dir / "toy_squad/v1").glob("*/*train*")
    copy = tmp_path / "toy_squad" / "v1" / "1.0.0"
    copy.mkdir(parents=True)
    for path in file.parent.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    content = file.read_bytes()
    (copy / file.name).write_bytes(content[: len(content) - 20])
    source = source_of(tmp_path, "toy_squad/v1", ASKING)
    with pytest.raises(UserError, match=f"{file.name}, record 2: damaged or missing"):
        source.num_rows("train")
    skipping = source_of(tmp_path, "toy_squad/v1", ASKING, on_bad_row="skip")
    assert skipping.num_rows("train") == 2
    assert "record 2: damaged or missing" in skipping.skipped("train")[0]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("task: token_classification, text_keys: [a, b]", "text_keys: has 2 .*takes 1: that of"),
        ("task: question_answering, text_keys: a", "text_keys: has 1 .*takes 2: .question, conte"),
        ("task: question_answering, text_keys: [a, b], data_file: x", "data_file: goes with Quest"),
        ("task: pretraining, text_keys: a", "TfdsDataProcessor does not go with task: pretraining"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys, told, tmp_path):
    keys = f"data_processor: TfdsDataProcessor, dataset: x, data_dir: x, batch_size: 1, {keys}"
    file = tmp_path / "params.yaml"
    file.write_text(f"train_input: {{{keys}, max_sequence_length: 9}}\n")
    with pytest.raises(UserError, match=told):
        get_params(file)


# ---- From end to end -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "keys", "text", "suffix"),
    [
        ("toy_words/classes", TAGGING, "c ab", "rows.conll"),
        ("toy_squad/v1", ASKING, "b ?\ta b c", "rows.jsonl"),
    ],
)
def test_a_data_set_is_trained_on_scored_and_predicted(
    dataset, keys, text, suffix, data_dir, tmp_path, tokenizer
):
    del tokenizer  # its vocabulary
    params = Params.model_validate(
        {
            "train_input": {
                **{"data_processor": "TfdsDataProcessor", "dataset": dataset, **keys},
                **{"data_dir": str(data_dir), "vocab_file": str(tmp_path / "vocab.txt")},
                **{"cache_dir": str(tmp_path / "cache"), "max_sequence_length": 9},
                **{"batch_size": 2, "packing": "packed"},
            },
            "model": {
                **{"hidden_size": 8, "num_hidden_layers": 1, "num_heads": 2, "filter_size": 8},
                "max_position_embeddings": 9,
            },
            "runconfig": {
                **{"model_dir": str(tmp_path / "model"), "mode": "train_and_eval"},
                **{"tf_random_seed": 1, "max_steps": 2},
            },
        }
    )
    session = open_session(params)
    set_up(session.run)
    result = Trainer(session, session.new_model(), standard_listeners(session.model_dir)).train()
    assert result.num_examples == (4 if keys is TAGGING else 3)
    predicting = params.with_runconfig(mode="predict")
    session = open_session(predicting, texts=[text])
    (answer,) = predict(session, Inference(session, session.new_model())).predictions
    assert answer
    file = tmp_path / suffix
    content = {"question": "b ?", "context": "a b", "answers": ["b"]}
    file.write_text("c\tO\nab\tB-name\n" if keys is TAGGING else json.dumps(content))
    session = open_session(predicting, input_file=str(file))
    predicted = predict(session, Inference(session, session.new_model()))
    assert any(Path(path).suffix in (".conll", ".json") for path in predicted.written)
