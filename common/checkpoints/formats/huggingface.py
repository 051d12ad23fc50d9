# SPDX-License-Identifier: Apache-2.0
"""Hugging Face checkpoints: a folder that transformers saved, or a file of weights.

Weights are in `model.safetensors`, in several such files with an index, or in `pytorch_model.bin`
(see `torch_bin.py`). Maps the names of transformers' BertModel, BertForPreTraining and
BertForSequenceClassification to neutral names and back. The folder that is written is for
AutoModelForSequenceClassification and AutoTokenizer.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from common.checkpoints import tokenizer_json
from common.checkpoints.containers import safetensors, torch_bin
from common.checkpoints.names import (
    StoredTensor,
    axes_of,
    foreign_in,
    names_within,
    neutral_in,
    num_outputs,
    weights_of,
)
from common.checkpoints.small_files import (
    check_value,
    network_config,
    read_json,
    thresholds_of,
    write_json,
    write_vocab,
)
from common.checkpoints.standard_bert import (
    MODULES,
    read_network,
    refuse_other_networks,
    with_every_weight,
    write_sizes,
)
from common.errors import UserError

WEIGHTS_FILE = "model.safetensors"
# The first of these in a folder is read.
WEIGHTS_FILES = (
    WEIGHTS_FILE,
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

NAMES = {
    "bert.embeddings.word_embeddings.weight": "embeddings/word_embeddings",
    "bert.embeddings.position_embeddings.weight": "embeddings/position_embeddings",
    "bert.embeddings.token_type_embeddings.weight": "embeddings/segment_embeddings",
    "cls.predictions.bias": "mlm/output_bias",
} | names_within(
    {name.replace("/layer_", "/layer/").replace("/", "."): ours for name, ours in MODULES.items()}
    | {"classifier": "classifier", "cls.seq_relationship": "nsp"},
    ".",
    ("weight", "bias"),
)

SPECIAL_TOKENS = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}

DEFAULT_LAYER_NORM_EPS = 1e-12  # of a config.json without the key


def is_checkpoint(path):
    file = find_weights_file(path)
    endings = (".safetensors", ".safetensors.index.json", ".bin.index.json")
    return file.is_file() and (
        Path(path).is_dir() or file.name.endswith(endings) or torch_bin.is_torch_file(file)
    )


def read_config(path):
    """The network and tokenizer of a checkpoint, from its text files and the shapes of its weights.

    Args:
        path: str or path-like, for which `is_checkpoint` holds.
    Returns:
        dict: hidden_size, num_hidden_layers, num_heads, filter_size, max_position_embeddings,
        vocab_size (int), encoder_nonlinearity (str), layer_norm_epsilon (float), family (str),
        vocab_file (str), do_lower_case (bool). None where unknown: without config.json num_heads,
        encoder_nonlinearity and layer_norm_epsilon.
    """
    weights_file = find_weights_file(path)
    weights = read_weights(path)
    words = "[bert.]embeddings.word_embeddings.weight"
    config, config_json = network_config(
        "huggingface", weights_file, weights, words, "config.json", from_config_json
    )
    if config_json is not None:
        config |= label_names(config_json, num_outputs(weights, "classifier"))
        config |= task_of(config_json) | thresholds_of(config_json)
    return config | tokenizer_of(weights_file.parent, config["vocab_file"], config_json or {})


def tokenizer_of(folder, vocab_file, config_json):
    """vocab_file, do_lower_case and notes of `read_config`. vocab_file: the vocab.txt, or None."""
    file = folder / tokenizer_json.NAME
    normalization, added = {}, list(read_json(folder / "added_tokens.json") or {})
    if file.is_file():
        vocab_file = vocab_file or str(file)
        normalization = tokenizer_json.read_normalization(file)
        added += tokenizer_json.read_added(file)
    settings = read_json(folder / "tokenizer_config.json") or {}
    candidates = (
        settings.get("do_lower_case"),
        config_json.get("do_lower_case"),
        normalization.get("lowercase"),
    )
    lowers = next((value for value in candidates if isinstance(value, bool)), None)
    notes = []
    strips = normalization.get("strip_accents", settings.get("strip_accents"))
    if None not in (strips, lowers) and strips != lowers:
        notes.append(
            f"tokenizer: trained with strip_accents {str(strips).lower()}; here do_lower: true "
            "removes accents, and false keeps them"
        )
    added = sorted({token for token in added if token not in SPECIAL_TOKENS})
    if added:
        shown = ", ".join(f"{token:.40}" for token in added[:3]) + ", ..." * (len(added) > 3)
        notes.append(
            f"tokenizer: {len(added)} tokens were added to its vocabulary ({shown}); here they are "
            "words like any other, split at spaces and punctuation"
        )
    splits = settings.get("tokenize_chinese_chars")
    if normalization.get("handle_chinese_chars", splits) is False:
        notes.append("tokenizer: trained without splitting Chinese characters; here each is a word")
    return {"vocab_file": vocab_file, "do_lower_case": lowers, "notes": notes}


def label_names(config_json, count):
    """{"label_names": tuple of str} of a config.json; {} if it does not name `count` classes."""
    names = config_json.get("id2label")
    if not isinstance(names, dict) or len(names) != count:
        return {}
    names = [names.get(str(i)) for i in range(len(names))]
    return {"label_names": tuple(names)} if all(isinstance(n, str) for n in names) else {}


# problem_type of transformers, and its classes with a head that answers another question.
TASKS = {
    "single_label_classification": "classification",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}
OTHER_HEADS = {
    "BertForTokenClassification": "token classification",
    "BertForQuestionAnswering": "question answering",
    "BertForMultipleChoice": "multiple choice",
}


def task_of(config_json):
    """{"task": what the head of a config.json was trained for}; {} if it does not say."""
    architectures = config_json.get("architectures")
    for name in architectures if isinstance(architectures, list) else ():
        if str(name) in OTHER_HEADS:
            return {"task": f"{OTHER_HEADS[name]} ({name})"}
    task = TASKS.get(str(config_json.get("problem_type")))
    return {} if task is None else {"task": task}


def from_config_json(config_json, source):
    """The part of `read_config` from config.json. config_json: dict; source: its path."""
    model_type = config_json.get("model_type", "bert")
    if model_type != "bert":
        raise UserError(f"{source}: model_type is {model_type!r}; only 'bert' can be loaded")
    positions = config_json.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise UserError(
            f"{source}: position_embedding_type is {positions!r}; only 'absolute' can be loaded"
        )
    if config_json.get("is_decoder") is True:
        raise UserError(
            f"{source}: is_decoder is true, and a decoder's tokens attend only to earlier ones; "
            "take a model that was trained as an encoder"
        )
    config = read_network(config_json, source, gelu="gelu_erf")
    epsilon = config_json.get("layer_norm_eps", DEFAULT_LAYER_NORM_EPS)
    epsilon = check_value(epsilon, "layer_norm_epsilon", source, "layer_norm_eps")
    return config | {"layer_norm_epsilon": epsilon}


def read_weights(path):
    return weights_of(find_weights_file(path), list_tensors(path))


def list_tensors(path):
    """In the order of the files. Raises UserError also for a file of this project's format."""
    path = find_weights_file(path)
    files = shards_of(path) if path.name.endswith(".index.json") else [path]
    tensors = []
    for file in files:
        is_safe = file.name.endswith(".safetensors")
        for name, shape, dtype, read in (safetensors if is_safe else torch_bin).read(file):
            if is_safe and axes_of(name):
                raise UserError(
                    f"{path} has the names of this project's own checkpoints; "
                    "give the checkpoint-<step> folder with the file"
                )
            weight = neutral_name(name)
            is_kernel = weight is not None and weight.endswith("/kernel")
            tensors.append(StoredTensor(name, shape, dtype, read, weight, is_transposed=is_kernel))
    return tensors


