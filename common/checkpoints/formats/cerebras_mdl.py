# SPDX-License-Identifier: Apache-2.0
"""Cerebras PyTorch checkpoints: `checkpoint_<step>.mdl`, an HDF5 file, read without their package.

Every tensor is a data set in the root, named after its path in the saved dictionary, joined by
dots. Other values are JSON texts in root attributes `<name>.__metadata__`. Maps the names of
ModelZoo's `models/nlp/bert` (Release_2) to neutral names.
"""

import json
import re
from functools import partial
from pathlib import Path

from common.checkpoints.containers import hdf5
from common.checkpoints.names import (
    StoredTensor,
    names_within,
    neutral_in,
    notes_on_state,
    weights_of,
)
from common.checkpoints.small_files import (
    ERRORS,
    begins_with,
    check_value,
    network_config,
    reading,
    unreadable,
)
from common.errors import UserError

METADATA = ".__metadata__"
MAX_LINKS = 100  # in a chain

# The backbone is bert_encoder in pre-training and bert in a classifier; here it is bert.
TENSORS = {
    "bert.embedding_layer.word_embeddings.weight": "embeddings/word_embeddings",
    "bert.embedding_layer.position_embeddings.embed.weight": "embeddings/position_embeddings",
    "bert.embedding_layer.position_embeddings.weight": "embeddings/position_embeddings",
    "bert.embedding_layer.segment_embeddings.weight": "embeddings/segment_embeddings",
    # The word embeddings once more, unless share_embedding_weights is false.
    "bert_mlm_head.classifier.ffn.0.linear_layer.weight": "mlm/output_embeddings",
    "bert_mlm_head.classifier.ffn.0.linear_layer.bias": "mlm/output_bias",
}
LAYER_MODULES = {
    "self_attn.proj_q_dense_layer": "attention/query",
    "self_attn.proj_k_dense_layer": "attention/key",
    "self_attn.proj_v_dense_layer": "attention/value",
    "self_attn.proj_output_dense_layer": "attention/output",
    "norm1": "attention_layer_norm",
    "ffn.ffn.0.linear_layer": "feed_forward/expand",
    "ffn.ffn.1.linear_layer": "feed_forward/project",
    "norm2": "feed_forward_layer_norm",
}
MODULES = {
    "bert.embed_ln_f": "embeddings/layer_norm",
    **{
        f"bert.transformer_encoder.layers.{{i}}.{name}": f"encoder/layer_{{i}}/{module}"
        for name, module in LAYER_MODULES.items()
    },
    "bert.transformer_encoder.norm": "encoder/final_layer_norm",
    "bert.pooler.pooler.ffn.0.linear_layer": "pooler",
    "classifier": "classifier",
    "bert_cls_head.classifier.ffn.0.linear_layer": "nsp",
    "bert_mlm_head.mlm_transform.ffn.ffn.0.linear_layer": "mlm/transform",
    "bert_mlm_head.mlm_transform.ln": "mlm/layer_norm",
}
NAMES = {
    f"model.model.{name}": neutral
    for name, neutral in (TENSORS | names_within(MODULES, ".", ("weight", "bias"))).items()
}
# ModelZoo Release_2's "gelu" is the erf form, unlike the TensorFlow program's.
NONLINEARITIES = {"gelu": "gelu_erf", "gelu_new": "gelu_tanh"}


def is_checkpoint(path):
    """Whether this format claims a path, by its suffix or by an attribute of the HDF5 file."""
    path = find_file(path)
    if path is None or path.suffix == ".mdl":
        return path is not None
    if not begins_with(path, hdf5.SIGNATURE):
        return False
    try:
        with hdf5.open_file(path) as file:
            return "__cstorch_version__" in file.attrs
    except ERRORS:  # UserError is one of them
        return False


def find_file(path):
    """The file of a path, in a folder the `checkpoint_<step>.mdl` of the highest step; or None."""
    path = Path(path)
    if path.is_file():
        return path
    files = []
    for file in path.glob("*.mdl"):
        match = re.fullmatch(r"checkpoint_(\d{1,18})\.mdl", file.name)
        if match and file.is_file():
            files.append((int(match[1]), file))
    return max(files)[1] if files else None


