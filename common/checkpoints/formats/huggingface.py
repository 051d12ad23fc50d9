# SPDX-License-Identifier: Apache-2.0
"""Hugging Face checkpoints: a folder that transformers saved, or a file of weights.

Weights are in `model.safetensors`, in several such files with an index, or in `pytorch_model.bin`
(see `torch_bin.py`). Their names, and the keys of config.json, stand in
`common/checkpoints/huggingface_families.py`. The folder that is written is for AutoTokenizer and
the class of transformers that the task's Answer names.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from common.checkpoints import tokenizer_json
from common.checkpoints.containers import safetensors, torch_bin
from common.checkpoints.huggingface_families import (
    HUGGINGFACE_FAMILIES,
    OTHER_NAMES,
    WORDS,
    family_of_names,
    family_of_type,
)
from common.checkpoints.names import (
    StoredTensor,
    axes_of,
    foreign_in,
    num_outputs,
    pattern_of,
    weights_of,
)
from common.checkpoints.small_files import (
    check_value,
    network_config,
    read_json,
    thresholds_of,
    write_json,
)
from common.checkpoints.standard_bert import (
    read_network,
    refuse_other_heads,
    refuse_other_networks,
    with_every_weight,
    write_sizes,
)
from common.checkpoints.vocab import pad_token, read_vocab, write_vocab
from common.console import counted
from common.errors import UserError
from common.params.families import BERT, FAMILIES
from common.params.pretraining import REPLACED_TOKENS
from common.params.pretraining import TASK as PRETRAINING

WEIGHTS_FILE = "model.safetensors"
# The first of these in a folder is read.
WEIGHTS_FILES = (
    WEIGHTS_FILE,
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

SPIECE = "spiece.model"  # of ALBERT, which is uncased
OTHER_VOCABS = (tokenizer_json.VOCAB_JSON, SPIECE)  # where there is no tokenizer.json

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
    family = family_of(weights_file, [tensor.name for tensor in list_tensors(path)])
    words = family.foreign_names()[WORDS].replace(family.prefix, f"[{family.prefix}]")
    config, config_json = network_config(
        "huggingface",
        weights_file,
        weights,
        words,
        "config.json",
        from_config_json,
        FAMILIES[family.model_type].shares_layers,
    )
    config["backbone"] = family.model_type
    if config_json is not None:
        config |= label_names(config_json, num_outputs(weights, "classifier"))
        config |= task_of(config_json) | thresholds_of(config_json)
    return config | tokenizer_of(weights_file.parent, config["vocab_file"], config_json or {})


def tokenizer_of(folder, vocab_file, config_json):
    """vocab_file, do_lower_case and notes of `read_config`. vocab_file: the vocab.txt, or None."""
    file = folder / tokenizer_json.NAME
    has_others = any((folder / name).is_file() for name in OTHER_VOCABS)
    if (vocab_file is None and has_others) or (
        vocab_file == str(file) and tokenizer_json.needs_library(file)
    ):
        return library_tokenizer_of(folder)
    normalization, added = {}, list(read_json(folder / "added_tokens.json") or {})
    if file.is_file():
        vocab_file = vocab_file or str(file)
        check_same_ids(file, vocab_file)
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
            f"tokenizer: {counted(len(added), 'token')} added to its vocabulary ({shown}); here a "
            "text that holds such a token is split like any other, at spaces and punctuation, and "
            "its embedding is not used"
        )
    splits = settings.get("tokenize_chinese_chars")
    if normalization.get("handle_chinese_chars", splits) is False:
        notes.append("tokenizer: trained without splitting Chinese characters; here each is a word")
    return {"vocab_file": vocab_file, "do_lower_case": lowers, "notes": notes}


def check_same_ids(file, vocab_file):
    """Raises UserError where a tokenizer.json gives an id to another entry than the vocab.txt.

    file: Path of the tokenizer.json. vocab_file: str, of either.
    """
    if vocab_file == str(file):
        return
    entries = read_vocab(vocab_file)
    for entry, i in tokenizer_json.read_ids(file).items():
        # The end of a line of vocab.txt is no part of the entry.
        if type(i) is int and i < len(entries) and entries[i].rstrip() != entry.rstrip():
            raise UserError(
                f"{vocab_file} has {entries[i]!r:.40} as token {i}, but {file.name} beside it has "
                f"{entry!r:.40}; the two do not belong together, keep the one of this model"
            )


def library_tokenizer_of(folder):
    """What `tokenizer_of` returns, where the vocabulary is not one of WordPiece."""
    names = (tokenizer_json.NAME, *OTHER_VOCABS)
    file = next(folder / name for name in names if (folder / name).is_file())
    lowers = file.name == SPIECE
    if file.name == tokenizer_json.NAME:
        lowers = bool(tokenizer_json.read_normalization(file).get("lowercase", False))
    return {"vocab_file": str(file), "do_lower_case": lowers, "notes": []}


DEFAULT_LABELS = {"0": "LABEL_0", "1": "LABEL_1"}


def label_names(config_json, count):
    """{"label_names": tuple of str} of a config.json; {} if it does not name `count` classes."""
    names = config_json.get("id2label", DEFAULT_LABELS)  # which transformers does not write
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
HEADS = {
    "TokenClassification": "token_classification",
    "QuestionAnswering": "question_answering",
}
OTHER_HEADS = {
    "MultipleChoice": "multiple choice",
}


def task_of(config_json):
    """{"task": what the head of a config.json was trained for}; {} if it does not say."""
    architectures = config_json.get("architectures")
    for name in architectures if isinstance(architectures, list) else ():
        head = str(name).rpartition("For")[2]
        if head in HEADS:
            return {"task": HEADS[head]}
        if head in OTHER_HEADS:
            return {"task": f"{OTHER_HEADS[head]} ({name})"}
    task = TASKS.get(str(config_json.get("problem_type")))
    return {} if task is None else {"task": task}


def from_config_json(config_json, source):
    """The part of `read_config` from config.json. config_json: dict; source: its path."""
    model_type = config_json.get("model_type", BERT)
    row = family_of_type(model_type)
    if row is None:
        raise UserError(
            f"{source}: model_type is {model_type!r:.80}; those that can be loaded are "
            f"{', '.join([*HUGGINGFACE_FAMILIES, *OTHER_NAMES])}"
        )
    first, pad_id = FAMILIES[row.model_type].first_position, config_json.get("pad_token_id")
    if first and pad_id not in (None, first - 1):
        raise UserError(
            f"{source}: pad_token_id is {pad_id!r:.80}, from which {model_type} numbers its "
            f"positions; only {first - 1} can be loaded"
        )
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
    for key, wanted in row.only.items():
        if config_json.get(key, wanted) != wanted:
            raise UserError(
                f"{source}: {key} is {config_json[key]!r:.80}; only {wanted!r} can be loaded"
            )
    if row.poolings:
        config_json = with_older_keys(config_json, source)
    keys = row.config_keys, row.activation_key, row.activation
    config = read_network(config_json, source, "gelu_erf", *keys)
    epsilon = DEFAULT_LAYER_NORM_EPS
    if row.epsilon_key is not None:
        epsilon = config_json.get(row.epsilon_key, epsilon)
        epsilon = check_value(epsilon, "layer_norm_epsilon", source, row.epsilon_key)
    config["layer_norm_epsilon"] = epsilon
    pooling = config_json.get("classifier_pooling")
    if row.poolings and pooling is not None:
        if not isinstance(pooling, str) or pooling not in row.poolings:
            raise UserError(
                f"{source}: classifier_pooling is {pooling!r:.80}; {', '.join(row.poolings)} can "
                "be loaded"
            )
        config["pooler_type"] = row.poolings[pooling]
    return config


# What transformers 5 writes for each kind of layer -> the key of the hub's files.
LAYER_TYPES = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}


def with_older_keys(config_json, source):
    """A config.json of ModernBERT with the keys of the hub's files, of which transformers 5 writes
    others. Raises UserError where its layers follow no rule that a file of the hub could say."""
    config_json, rope = dict(config_json), config_json.get("rope_parameters")
    for kind, key in LAYER_TYPES.items():
        of_kind = rope.get(kind) if isinstance(rope, dict) else None
        if isinstance(of_kind, dict):
            kind_of_rope = of_kind.get("rope_type", "default")
            if kind_of_rope != "default":
                raise UserError(
                    f"{source}: rope_type is {kind_of_rope!r:.80}; only 'default' can be loaded"
                )
            config_json.setdefault(key, of_kind.get("rope_theta"))
    types, every = config_json.get("layer_types"), config_json.get("global_attn_every_n_layers")
    if isinstance(types, list):
        is_global = [kind == "full_attention" for kind in types]
        every = every or next((i for i, each in enumerate(is_global) if i and each), len(types))
        if type(every) is not int or is_global != [i % every == 0 for i in range(len(types))]:
            raise UserError(
                f"{source}: layer_types are global in another order than one of every {every} "
                "from the first on, which is all that can be loaded"
            )
        config_json["global_attn_every_n_layers"] = every
    return config_json


def read_weights(path):
    return weights_of(find_weights_file(path), list_tensors(path))


def list_tensors(path):
    """In the order of the files. Raises UserError also for a file of this project's format."""
    path = find_weights_file(path)
    is_index = path.name.endswith(".index.json")
    files, stored = shards_of(path) if is_index else [path], []
    for file in files:
        is_safe = file.name.endswith(".safetensors")
        stored += (safetensors if is_safe else torch_bin).read(file)
        if is_safe and any(axes_of(name) for name, *_ in stored):
            raise UserError(
                f"{path} has the names of this project's own checkpoints; "
                "give the checkpoint-<step> folder with the file"
            )
    names = [name for name, *_ in stored]
    family, tensors = family_of(path, names), []
    if is_index:
        check_shards(path, names, family)
    has_words = any(name == family.mlm_biases[0] for name, *_ in stored)
    for name, shape, dtype, read in stored:
        parts = family.neutral_parts(name)
        if parts and len(shape) == 2 and shape[0] % len(parts) == 0:
            tensors += parts_of_fused(name, shape, dtype, read, parts)
            continue
        weights = [family.neutral_name(name)]
        if has_words and name in family.shared:
            weights.append(family.shared[name])
        for weight in weights:
            is_kernel = weight is not None and weight.endswith("/kernel")
            tensors.append(StoredTensor(name, shape, dtype, read, weight, is_transposed=is_kernel))
    return with_used_bias(tensors, *family.mlm_biases)


