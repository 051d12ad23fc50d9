# SPDX-License-Identifier: Apache-2.0
"""The table of formats of checkpoints. A format is one file, and its row here.

The file has
    is_checkpoint(path)        whether the format claims a path, also where it cannot be read
    read_config(path)          the network and tokenizer, see `huggingface.read_config`
    read_weights(path)         {neutral name: LazyTensor}, see `names.weights_of`
    list_tensors(path)         list of StoredTensor, training state too
of which the last three raise UserError for a file that is damaged, malicious, incomplete or of
another kind, or contradicts itself; and where `--mode export` writes the format
    check(params, quantize)    raises UserError for a network that the format cannot hold
    write(classifier, folder)  writes its files, returns notes for the reader: list of str
    usage(classifier)          Markdown on how to use them, for the model card
A classifier is a `Classifier` of common/export/export.py. Formats that are written and not loaded
have their files in common/export and their rows in its `formats.py`.
"""

import importlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A row of the table."""

    name: str  # of its file too, and in reports
    title: str  # for people
    looks_for: str = ""  # which paths can be loaded
    export_name: str | None = None  # its name as --export_format; None: it is not written
    room: str = __name__  # the package of its file
    # What --quantize takes with it. Its file has then MODEL_FILE, INT8_FILE and
    # `open_engine(path)`, an Engine by which both are scored.
    quantizations: tuple[str, ...] = ()

    @property
    def module(self):
        """Its file, imported on first use: TensorFlow takes 4 s."""
        return importlib.import_module(f"{self.room}.{self.name}")


# A path is offered to the formats in this order.
FORMATS = {
    row.name: row
    for row in (
        Format(
            "huggingface",
            "Hugging Face",
            "a folder with model.safetensors or pytorch_model.bin (and config.json), or such a "
            "file",
            "huggingface",
        ),
        Format(
            "ours",
            "this project's own",
            "a checkpoint-<step> folder with manifest.json, or a model_dir",
        ),
        Format("cerebras_mdl", "Cerebras .mdl", "a checkpoint_<step>.mdl file, or their folder"),
        Format(
            "keras_h5",
            "Keras weights",
            "a .weights.h5 file of this project's model, or its folder",
            "keras",
        ),
        Format(
            "cerebras_tf",
            "Cerebras TensorFlow",
            "a prefix such as model.ckpt-1000 with its .index and .data files",
        ),
        Format(  # claims any other checkpoint of TensorFlow
            "google_tf1",
            "Google TF1",
            "a prefix such as bert_model.ckpt with its .index and .data files, or their folder",
            "tf1",
        ),
    )
}
