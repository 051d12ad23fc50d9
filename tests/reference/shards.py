# SPDX-License-Identifier: Apache-2.0
"""Writes a Hugging Face folder in shards: several files of weights, and an index of them."""

import json

from safetensors.numpy import save_file

from tests.reference.tiny_bert import save_huggingface
from tests.reference.torch_files import save_zip


def save_shards(folder, tensors, kind="model.safetensors"):
    """As transformers writes a large model. kind: "model.safetensors" or "pytorch_model.bin".

    Returns the folder.
    """
    save_huggingface(folder, {}).joinpath("model.safetensors").unlink()
    stem, suffix = kind.split(".")
    weight_map = {}
    for i in range(2):
        name = f"{stem}-{i + 1:05d}-of-00002.{suffix}"
        part = dict(sorted(tensors.items())[i::2])
        if suffix == "bin":
            save_zip(folder / name, part)
        else:
            save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    (folder / f"{kind}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder
