# SPDX-License-Identifier: Apache-2.0
"""`.neural` files: what the samples mean, and what is refused, with its line."""

import re
import subprocess
import sys

import pytest

import run
from common.errors import UserError
from extras.neural.description import read_neural
from tests.reference.small_neural import NAMES, SAMPLES, text_of
from utils import get_params

# The numbers of the papers: Devlin et al. 2019, section 3; Sanh et al. 2019, section 3 (half of the
# layers); Lan et al. 2020, table 1.
BERT_BASE = {
    "backbone": None,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_heads": 12,
    "filter_size": 3072,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "embedding_size": None,
    "encoder_nonlinearity": "gelu",
    "layer_norm_epsilon": 1e-12,
    "dropout_rate": 0.1,
    "attention_dropout_rate": 0.1,
    "disable_nsp": True,
}
OF_CHECKPOINT = {"max_position_embeddings": None, "disable_nsp": False}
MEANT = {
    "bert_encoder": ("pretraining", {"mlm_nonlinearity": "gelu"}),
    "distilbert_encoder": ("pretraining", {"num_hidden_layers": 6}),
    "roberta_encoder": ("pretraining", {"vocab_size": 50265}),
    "albert_encoder": (
        "pretraining",
        {"backbone": "albert", "vocab_size": 30000, "embedding_size": 128},
    ),
    "bert_classifier": (
        "classification",
        OF_CHECKPOINT | {"pooler_type": "mean", "cls_dropout_rate": 0.1, "num_cls_classes": 2},
    ),
    "bert_ner": (
        "token_classification",
        OF_CHECKPOINT | {"encoder_output_dropout_rate": 0.1, "num_cls_classes": 9},
    ),
}
# Flags that name the data, as a user gives them.
DATA = {
    "pretraining": {"train_input.train_documents": ["mine.txt"]},
    "classification": {"*_input.train_file": "mine.csv"},
    "token_classification": {"*_input.train_file": "mine.conll", "eval_input.eval_file": "m.conll"},
}


def params_of(path, **flags):
    task = get_params(path, {"runconfig.mode": "eval"}).task
    return get_params(path, {"runconfig.mode": "train", **DATA[task], **flags})


@pytest.fixture
def read(tmp_path):
    """A function that reads a text as a file: values, lines, notes."""

    def read(text):
        (tmp_path / "x.neural").write_text(text, "utf-8")
        return read_neural(str(tmp_path / "x.neural"))

    return read


# ---- What the samples mean -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_the_network_of_its_paper(name):
    params = params_of(SAMPLES / f"{name}.neural")
    task, differing = MEANT[name]
    assert params.task == task
    assert {key: getattr(params.model, key) for key in BERT_BASE | differing} == (
        BERT_BASE | differing
    )
    assert params.train_input.max_sequence_length == 512


def test_the_first_sample_says_how_it_is_trained():
    params = params_of(SAMPLES / "bert_encoder.neural")
    optimizer, run_params, rows = params.optimizer, params.runconfig, params.train_input
    assert (optimizer.optimizer_type, optimizer.learning_rate) == ("adam", 1e-4)
    assert (optimizer.beta1, optimizer.beta2, optimizer.epsilon) == (0.9, 0.999, 1e-6)
    assert (run_params.num_epochs, rows.batch_size, rows.eval_fraction) == (40, 32, 0.05)
    assert rows.sentence_pairs == "none" and run_params.checkpoint_path is None


def test_weights_are_the_checkpoint_and_a_flag_comes_first():
    path = SAMPLES / "bert_ner.neural"
    assert params_of(path).runconfig.checkpoint_path == "pretrained_bert.h5"
    flag = {"runconfig.checkpoint_path": "mine"}
    assert params_of(path, **flag).runconfig.checkpoint_path == "mine"


@pytest.mark.parametrize("name", NAMES)
def test_the_params_of_a_sample_are_written_as_yaml_and_read_again(name, tmp_path):
    params = params_of(SAMPLES / f"{name}.neural")
    (tmp_path / "params.yaml").write_text(params.to_yaml(), "utf-8")
    assert get_params(tmp_path / "params.yaml") == params