def parts_of_fused(name, shape, dtype, read, parts):
    """StoredTensors of the kernels that lie one below the other in a tensor: list."""
    rows = shape[0] // len(parts)
    return [
        StoredTensor(
            f"{name}[{i * rows}:{(i + 1) * rows}]",
            (rows, shape[1]),
            dtype,
            lambda first=i * rows: read()[first : first + rows],
            part,
            is_transposed=True,
        )
        for i, part in enumerate(parts)
    ]


def family_of(weights_file, names):
    """The HuggingFaceFamily that config.json says, or else the names of tensors."""
    config = read_json(Path(weights_file).parent / "config.json") or {}
    return family_of_type(config.get("model_type")) or family_of_names(names)


def with_used_bias(tensors, bias, decoder_bias):
    """The tensors, of which one is the bias of masked words: of the two, transformers adds that of
    the decoder, which is the same unless tie_word_embeddings is false."""
    if not any(tensor.name == decoder_bias for tensor in tensors):
        return tensors
    names = {decoder_bias: "mlm/output_bias", bias: None}
    return [replace(each, weight=names.get(each.name, each.weight)) for each in tensors]


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


def check_shards(index, names, family):
    """Raises UserError where an index names a weight that its files lack, which would be fresh.

    index: Path. names: list of str, of the tensors of its files. family: HuggingFaceFamily.
    """
    names = set(names)
    for name, file in sorted(read_json(index)["weight_map"].items()):
        is_known = family.neutral_name(name) or family.neutral_parts(name)
        if name not in names and is_known:
            raise UserError(
                f"{index} names {name!r:.80} of {file}, which has no such tensor; the files do not "
                "belong together, copy all of them from one place"
            )