def read_config(path):
    """The number of heads comes from a `params.yaml` beside it."""
    path = find_file(path)
    tensors = list_tensors(path)
    words = "model.model.bert[_encoder].embedding_layer.word_embeddings.weight"
    config, sections = network_config("cerebras", path, weights_of(path, tensors), words)
    activation, notes = config["encoder_nonlinearity"] or "gelu", notes_on_state(tensors)
    of_heads = {"mlm_nonlinearity": config["mlm_nonlinearity"] or activation}
    model = (sections or {}).get("model")
    if model and model.get("pooler_nonlinearity") != "tanh":
        pooler = model.get("pooler_nonlinearity") or activation
        of_heads["nsp_nonlinearity"] = check_value(pooler, "nsp_nonlinearity", path.parent)
        notes.append(f"pooler: trained with {pooler}, in a classifier here with tanh")
    of_heads["encoder_nonlinearity"] = activation
    config |= {key: NONLINEARITIES.get(name, name) for key, name in of_heads.items()}
    config["notes"] = notes
    with hdf5.open_file(path) as file, reading(path):
        step = follow_links(path, file, "global_step")[1].get("scalar_value")
    return config | ({"step": step} if type(step) is int else {})


def read_weights(path):
    """Raises UserError also if the package that reads the file's compression is not installed."""
    path = find_file(path)
    hdf5.check_survives(path, with_values=True)
    tensors = list_tensors(path)
    with hdf5.open_file(path) as file, reading(path):
        hdf5.check_lz4(path, file)
    return weights_of(path, tensors)


def list_tensors(path):
    """Links count as tensors of their own."""
    path = find_file(path)
    tensors = []
    with hdf5.open_file(path) as file, reading(path):
        if not file.attrs.get("__SUCCESS__", "__version__" not in file.attrs):
            raise unreadable(path, "it was not completed when it was written")
        links = {
            name.removesuffix(METADATA)
            for name in file.attrs
            if name.startswith("model.") and name.endswith(METADATA)
        }
        for name in sorted({*file.keys(), *links}):
            source, metadata = follow_links(path, file, name)
            if source is None and (is_link(metadata) or metadata.get("__TORCH__")):
                raise UserError(
                    f"{path}: {name!r:.120} stands for a tensor that is not in the file; copy or "
                    "download it again"
                )
            if source is None:
                continue  # a number
            dataset = hdf5.get_dataset(path, file, source)
            shape, dtype = dataset.shape, torch_dtype(dataset)
            # bfloat16 is stored as int16 with the same bits.
            bits_of = dtype if dtype == "bfloat16" else None
            read = partial(hdf5.read_dataset, path, source, bits_of)
            weight, is_state = neutral_name(name), not name.startswith("model.")
            is_kernel = weight is not None and weight.endswith("/kernel")
            tensors.append(StoredTensor(name, shape, dtype, read, weight, is_state, is_kernel))
    return tensors


def torch_dtype(dataset):
    """NumPy's name for the type of the tensor; for bfloat16 the data set has another type."""
    names = dataset.attrs.get("dtypes")
    is_bfloat16 = names is not None and len(names) == 1 and names[0] == "torch.bfloat16"
    return "bfloat16" if is_bfloat16 and dataset.dtype.itemsize == 2 else dataset.dtype.name


def follow_links(path, file, name):
    """The name of the data set that a name stands for, or None; the metadata of its last link."""
    metadata = {}
    for _ in range(MAX_LINKS):
        if name in file.keys():  # noqa: SIM118  (`in file` would follow a path)
            return name, metadata
        metadata = metadata_of(path, file, name)
        if not is_link(metadata):
            break
        name = metadata["key"]
    return None, metadata


def is_link(metadata):
    return metadata.get("__TYPE__") == "LinkedObject"


def metadata_of(path, file, name):
    """The inner dict of the root attribute `<name>.__metadata__`; {} where it is not there."""
    name += METADATA
    with reading(path, f"its attribute {name} is damaged"):
        values = json.loads(file.attrs[name])[name] if name in file.attrs else {}
    return values if isinstance(values, dict) else {}


def neutral_name(name):
    """Neutral name of a data set, or None."""
    return neutral_in(NAMES, name.replace("model.model.bert_encoder.", "model.model.bert."))