def test_a_macro_is_what_its_layers_are(read):
    """The layers of two small networks, one of them written without a macro."""
    layers = """
    MultiHeadAttention(num_heads=2, d_model=8, dropout=0.2)
    Dropout(0.1) Add() LayerNormalization(1e-6)
    Dense(16, "relu")
    Dense(8) Dropout(0.1) Add() LayerNormalization(1e-6)
    """
    macro = layers.replace("num_heads=2", "num_heads=$n").replace("Dense(8)", "Dense($d)")
    inner = "define Inner(n, d) {" + macro + "}\n define Outer(d) { Inner(2, $d) }\n"
    network = "network N { input: (9,) layers: Embedding(30, 8) %s }"
    values, _, notes = read(inner + network % "Outer(d=8) Inner(d=8, n=2)")
    assert values == read(network % (layers + layers))[0]
    assert values["model"]["num_hidden_layers"] == 2 and len(notes) == 1
    assert values["model"]["attention_dropout_rate"] == 0.2


@pytest.mark.parametrize(
    ("pooler", "last", "loss", "expected"),
    [
        ("FirstToken", 'Output(2, "softmax")', "sparse_categorical_crossentropy",
         ("first", "classification", 2)),
        ("GlobalMaxPooling1D", 'Dense(3, "sigmoid")', "binary_crossentropy",
         ("max", "multi_label", 3)),
        ("GlobalAveragePooling1D", "Output(1)", "mean_squared_error", ("mean", "regression", 1)),
        ("FirstToken", 'Dense(2) Activation("sigmoid")', "binary_crossentropy",
         ("first", "multi_label", 2)),
    ],
)  # fmt: skip
def test_the_last_activation_decides_the_task_of_a_row(read, pooler, last, loss, expected):
    text = text_of("bert_classifier").replace("GlobalAveragePooling1D", pooler)
    text = text.replace('Output(units=2, activation="softmax")', last)
    values = read(text.replace('"sparse_categorical_crossentropy"', f'"{loss}"'))[0]
    model = values["model"]
    found = model["pooler_type"], values["train_input"]["task"], model["num_cls_classes"]
    assert found == expected


def test_what_is_computed_otherwise_is_told(read):
    notes = read(text_of("roberta_encoder"))[2]
    told = [note.partition("x.neural: ")[2] for note in notes]
    lines = text_of("roberta_encoder").splitlines()
    assert told == [
        f"line {lines.index('  Dropout(rate=$dropout)') + 1}: Dropout is left out: BERT has none "
        "there",
        f"line {len(lines)}: no head is given; it gets one of masked words",
    ]


# {the text of a line: the keys that it says}; of a value in a macro's brackets the first use.
LINES = {
    "input: (512,)  # tokens of the longest row": (
        *("train_input.max_sequence_length", "model.max_position_embeddings"),
    ),
    "Embedding(input_dim=30522, output_dim=768, mask_zero=True)": (
        *("model.vocab_size", "model.hidden_size"),
    ),
    "LayerNormalization(epsilon=1e-12)": ("model.layer_norm_epsilon",),
    "Dropout(rate=0.1)": ("model.dropout_rate",),
    "BertLayer(num_heads=12, d_model=768, d_ff=3072, dropout=0.1)": (
        *("model.num_hidden_layers", "model.num_heads", "model.filter_size"),
        "model.attention_dropout_rate",
    ),
    'Dense(units=$d_ff, activation="gelu")': ("model.encoder_nonlinearity",),
    'Dense(units=768, activation="gelu")': (
        *("model.mlm_nonlinearity", "model.disable_nsp", "train_input.data_processor"),
    ),
    "optimizer: Adam(learning_rate=0.0001, beta_1=0.9, beta_2=0.999, epsilon=1e-6)": (
        *("optimizer.learning_rate", "optimizer.beta1", "optimizer.beta2", "optimizer.epsilon"),
    ),
    "epochs: 40": ("runconfig.num_epochs",),
    "batch_size: 32": ("train_input.batch_size",),
    "validation_split: 0.05": ("train_input.eval_fraction",),
}


def test_lines_are_those_of_the_file(read):
    lines, text = read(text_of("bert_encoder"))[1], text_of("bert_encoder").splitlines()
    found = {".".join(key): text[line - 1].strip() for key, line in lines.items() if len(key) == 2}
    assert found == {key: text for text, keys in LINES.items() for key in keys}


# ---- What is refused -----------------------------------------------------------------------------