def shards_of(index):
    """The files of an index of shards, sorted by name: list of Path.

    Raises:
        UserError: it is not an index, or names a file outside its folder.
    """
    weight_map = (read_json(index) or {}).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index} has no weight_map of tensors; copy or download it again")
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    folder = index.parent.resolve()
    allowed = [folder]
    if folder.parent.name == "snapshots":  # the hub's cache, where every file is a link
        allowed.append(folder.parent.parent / "blobs")
    files = []
    for name in sorted(set(map(str, weight_map.values()))):
        file = index.parent / name
        if Path(name).name != name or not name.endswith(suffix):
            raise UserError(
                f"{index} names {name!r:.80}, which is no {suffix} file in its own "
                "folder; an index may name only those, download the model again"
            )
        if not file.is_file():
            raise UserError(f"{file} is missing, but {index.name} names it; copy it there")
        if file.resolve().parent not in allowed:
            raise UserError(
                f"{file} is a link to {file.resolve()}, outside its folder; copy the file itself "
                "there if it is to be read"
            )
        files.append(file)
    return files


def neutral_name(name):
    """Neutral name of a tensor of transformers, or None.

    `position_ids`, a constant, has none. `cls.predictions.decoder.*` has none, since it repeats the
    word embeddings and `cls.predictions.bias`.
    """
    # gamma and beta: in files converted from TensorFlow before 2019.
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
    name = name.replace("LayerNorm.beta", "LayerNorm.bias")
    # A BertModel has no prefix, models with a head have it.
    return neutral_in(NAMES, name) or neutral_in(NAMES, f"bert.{name}")