def find_weights_file(path):
    """The file of weights, or the index of shards, of a path."""
    path = Path(path)
    if not path.is_dir():
        return path
    names = [name for name in WEIGHTS_FILES if (path / name).is_file()]
    return path / (names or WEIGHTS_FILES)[0]


# ---- Writing -------------------------------------------------------------------------------------

HIDDEN_ACT = {"gelu_erf": "gelu", "gelu_tanh": "gelu_new"}  # others have our names


def check(params, quantize):
    cfg, program = params.model, f"Hugging Face's {params.model.family.title}"
    row = HUGGINGFACE_FAMILIES[cfg.backbone or BERT]
    refuse_other_networks(cfg, program, tuple(row.poolings.values()))
    if cfg.pretraining_objective == REPLACED_TOKENS:
        if cfg.backbone != "electra":
            raise UserError(f"{program} has no head of replaced tokens, as ELECTRA's has")
    elif params.task == PRETRAINING:
        refuse_other_heads(cfg, program)
    if row.epsilon_key is None and cfg.layer_norm_epsilon != DEFAULT_LAYER_NORM_EPS:
        raise UserError(
            f"model.layer_norm_epsilon is {cfg.layer_norm_epsilon:g}, and {program} always has "
            f"{DEFAULT_LAYER_NORM_EPS:g}. Export it as saved_model or onnx"
        )