ENCODER, CLASSIFIER, ALBERT = "bert_encoder", "bert_classifier", "albert_encoder"
USE = "BertLayer(num_heads=12, d_model=768, d_ff=3072, dropout=0.1)"
# (sample, what stands there, what is written in its place, the text of the line to name, words).
BROKEN = [
    # The language
    (ENCODER, "input: (512,)", "input: (512,", "  layers:", r"found 'layers'; expected .*`\)`"),
    (ENCODER, '"gelu"', '"gelu', '"gelu)', r'"gelu\) has no end; expected "$'),
    (ENCODER, '"accuracy"', "'accuracy", "'accuracy]", r"'accuracy\] has no end; expected '$"),
    (ENCODER, "units=30522", "units=num_words", "num_words",
     "'num_words' behind 'Dense.units='; .*a num"),
    (ENCODER, "  loss:", "  losses:", "  losses:", "found ':' behind 'losses'; expected"),
    (ENCODER, "network Bert", "x" * 9999 + "\nnetwork Bert", "xx", "found 'x{40}'; expected"),
    (ENCODER, "network Bert", "netwrk Bert", "netwrk", "found 'netwrk'; expected .*`network`"),
    (ENCODER, "  loss:", "  input: (3,)\n  loss:", "input: (3,)", "is on line 20, too"),
    (ENCODER, "network Bert", "network A { }\nnetwork Bert", "network BertE", "2 networks; .* one"),
    # Macros
    (ENCODER, "$d_ff", "$dff", "$dff", r"BertLayer has no \$dff; .* or \$d_ff or "),
    (ENCODER, ", d_ff=3072", "", "d_model=768, dropout=0.1)",
     "BertLayer has no d_ff; expected a value for it$"),
    (ENCODER, "num_heads=12, d_model=768", "d_ff=8", "r(d_ff=8", "argument d_ff is given twice"),
    (ENCODER, "define BertLayer(num_heads", "define BertLayer(dropout, num_heads", "define Bert",
     "BertLayer has the parameter dropout twice; expected it once"),
    (ENCODER, USE, USE.replace("d_ff", "dff"), "dff=3072", "dff is none of BertLayer; .*d_ff"),
    (ENCODER, "Add()", "BertLayer(1, 1, 1, 1)", "BertLayer(1, 1", "BertLayer uses itself"),
    (ENCODER, "network Bert", "define BertLayer() { Add() }\nnetwork Bert", "define BertLayer() {",
     "BertLayer is defined on line 4, too; expected another name"),
    # Layers
    (ENCODER, USE, USE.replace("r(", "("), "BertLaye(", "BertLaye is neither a layer nor defined"),
    (ENCODER, "mask_zero=True", "mask=True", "mask=True", "argument mask is none of Embedding"),
    (ENCODER, "mask_zero=True", "mask_zero=False", "mask_zero=False", "is False; expected True"),
    (ENCODER, "30522, o", '"30522", o', '"30522"', "input_dim .* is '30522'; expected a whole"),
    (ENCODER, "  Add()\n", "", "  LayerNormalization(epsilon=1e-12)",
     "found LayerNormalization; expected Add in a layer"),
    (ENCODER, USE, USE.replace("12", "8"), USE, "num_heads .* is 12, but line 27 has 8; .* same"),
    (ENCODER, "output_dim=768", "output_dim=512", USE, "d_model .* is 768, but line 23 has 512"),
    (ENCODER, "units=30522", "units=30000", "units=30000", "is 30000, but line 23 has 30522"),
    (ENCODER, '    Activation("softmax")\n', "", 'units=30522, activation="linear"',
     "activation of Dense is 'linear'; expected 'softmax'"),
    (ALBERT, "output_dim=128", "output_dim=768", '    Dense(units=768, activation="linear")',
     "Dense is as wide as Embedding; expected another width"),
    (CLASSIFIER, '"tanh"', '"relu"', '"relu"', "activation of Dense is 'relu'; expected 'tanh'"),
    (CLASSIFIER, "GlobalAverage", "Global", "GlobalPooling1D", "GlobalPooling1D is neither a lay"),
    (CLASSIFIER, "    GlobalAveragePooling1D()\n", "    Add()\n", "    Add()",
     "found Add; expected another layer, or a head: FirstToken"),
    (CLASSIFIER, '"softmax")', '"softmax") Add()', ") Add()", "found Add; expected the end of the"),
    # Figures, optimizer, training
    (ENCODER, '"sparse_categorical_crossentropy"', '"mse"', '"mse"', "loss has 'mse'; .* expected"),
    (ENCODER, '"accuracy"', '"bleu"', '"bleu"', "metrics has 'bleu'; .* expected 'accuracy'"),
    (ENCODER, "Adam(", "Adagrad(", "Adagrad(", "optimizer is Adagrad; expected Adam or AdamW or"),
    (ENCODER, "learning_rate=0.0001, ", "", "Adam(", "Adam has no learning_rate; expected a numb"),
    (ENCODER, "epochs: 40", "epoch: 40", "epoch: 40", "argument epoch is none of train; .*epochs"),
    (ENCODER, "(512,)", "(512, 768)", "(512, 768)", r"input is \(512, 768\); expected tokens, as"),
    (ENCODER, "input: (512,)", "", "network BertEncoder", "input is None; expected tokens, as"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "line", "words"), BROKEN)
