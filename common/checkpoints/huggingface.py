# SPDX-License-Identifier: Apache-2.0
"""Hugging Face checkpoints: a directory with `model.safetensors`, or such a file by itself.

Maps the names of transformers' BertModel, BertForPreTraining and BertForSequenceClassification to
the neutral ones of `names.py`. See `load.py` for what a format has to offer.
"""

import json
import re
from functools import partial
from pathlib import Path

import ml_dtypes  # noqa: F401  (teaches NumPy bfloat16, which safetensors asks it for by name)
import numpy as np
from safetensors import SafetensorError, safe_open

from common.checkpoints.names import LazyTensor, axes_of, geometry
from common.errors import UserError

WEIGHTS_FILE = "model.safetensors"
LOOKS_FOR = f"Hugging Face: a folder with {WEIGHTS_FILE} (and config.json), or a .safetensors file"
MAX_JSON_BYTES = 10_000_000  # a config.json has about 1,000

# Module of transformers -> neutral module. BertModel's own weights follow a prefix "bert." in the
# models that add a head, and no prefix in a BertModel saved by itself.
MODULES = {
    "embeddings.LayerNorm": "embeddings/layer_norm",
    "encoder.layer.{i}.attention.self.query": "encoder/layer_{i}/attention/query",
    "encoder.layer.{i}.attention.self.key": "encoder/layer_{i}/attention/key",
    "encoder.layer.{i}.attention.self.value": "encoder/layer_{i}/attention/value",
    "encoder.layer.{i}.attention.output.dense": "encoder/layer_{i}/attention/output",
    "encoder.layer.{i}.attention.output.LayerNorm": "encoder/layer_{i}/attention_norm",
    "encoder.layer.{i}.intermediate.dense": "encoder/layer_{i}/feed_forward/expand",
    "encoder.layer.{i}.output.dense": "encoder/layer_{i}/feed_forward/project",
    "encoder.layer.{i}.output.LayerNorm": "encoder/layer_{i}/feed_forward_norm",
    "pooler.dense": "pooler",
    "classifier": "classifier",
    "cls.seq_relationship": "nsp",
    "cls.predictions.transform.dense": "mlm/transform",
    "cls.predictions.transform.LayerNorm": "mlm/layer_norm",
}
# Tensors that are neither a kernel nor of a layer norm.
TENSORS = {
    "embeddings.word_embeddings.weight": "embeddings/word_embeddings",
    "embeddings.position_embeddings.weight": "embeddings/position_embeddings",
    "embeddings.token_type_embeddings.weight": "embeddings/segment_embeddings",
    "cls.predictions.bias": "mlm/output_bias",
}
DENSE = {"weight": "kernel", "bias": "bias"}
# gamma and beta: files converted from TensorFlow before 2019 keep its names.
LAYER_NORM = {"weight": "gamma", "gamma": "gamma", "bias": "beta", "beta": "beta"}

FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")

# config.json -> params. transformers' "gelu" is the erf form.
CONFIG_KEYS = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "filter_size",
    "max_position_embeddings": "max_position_embeddings",
    "vocab_size": "vocab_size",
}
NONLINEARITIES = {
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "swish": "silu",
}
# What BERT has, where a config.json that is shorter than today's does not say it.
DEFAULT_HIDDEN_ACT = "gelu"
DEFAULT_LAYER_NORM_EPS = 1e-12


def is_checkpoint(path):
    """Whether this format claims a path: True also where what it finds there cannot be read."""
    path = Path(path)
    if path.is_dir():
        return (path / WEIGHTS_FILE).is_file()
    return path.is_file() and path.suffix == ".safetensors"


def read_config(path):
    """What a checkpoint says of its network, from config.json and from the shapes of its weights.

    Args:
        path: str or path-like, for which `is_checkpoint` holds.
    Returns:
        dict: hidden_size, num_hidden_layers, num_heads, filter_size, max_position_embeddings,
        vocab_size (int), encoder_nonlinearity (str), layer_norm_epsilon (float), family (str),
        vocab_file (str), do_lower_case (bool). None where nothing says it: without config.json
        that holds for num_heads, encoder_nonlinearity and layer_norm_epsilon.
    Raises:
        UserError: a file cannot be read, is of another kind of network, or contradicts the weights.
    """
    weights_file = find_weights_file(path)
    folder = weights_file.parent
    shapes = {name: tensor.shape for name, tensor in read_weights(path).items()}
    if "embeddings/word_embeddings" not in shapes:
        raise UserError(
            f"{weights_file} holds no BERT: none of its {len(shapes)} tensors is called "
            f"[bert.]embeddings.word_embeddings.weight; it has {', '.join(list(shapes)[:3])}..."
        )
    config = dict.fromkeys((*CONFIG_KEYS.values(), "encoder_nonlinearity", "layer_norm_epsilon"))
    from_shapes = geometry(shapes)
    config |= from_shapes | {"family": "huggingface", "do_lower_case": None}

    written = read_json(folder / "config.json")
    if written is not None:
        config |= from_config_json(written, folder / "config.json")
        for key, value in from_shapes.items():
            if config[key] != value:
                raise UserError(
                    f"{folder / 'config.json'} says {key} is {config[key]}, but the weights in "
                    f"{weights_file.name} have {value}; the two files do not belong together, "
                    "take both from the same model"
                )
    tokenizer = read_json(folder / "tokenizer_config.json") or {}
    for source in (tokenizer, written or {}):
        if isinstance(source.get("do_lower_case"), bool):
            config["do_lower_case"] = source["do_lower_case"]
            break
    vocab_file = folder / "vocab.txt"
    config["vocab_file"] = str(vocab_file) if vocab_file.is_file() else None
    return config