def find_weights_file(path):
    """The file of weights, or the index of shards, of a path."""
    path = Path(path)
    if not path.is_dir():
        return path
    names = [name for name in WEIGHTS_FILES if (path / name).is_file()]
    return path / (names or WEIGHTS_FILES)[0]


# ---- Writing -------------------------------------------------------------------------------------

FOREIGN_NAMES = {weight: name for name, weight in NAMES.items()}
HIDDEN_ACT = {"gelu_erf": "gelu", "gelu_tanh": "gelu_new"}  # others have our names


def check(params, quantize):
    refuse_other_networks(params.model, "Hugging Face's BERT")


def write(classifier, folder):
    """Writes model.safetensors, config.json, vocab.txt and tokenizer_config.json."""
    weights = with_every_weight(classifier.weights, classifier.params.model)
    # transformers requires this entry.
    save_file(huggingface_tensors(weights), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_json(folder / "config.json", config_of(classifier))
    write_vocab(folder, classifier.vocab)
    write_json(folder / "tokenizer_config.json", tokenizer_config_of(classifier))
    if classifier.params.predict_input.add_special_tokens:
        return []
    return [
        "the network was trained on rows without [CLS] and [SEP], which transformers' tokenizer "
        "adds unless it is called with add_special_tokens=False"
    ]


def huggingface_tensors(weights):
    """{transformers' name: array} of {neutral name: array}; kernels become [out, in]."""
    return {
        foreign_in(FOREIGN_NAMES, name): np.ascontiguousarray(
            np.asarray(weight).T if name.endswith("/kernel") else weight
        )
        for name, weight in weights.items()
    }


def config_of(classifier):
    """The contents of config.json: dict."""
    cfg = classifier.params.model
    labels, facts = classifier.label_names, classifier.model.checkpoint_config()
    return {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        **write_sizes(cfg),
        "type_vocab_size": 2,
        "hidden_act": HIDDEN_ACT.get(cfg.encoder_nonlinearity, cfg.encoder_nonlinearity),
        "layer_norm_eps": cfg.layer_norm_epsilon,
        "hidden_dropout_prob": cfg.dropout_rate,
        "attention_probs_dropout_prob": cfg.attention_dropout_rate,
        "classifier_dropout": cfg.cls_dropout_rate,
        "pad_token_id": classifier.vocab.index("[PAD]"),
        "id2label": {str(i): name for i, name in enumerate(labels)},
        "label2id": {name: i for i, name in enumerate(labels)},
        "problem_type": classifier.answer.problem_type,
        **{key: facts[key] for key in ("thresholds",) if key in facts},
    }


def tokenizer_config_of(classifier):
    """The contents of tokenizer_config.json: dict."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *["[MASK]"] * ("[MASK]" in classifier.vocab)]
    data = classifier.params.predict_input
    return {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": data.do_lower,
        "strip_accents": None,  # as do_lower_case
        "tokenize_chinese_chars": True,
        "model_max_length": data.max_sequence_length,
        **{f"{token[1:-1].lower()}_token": token for token in special},
    }


def usage(classifier):
    arguments = ", ".join(f'["{text}"]' for text in classifier.example)
    has_special_tokens = classifier.params.predict_input.add_special_tokens
    bare = "" if has_special_tokens else "add_special_tokens=False, "
    return f"""
In this folder, with `pip install transformers torch`:

```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForSequenceClassification.from_pretrained(".")
rows = tokenizer({arguments}, {bare}truncation=True, padding=True, return_tensors="pt")
{classifier.answer.reading["huggingface"]}
```
"""