def test_a_broken_file_is_refused_with_its_line(read, name, old, new, line, words):
    text = text_of(name)
    assert old in text
    text = text.replace(old, new, 1)
    number = text[: text.index(line)].count("\n") + 1
    with pytest.raises(UserError, match=rf"x\.neural: line {number}\b.*{words}"):
        read(text)


@pytest.mark.parametrize(
    "changes",
    [
        {'"gelu"': '"gelo"', "0.05": "1.5", "0.0001": "-1", "batch_size: 32": "batch_size: 3.5"},
        {"num_heads=12": "num_heads=7"},
    ],
)
def test_what_the_schema_refuses_has_the_lines_of_the_file(tmp_path, changes):
    """All of it together."""
    text, path = text_of(ENCODER), tmp_path / "x.neural"
    for old, new in changes.items():
        text = text.replace(old, new)
    path.write_text(text, "utf-8")
    with pytest.raises(UserError) as refused:
        get_params(path, {"runconfig.mode": "train", **DATA["pretraining"]})
    numbers = re.findall(r"^  line (\d+): ", str(refused.value), re.MULTILINE)
    found = " ".join(text.splitlines()[int(number) - 1] for number in numbers)
    assert all(new in found for new in changes.values()), refused.value


def test_macros_that_multiply_are_refused_before_they_fill_the_memory(read):
    macros = "define M0() { Add() }\n"
    macros += "".join(f"define M{n + 1}() {{ {f'M{n}() ' * 10} }}\n" for n in range(12))
    with pytest.raises(UserError, match="line 15: more than 10,000 layers; expected fewer"):
        read(macros + "\nnetwork N { input: (8,) layers: M12() }")


def test_layers_that_share_are_of_one_macro(read):
    text = text_of(ALBERT)
    other = text[text.index("define") : text.index("network")].replace("SharedBert", "Bert")
    head, use, rest = text.partition("    SharedBertLayer(")
    with pytest.raises(UserError, match="layers of BertLayer and SharedBertLayer; expected those"):
        read(head.replace("network", f"{other}network") + use.replace("SharedB", "B") + rest)


def test_a_refusal_ends_the_program_with_code_2_and_no_traceback(tmp_path, capsys):
    path = tmp_path / "x.neural"
    path.write_text(text_of(ENCODER).replace("Adam(", "Adagrad("), "utf-8")
    assert run.main(["--mode", "train", "--params", str(path)]) == 2
    printed = capsys.readouterr().err
    assert "line 47: optimizer is Adagrad" in printed and "Traceback" not in printed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "define M() { }\nnetwork N { layers: M() }",
            "line 1: found '}' behind 'define M.. {'; expected a name",
        ),
        (f"network N {{ metrics: {'[' * 20_000}{']' * 20_000} }}", "nested too deep to read$"),
        (f"network N {{ input: ({'9' * 5000},) layers: Add() }}", "line 1: .*expected"),
    ],
)
def test_texts_that_would_take_for_ever_or_too_deep_are_refused(read, text, words):
    with pytest.raises(UserError, match=rf"x\.neural: .*{words}"):
        read(text)


def test_the_mark_that_windows_puts_before_a_text_is_left_out(tmp_path):
    text = (SAMPLES / "bert_encoder.neural").read_text("utf-8")
    (tmp_path / "x.neural").write_text(text, "utf-8-sig")
    assert params_of(tmp_path / "x.neural") == params_of(SAMPLES / "bert_encoder.neural")


def test_a_file_that_is_not_there_is_refused_and_a_folder_of_its_name(tmp_path):
    (tmp_path / "yes.neural").mkdir()
    (tmp_path / "no.yaml").touch()
    with pytest.raises(UserError, match=r"no\.neural: no such file; there is .*yes\.neural$"):
        get_params(tmp_path / "no.neural")
    with pytest.raises(UserError, match=r"yes\.neural: a folder; give a \.neural file, such as"):
        get_params(tmp_path / "yes.neural")


def test_all_of_it_has_600_lines_at_most():
    files = SAMPLES.parent.glob("*.py")
    assert 500 < sum(len(file.read_text("utf-8").splitlines()) for file in files) <= 600


def test_without_lark_a_sentence_says_what_to_install():
    """In a process of its own, in which the package cannot be imported."""
    code = "import sys; sys.modules['lark'] = None; import run; sys.exit(run.main(sys.argv[1:]))"
    flags = ["--mode", "train", "--params", str(SAMPLES / "bert_ner.neural")]
    done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True)
    assert done.returncode == 2 and "pip install lark" in done.stderr