def write(classifier, folder):
    """Writes model.safetensors, config.json, vocab.txt and tokenizer_config.json."""
    cfg = classifier.params.model
    family = HUGGINGFACE_FAMILIES[cfg.backbone or BERT]
    weights = with_every_weight(classifier.weights, cfg, set(family.names.values()))
    if "pooler" not in classifier.model.head:
        weights = {n: each for n, each in weights.items() if not n.startswith("pooler/")}
    # transformers requires this entry.
    save_file(
        huggingface_tensors(weights, family), folder / WEIGHTS_FILE, metadata={"format": "pt"}
    )
    write_json(folder / "config.json", config_of(classifier))
    write_vocab(folder, classifier.vocab)
    write_json(folder / "tokenizer_config.json", tokenizer_config_of(classifier))
    if classifier.params.predict_input.add_special_tokens:
        return []
    return [
        "the network was trained on rows without special tokens, which transformers' tokenizer "
        "adds unless it is called with add_special_tokens=False"
    ]


def huggingface_tensors(weights, family=HUGGINGFACE_FAMILIES[BERT]):
    """{transformers' name: array} of {neutral name: array}; kernels become [out, in]."""
    names = family.foreign_names("pooler/kernel" in weights)
    of_fused = {part for parts in family.fused.values() for part in parts}
    tensors = {
        foreign_in(names, name): np.ascontiguousarray(
            np.asarray(weight).T if name.endswith("/kernel") else weight
        )
        for name, weight in weights.items()
        if pattern_of(name)[0] not in of_fused
    }
    for foreign, parts in family.fused.items():
        number = 0
        while parts[0].replace("{i}", str(number)) in weights:
            of_layer = (weights[part.replace("{i}", str(number))] for part in parts)
            fused = np.concatenate([np.asarray(each).T for each in of_layer])
            # safetensors writes memory as it lies, and that of transposed parts lies in columns.
            tensors[foreign.replace("{i}", str(number))] = np.ascontiguousarray(fused)
            number += 1
    bias, decoder_bias = family.mlm_biases
    if decoder_bias and "mlm/output_embeddings" in weights:
        # Not tied: neither is the bias, and this one is used.
        tensors[decoder_bias] = tensors[bias].copy()
    return tensors


def config_of(classifier):
    """The contents of config.json: dict."""
    cfg, answer = classifier.params.model, classifier.answer
    labels, facts = classifier.label_names, classifier.model.checkpoint_config()
    labels = {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}}
    row = HUGGINGFACE_FAMILIES[cfg.backbone or BERT]
    activation = HIDDEN_ACT.get(cfg.encoder_nonlinearity, cfg.encoder_nonlinearity)
    rates = cfg.dropout_rate, cfg.attention_dropout_rate, classifier.model.head_dropout_rate
    poolings = {ours: theirs for theirs, ours in row.poolings.items()}
    epsilon = {} if row.epsilon_key is None else {row.epsilon_key: cfg.layer_norm_epsilon}
    return {
        "architectures": [row.architecture(answer.architecture)],
        "model_type": row.model_type,
        **write_sizes(cfg, row.config_keys),
        **row.config,
        row.activation_key: activation,
        **epsilon,
        **{key: rate for keys, rate in zip(row.dropout_keys, rates, strict=True) for key in keys},
        **({"classifier_pooling": poolings[cfg.pooler_type]} if poolings else {}),
        "pad_token_id": classifier.vocab.index(pad_token(classifier.vocab)),
        **(labels if classifier.label_names else {}),
        **({"problem_type": answer.problem_type} if answer.problem_type else {}),
        **({} if cfg.share_embedding_weights else {"tie_word_embeddings": False}),
        # What the task fitted, such as thresholds: `task` and names stand above.
        **{key: value for key, value in facts.items() if key not in ("task", "label_names")},
    }


def tokenizer_config_of(classifier):
    """The contents of tokenizer_config.json: dict."""
    data, cfg = classifier.params.predict_input, classifier.params.model
    config = tokenizer_json.tokenizer_config(classifier.vocab, data.do_lower)
    if not cfg.use_segment_embedding or cfg.family.num_segments == 1:
        config["model_input_names"] = ["input_ids", "attention_mask"]
    return config | {"model_max_length": data.max_sequence_length}


def usage(classifier):
    arguments = ", ".join(f'["{text}"]' for text in classifier.example)
    has_special_tokens = classifier.params.predict_input.add_special_tokens
    bare = "" if has_special_tokens else "add_special_tokens=False, "
    auto_class = classifier.answer.architecture.replace("BertFor", "AutoModelFor")
    return f"""
In this folder, with `pip install transformers torch`:

```python
from transformers import {auto_class}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = {auto_class}.from_pretrained(".")
rows = tokenizer({arguments}, {bare}truncation=True, padding=True, return_tensors="pt")
{classifier.answer.reading["huggingface"]}
```
"""