def from_config_json(written, source):
    """The part of `read_config` that config.json tells. written: dict; source: its path."""
    model_type = written.get("model_type", "bert")
    if model_type != "bert":
        raise UserError(f"{source}: model_type is {model_type!r}; only 'bert' can be loaded")
    positions = written.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise UserError(
            f"{source}: position_embedding_type is {positions!r}; only 'absolute' can be loaded"
        )
    config = {}
    for theirs, ours in CONFIG_KEYS.items():
        value = written.get(theirs)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{source}: {theirs} is {value!r}; a whole number above 0 is wanted")
        config[ours] = value
    activation = written.get("hidden_act", DEFAULT_HIDDEN_ACT)
    if not isinstance(activation, str):
        raise UserError(f"{source}: hidden_act is {activation!r}; a name such as 'gelu' is wanted")
    config["encoder_nonlinearity"] = NONLINEARITIES.get(activation, activation)
    epsilon = written.get("layer_norm_eps", DEFAULT_LAYER_NORM_EPS)
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 < epsilon < 1:
        raise UserError(
            f"{source}: layer_norm_eps is {epsilon!r}; a number between 0 and 1 is wanted"
        )
    config["layer_norm_epsilon"] = float(epsilon)
    return config


def read_weights(path):
    """The weights of a checkpoint, none read yet.

    Args:
        path: str or path-like, for which `is_checkpoint` holds.
    Returns:
        dict of neutral name to LazyTensor <float32>, kernels as [in, out]. A tensor without neutral
        name keeps its own.
    Raises:
        UserError: the file is damaged, no safetensors file, or of our own format.
    """
    path = find_weights_file(path)
    file = open_safetensors(path)
    weights = {}
    for theirs in file.keys():  # noqa: SIM118  (not a dict)
        tensor = file.get_slice(theirs)
        name = neutral_name(theirs)
        if axes_of(theirs):
            raise UserError(
                f"{path} has the names of this project's own checkpoints; "
                "give the checkpoint-<step> folder that it lies in"
            )
        if name is None:
            name = theirs
        elif tensor.get_dtype() not in FLOAT_DTYPES:
            raise UserError(
                f"{path}: {theirs} is of type {tensor.get_dtype()}; one of "
                f"{', '.join(FLOAT_DTYPES)} is wanted, so take the model before quantization"
            )
        if name in weights:
            raise UserError(
                f"{path} holds {theirs} and another tensor of the same meaning ({name}); "
                "save the model again with its program"
            )
        shape = tensor.get_shape()
        is_kernel = name != theirs and name.endswith("/kernel")
        if is_kernel and len(shape) == 2:
            weights[name] = LazyTensor(shape[::-1], partial(read_transposed, file, theirs))
        else:
            weights[name] = LazyTensor(shape, partial(read_as_it_is, file, theirs))
    return weights


def neutral_name(name):
    """Neutral name of a tensor of transformers; None where it has none.

    Without one are `position_ids`, a constant, and `cls.predictions.decoder.*`, which repeat the
    word embeddings and `cls.predictions.bias`.
    """
    name = name.removeprefix("bert.")
    if name in TENSORS:
        return TENSORS[name]
    module, _, tensor = name.rpartition(".")
    layer = re.match(r"encoder\.layer\.(0|[1-9]\d{0,3})\.", module)
    pattern = module if layer is None else "encoder.layer.{i}." + module[layer.end() :]
    ours = MODULES.get(pattern)
    if ours is None:
        return None
    if layer is not None:
        ours = ours.replace("{i}", layer[1])
    tensors = LAYER_NORM if pattern.endswith("LayerNorm") else DENSE
    return f"{ours}/{tensors[tensor]}" if tensor in tensors else None


def find_weights_file(path):
    path = Path(path)
    return path / WEIGHTS_FILE if path.is_dir() else path


def open_safetensors(path):
    """The open file; its header is read and checked against the size of the file."""
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {what_is_wrong(path, error)}") from None


def what_is_wrong(path, error):
    """One clause on a file that is no readable safetensors file, and what to do."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as reason:
        return f"{reason.strerror}; check its path and permissions"
    if size == 0:
        return "it is empty; copy or download it again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself; run `git lfs pull` where it came from"
    header_size = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and (header_size > size - 8 or "not fully covered" in str(error)):
        return f"its {size:,} bytes are not as many as it says; copy or download it again"
    return f"it is no safetensors file, or damaged ({error}); copy or download it again"


def read_as_it_is(file, name):
    return np.asarray(file.get_tensor(name), np.float32)


def read_transposed(file, name):
    return np.ascontiguousarray(read_as_it_is(file, name).T)


def read_json(path):
    """The mapping of a JSON file; None where there is no such file."""
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_JSON_BYTES + 1)
        if len(text) > MAX_JSON_BYTES:
            raise ValueError(f"it has more than {MAX_JSON_BYTES:,} bytes")
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("no mapping at its top level")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as JSON: {error}; copy or download it again"
        ) from None
    return values
