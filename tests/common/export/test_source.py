# SPDX-License-Identifier: Apache-2.0
"""The source exports: the networks' logits, what the program prints, and how the file reads.

PyTorch and JAX, and a step of training: `tests/backends/test_source.py`.
"""

import ast
import functools
import json
import re
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from common.BaseModel import PREDICT
from common.checkpoints.load import open_checkpoint
from common.checkpoints.vocab import read_vocab
from common.errors import UserError
from common.export.decoder import settings_of
from common.export.decoders import questions, words
from common.export.export import export
from input.features import Layout, TextFeatures
from input.tokenizers.library import LibraryTokenizer
from input.tokenizers.tokenizer import Tokenizer
from tests.reference.source_cases import make_case, opened, outputs_of, without_tokens
from tests.reference.tiny_bert import random_features
from tests.reference.tiny_classifier import LABELS, VOCAB

# Every task, in families that differ; `tests/backends` has all pairs.
SOME = (
    "bert classification",
    "bert pretraining",
    "roberta token_classification",
    "distilbert question_answering",
    "albert multi_label",
    "modernbert classification",
    "unusual regression",
)
TEXT = "Never once dull, it was GOODER: [SEP] café"
LONG = "a b good bad dull once never b a bad good"
LIBRARIES = {
    "keras": {"keras", "numpy", "safetensors", "tokenizers"},  # Keras brings NumPy
    "pytorch": {"torch", "safetensors", "tokenizers"},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """{case: (Classifier, folder with the folders keras and pytorch)}."""
    folder, found = tmp_path_factory.mktemp("source"), {}
    for case in SOME:
        found[case] = classifier, root = make_case(case), folder / case
        for backend in LIBRARIES:
            export(f"{backend}_source", classifier, root / backend)
    return found


@pytest.fixture(scope="module")
def loaded(written):
    """A function that gives model.py of Keras and its Network of a case, loaded once."""

    @functools.cache
    def load(case):
        module = opened(written[case][1] / "keras")
        return module, module.load()

    return load


@pytest.mark.parametrize("case", SOME)
def test_keras_computes_the_networks_outputs_for_any_batch_and_length(written, loaded, case):
    classifier, (_, network) = written[case][0], loaded(case)
    for batch, tokens in ((4, 11), (1, 3))[: 2 if case == SOME[0] else 1]:
        features = random_features(batch, tokens)
        if batch > 1 and "modernbert" not in case:  # see `without_tokens`
            features = without_tokens(features)
        outputs = network(features)
        expected = outputs_of(classifier.model, features)
        outputs = outputs if isinstance(outputs, dict) else {next(iter(expected)): outputs}
        assert outputs.keys() == expected.keys()
        for name, array in expected.items():
            is_token = features["padding_mask"] > 0
            is_token = is_token if array.shape[1:2] == (tokens,) else np.ones(batch, bool)
            ours = np.asarray(outputs[name])[is_token]
            # Float32 with sums in another order; values up to 5.
            np.testing.assert_allclose(ours, array[is_token], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("backend", LIBRARIES)
def test_a_file_has_400_lines_at_most_and_needs_named_packages_alone(written, backend):
    for case, (_, folder) in written.items():
        text = (folder / backend / "model.py").read_text("utf-8")
        assert len(text.splitlines()) <= 400, case
        tree = ast.parse(text)
        modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
        modules += [alias.name for node in imports for alias in node.names]
        roots = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names
        assert roots <= LIBRARIES[backend], case


def test_ruff_has_nothing_to_say_of_any_file(written):
    files = [
        folder / backend / "model.py" for _, folder in written.values() for backend in LIBRARIES
    ]
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["format", "--check"], ["check", "--select", "B,E,F,I,RUF,SIM,UP,W"]):
        done = subprocess.run(
            [*ruff, *command, "--isolated", "--line-length", "100", *files],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("backend", LIBRARIES)
def test_the_file_of_a_bert_has_nothing_of_other_families_and_tasks(written, backend):
    text = (written["bert classification"][1] / backend / "model.py").read_text("utf-8")
    others = (
        r"rotary|gate|projection|mlm|qa\b|pre_norm|first_position|sinusoid|shares|if .*geometry"
    )
    assert re.findall(others, text) == []
    fields = re.findall(r"^    (\w+): \w+ = (\S+)", text, re.MULTILINE)
    assert dict(fields) == {
        "vocab_size": "23",
        "hidden_size": "6",
        "num_hidden_layers": "2",
        "num_heads": "2",
        "filter_size": "13",
        "max_position_embeddings": "19",
        "num_segments": "2",
        "layer_norm_epsilon": "1e-12",
        "dropout_rate": "0.1",
        "attention_dropout_rate": "0.0",
        "head_dropout_rate": "0.2",
        "num_outputs": "5",
        "max_sequence_length": "7",
        "pad_id": "0",
        "pad_token": '"[PAD]"',
    }


def test_the_file_says_where_its_weights_came_from(written):
    classifier, folder = written["bert classification"]
    text = (folder / "keras" / "model.py").read_text("utf-8")
    head = ast.get_docstring(ast.parse(text))
    digest = json.loads((folder / "keras" / "export.json").read_text())["files"]
    head = " ".join(head.split())
    assert "BERT classifier, 2 layers of 6" in head and "Devlin et al. 2019" in head
    assert "Fine-tuned with bert-classifier to step 1,234" in head
    assert digest["model.safetensors"]["sha256"] in head
    weights = load_file(folder / "keras" / "model.safetensors")
    assert len(weights) == len(classifier.weights)


# ---- What it prints ------------------------------------------------------------------------------


@pytest.fixture
def printed(loaded, monkeypatch, capsys):
    """A function that gives the lines which the program of a case prints, split at tabs."""

    def run(case, *texts):
        module, network = loaded(case)
        monkeypatch.setattr(module, "load", lambda: network)
        monkeypatch.setattr(sys, "argv", ["model.py", *texts])
        module.main()
        return [line.split("\t") for line in capsys.readouterr().out.splitlines()]

    return run


def records_of(classifier, *texts):
    """What `--mode predict` says of rows of one text."""
    features = classifier.text_features(tf.constant([[text] for text in texts]))
    outputs = classifier.model.build_model(features, PREDICT)
    outputs = {name: np.asarray(each) for name, each in outputs.items()}
    return classifier.model.predictions(outputs)


def test_labels_are_those_of_predict_with_their_probabilities(written, printed):
    records = records_of(written["bert classification"][0], TEXT, LONG)
    expected = [[each["label"], f"{each['p_' + each['label']]:.4f}"] for each in records]
    assert printed("bert classification", TEXT, LONG) == expected


def test_sets_of_labels_are_those_above_their_thresholds(written, printed):
    classifier, _ = written["albert multi_label"]
    records = records_of(classifier, TEXT, "b", LONG)
    expected = []
    for record in records:
        named = filter(None, record["label"].split(classifier.model.separator))
        pairs = [(name, f"{record[f'p_{name}']:.4f}") for name in named]
        expected.append([part for pair in pairs for part in pair] or ["-"])
    assert all(2 <= len(line) < 2 * len(LABELS) for line in expected)
    assert printed("albert multi_label", TEXT, "b", LONG) == expected


def test_the_value_of_a_regression_is_that_of_predict(written, printed):
    records = records_of(written["unusual regression"][0], TEXT, LONG)
    assert printed("unusual regression", TEXT, LONG) == [[f"{r['value']:.4f}"] for r in records]


@pytest.mark.parametrize("aggregation", ["first", "average", "max"])
def test_the_tags_of_words_are_those_of_the_decoder_also_of_a_long_text(
    loaded, aggregation, tmp_path, capsys
):
    case = "roberta token_classification"
    classifier = make_case(case, word_aggregation=aggregation)
    folder, _ = export("keras_source", classifier, tmp_path / "out")
    settings = settings_of(classifier.model, classifier.params.predict_input)
    decoder = words.Decoder(settings=settings, vocab=VOCAB)
    rows = decoder.rows([TEXT, LONG])
    outputs = classifier.model.build_model(rows.features, PREDICT)
    expected = []
    for of_text in decoder.decode(rows, {"logits": np.asarray(outputs["logits"])}):
        expected += [[*pair] for pair in zip(of_text["tokens"], of_text["tags"], strict=True)]
        expected.append([""])
    assert len(rows.windows) > 4
    module = opened(folder)
    _, network = loaded(case)  # the weights are the same
    module.print_words(network, module.load_tokenizer(), [TEXT, LONG])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines] == expected
    assert all(1 / len(LABELS) <= float(line[2]) <= 1 for line in lines if len(line) > 1)


def test_answers_are_those_of_the_decoder_also_in_a_long_text(written, printed):
    classifier, _ = written["distilbert question_answering"]
    settings = settings_of(classifier.model, classifier.params.predict_input)
    decoder = questions.Decoder(settings=settings, vocab=VOCAB)
    pairs = [("was it bad", LONG), ("b", "never good"), ("a", "a b bad"), ("", "it")]
    rows = decoder.rows(pairs)
    outputs = classifier.model.build_model(rows.features, PREDICT)
    outputs = {name: np.asarray(each) for name, each in outputs.items()}
    expected = [each["answer"] or "-" for each in decoder.decode(rows, outputs)]
    lines = [printed("distilbert question_answering", *pair) for pair in pairs]
    assert [line[0][0] for line in lines] == expected
    assert all(0 < float(line[0][1]) <= 1 for line in lines)
    assert printed("distilbert question_answering", "b", "") == [["-", "1.0000"]]


def test_masked_words_are_the_likeliest_of_the_network(written, printed):
    classifier, _ = written["bert pretraining"]
    ids = [VOCAB.index(token) for token in ("[CLS]", "it", "[MASK]", "good", "[MASK]", "[SEP]")]
    row = np.array([ids], np.int32)
    features = {"input_ids": row, "padding_mask": row * 0 + 1, "segment_ids": row * 0}
    logits = outputs_of(classifier.model, features)["mlm_logits"][0]
    expected = []
    for place in (2, 4):
        best = np.argsort(-logits[place])[:5]
        probabilities = np.exp(logits[place] - np.log(np.exp(logits[place]).sum()))
        expected.append([f"{VOCAB[n]} {probabilities[n]:.4f}" for n in best])
    assert printed("bert pretraining", "It [MASK] good [MASK]") == expected


def test_a_masked_word_is_one_of_the_vocabulary_where_the_table_has_more_rows(tmp_path, capsys):
    classifier = make_case("bert pretraining", vocab_size=61)
    module = opened(export("keras_source", classifier, tmp_path / "out")[0])
    module.print_masked_words(module.load(), module.load_tokenizer(), ["It [MASK] good"])
    ((*words,),) = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(words) == 5 and {word.rpartition(" ")[0] for word in words} <= set(VOCAB)


def test_rows_are_those_of_training_with_and_without_special_tokens(make_classifier, tmp_path):
    pairs = [("never once dull", "it was"), ("good", "bad bad bad"), ("Café", "[SEP] b")]
    for add_special_tokens in (True, False):
        rows = {"add_special_tokens": add_special_tokens}
        classifier = make_classifier(2, rows=rows)
        folder, _ = export("keras_source", classifier, tmp_path / str(add_special_tokens))
        module = opened(folder)
        features = module.encode(module.load_tokenizer(), pairs)
        expected = classifier.text_features(tf.constant(pairs))
        assert (
            features.pop("padding_mask").tolist()
            == (1 - expected.pop("input_mask")).numpy().tolist()
        )
        for name, array in features.items():
            np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_an_empty_text_without_special_tokens_has_the_networks_answer(make_classifier, tmp_path):
    """Alone, and beside another one."""
    classifier = make_classifier(rows={"add_special_tokens": False}, pooler_type="mean")
    folder, _ = export("keras_source", classifier, tmp_path / "out")
    module = opened(folder)
    network, tokenizer = module.load(), module.load_tokenizer()
    assert {name: each.tolist() for name, each in module.encode(tokenizer, [""]).items()} == {
        "input_ids": [[0]],
        "padding_mask": [[0]],
        "segment_ids": [[0]],
    }
    texts = ["", "never once"]
    features = classifier.text_features(tf.constant([[text] for text in texts]))
    expected = classifier.model.build_model(features, PREDICT)["logits"]
    logits = network(module.encode(tokenizer, texts))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", LIBRARIES)
def test_as_a_checkpoint_it_is_refused_in_a_sentence_that_says_what_to_take(written, backend):
    folder = written["bert classification"][1] / backend
    for path in (folder, folder / "model.safetensors"):
        taken = f"is an export as {backend}_source, .*; take the checkpoint .* huggingface or keras"
        with pytest.raises(UserError, match=rf"^checkpoint {path} {taken}.*$"):
            open_checkpoint(path)


def test_a_weight_that_no_template_knows_is_refused(make_classifier, tmp_path):
    classifier = make_classifier()
    classifier.weights["adapter/kernel"] = np.zeros((6, 6), np.float32)
    with pytest.raises(UserError, match="the network has adapter/kernel, which the programs"):
        export("pytorch_source", classifier, tmp_path / "out")


# ---- A process without this project --------------------------------------------------------------

PROGRAM = """
import importlib.util, runpy, sys
assert importlib.util.find_spec("common") is None
sys.path.insert(0, ".")
{card}
before = network(features, training=True), network(features, training=True)
assert abs(before[0] - before[1]).numpy().max() > 0, "no dropout"
changed = [v.path for v, w in zip(network.weights, load().weights) if (v != w).numpy().any()]
assert len(changed) == len(network.weights), changed
assert not any(name.partition(".")[0] in ("common", "input") for name in sys.modules)
for texts in (["never once dull"], []):
    sys.argv = ["model.py", *texts]
    try:
        runpy.run_path("model.py", run_name="__main__")
    except SystemExit as end:
        print(end.code)
"""


def test_the_cards_code_trains_every_weight_and_the_program_prints_label_and_probability(
    written, run_alone, code_of
):
    classifier, folder = written["bert classification"]
    card = "\n".join(code_of(folder / "keras", "python"))
    card = card.replace("np.array([1]))", "np.array([1]), verbose=0)")
    card = card.replace("2e-5), loss)", "2e-5), loss, jit_compile=False)")  # compiling takes 5 s
    output = run_alone(PROGRAM.format(card=card), folder / "keras").splitlines()
    (record,) = records_of(classifier, "never once dull")
    label = record["label"]
    assert output[-2:] == [f"{label}\t{record[f'p_{label}']:.4f}", "2"]  # 2: wrong usage


# ---- Vocabularies that WordPiece cannot use ------------------------------------------------------


@pytest.fixture(scope="module")
def byte_bpe(tmp_path_factory):
    """A LibraryVocab of RoBERTa's kind."""
    folder = tmp_path_factory.mktemp("bpe")
    texts = ["never once dull", "it was dull and never good", "once upon a time it was good"]
    Tokenizer.train(texts, algorithm="byte_bpe", vocab_size=290).save(folder)
    return read_vocab(folder / "tokenizer.json")


def with_vocab(case, vocab, texts_per_row, max_sequence_length=12):
    """The Classifier of a case, with a network for another vocabulary."""
    classifier = make_case(case, vocab_size=len(vocab))
    tokenizer = LibraryTokenizer(vocab)
    layout = Layout(num_between=tokenizer.num_between)
    features = TextFeatures(tokenizer, texts_per_row, max_sequence_length, layout)
    data = classifier.params.predict_input
    data = data.model_copy(update={"max_sequence_length": max_sequence_length})
    params = classifier.params.model_copy(update={"predict_input": data})
    return replace(classifier, vocab=vocab, text_features=features, params=params)


def test_pairs_of_a_byte_level_vocabulary_are_rows_as_in_training(byte_bpe, tmp_path):
    pairs = [("never once dull", "it was"), ("dull </s>", "Caf\u00e9"), ("", "time")]
    classifier = with_vocab("roberta classification", byte_bpe, 2, max_sequence_length=17)
    folder, _ = export("keras_source", classifier, tmp_path / "out")
    module = opened(folder)
    features = module.encode(module.load_tokenizer(), pairs)
    expected = classifier.text_features(tf.constant(pairs))
    np.testing.assert_array_equal(features["input_ids"], expected["input_ids"])
    np.testing.assert_array_equal(features["padding_mask"], 1 - expected["input_mask"])
    assert features["input_ids"].max() > 261 and (features["input_ids"] == 1).any()  # padded
    assert "segment_ids" not in features


def test_words_of_a_byte_level_vocabulary_have_a_blank_before_the_first(byte_bpe, tmp_path):
    classifier = with_vocab("roberta token_classification", byte_bpe, 1)
    folder, _ = export("keras_source", classifier, tmp_path / "out")
    module = opened(folder)
    ids = module.encode(module.load_tokenizer(), ["once dull"])["input_ids"][0].tolist()
    blank = classifier.text_features.tokenizer.in_sentence(["once", "dull"])
    expected = classifier.text_features(tf.constant([["".join(blank)]]))["input_ids"][0]
    assert ids == expected.numpy().tolist()


def test_the_mask_of_another_vocabulary_is_read_and_stands_in_the_example(byte_bpe, tmp_path):
    classifier = with_vocab("roberta pretraining", byte_bpe, 1)
    folder, _ = export("keras_source", classifier, tmp_path / "out")
    assert 'python model.py "the film was <mask> ."' in (folder / "model.py").read_text("utf-8")
    module = opened(folder)
    ids = module.encode(module.load_tokenizer(), ["never <mask> dull"])["input_ids"][0].tolist()
    assert ids.count(byte_bpe.index("<mask>")) == 1


def test_the_network_computes_in_16_bits_too(written, loaded):
    case, features = "modernbert classification", random_features(3, 7)
    expected = np.asarray(loaded(case)[1](features))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        outputs = opened(written[case][1] / "keras").load()(features)
    finally:
        keras.config.set_dtype_policy("float32")
    assert outputs.dtype == "bfloat16"
    np.testing.assert_allclose(np.asarray(outputs, np.float32), expected, rtol=0, atol=0.1)
