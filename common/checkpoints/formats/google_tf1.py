# SPDX-License-Identifier: Apache-2.0
"""Google's TF1 checkpoints: `bert_model.ckpt` of google-research/bert, also fine-tuned ones.

`bert_config.json` and `vocab.txt` are in the folder of the checkpoint. Maps the names of its
modeling.py, run_pretraining.py and run_classifier.py to neutral names, and back for tools that read
its checkpoints. The files that are written are those of `run_classifier.py`.
"""

from functools import partial
from pathlib import Path

import numpy as np

from common.checkpoints.containers import tf_bundle
from common.checkpoints.names import (
    foreign_in,
    names_within,
    neutral_in,
    notes_on_state,
    weights_of,
)
from common.checkpoints.small_files import export_beside, network_config, write_json, write_vocab
from common.checkpoints.standard_bert import (
    MODULES,
    read_network,
    refuse_other_networks,
    with_every_weight,
    write_sizes,
)
from common.errors import UserError

CONFIG_FILE = "bert_config.json"

NAMES = {
    "bert/embeddings/word_embeddings": "embeddings/word_embeddings",
    "bert/embeddings/position_embeddings": "embeddings/position_embeddings",
    "bert/embeddings/token_type_embeddings": "embeddings/segment_embeddings",
    "cls/predictions/output_bias": "mlm/output_bias",
    "cls/seq_relationship/output_weights": "nsp/kernel",
    "cls/seq_relationship/output_bias": "nsp/bias",
    # Of run_classifier.py, without a scope.
    "output_weights": "classifier/kernel",
    "output_bias": "classifier/bias",
} | names_within(MODULES, "/")
TRANSPOSED = ("nsp/kernel", "classifier/kernel")  # [labels, hidden]


def is_checkpoint(path):
    """Any TensorFlow checkpoint that no other format claims."""
    return tf_bundle.find_prefix(path) is not None


def read_config(path):
    """The layer-norm epsilon is in the program, not in the config."""
    prefix = tf_bundle.find_prefix(path)
    tensors = list_tensors(path)
    words = "bert/embeddings/word_embeddings, or Cerebras' input_embedding/embedding_weights"
    read = partial(read_network, gelu="gelu_tanh")  # modeling.py, gelu
    weights = weights_of(prefix, tensors)
    config, _ = network_config("google", Path(prefix), weights, words, CONFIG_FILE, read)
    config["notes"] = notes_on_state(tensors)
    return config | tf_bundle.read_step(tensors) | export_beside(Path(prefix).parent)


def read_weights(path):
    return weights_of(tf_bundle.find_prefix(path), list_tensors(path))


def list_tensors(path):
    return tf_bundle.list_variables(tf_bundle.find_prefix(path), neutral_name, TRANSPOSED)


def neutral_name(name, names=()):
    """Neutral name of a variable, or None. names: not used."""
    return neutral_in(NAMES, name)


# ---- Writing -------------------------------------------------------------------------------------

PREFIX = "bert_model.ckpt"
FOREIGN_NAMES = {weight: name for name, weight in NAMES.items()}
# modeling.py, get_activation. Its "gelu" is the tanh form and its epsilon is fixed.
HIDDEN_ACT = dict(gelu_tanh="gelu", gelu_erf="gelu", relu="relu", tanh="tanh", linear="linear")
LAYER_NORM_EPSILON = 1e-12


def check(params, quantize):
    refuse_other_networks(params.model, "google-research/bert")
    if params.task != "classification":
        raise UserError(
            f"the task is {params.task}, and google-research/bert's run_classifier.py knows "
            "classes alone. Export it as huggingface, saved_model or onnx"
        )
    activation = params.model.encoder_nonlinearity
    if activation not in HIDDEN_ACT:
        raise UserError(
            f"model.encoder_nonlinearity is {activation}, which google-research/bert does not "
            f"have; it has {', '.join(HIDDEN_ACT)}. Export it as huggingface, saved_model or onnx"
        )


def write(classifier, folder):
    """Writes the checkpoint, bert_config.json and vocab.txt. Returns notes: list of str."""
    cfg = classifier.params.model
    tensors = google_tensors(with_every_weight(classifier.weights, cfg))
    tf_bundle.write(folder / PREFIX, tensors)
    config = {
        **write_sizes(cfg),
        "attention_probs_dropout_prob": cfg.attention_dropout_rate,
        "hidden_act": HIDDEN_ACT[cfg.encoder_nonlinearity],
        "hidden_dropout_prob": cfg.dropout_rate,
        "initializer_range": 0.02,
        "type_vocab_size": 2,
    }
    write_json(folder / CONFIG_FILE, config)
    write_vocab(folder, classifier.vocab)
    return notes_on(cfg, classifier.params.predict_input.add_special_tokens)


def notes_on(cfg, has_special_tokens):
    """What google-research/bert would compute differently, in sentences."""
    notes = []
    if not has_special_tokens:
        notes.append(
            "the network was trained on rows without [CLS] and [SEP], and google-research/bert's "
            "run_classifier.py always adds them"
        )
    if cfg.encoder_nonlinearity == "gelu_erf":
        notes.append(
            "the network was trained with the erf form of GELU, and google-research/bert computes "
            "the tanh form under the same name `gelu`, which differs by up to 5e-4 at each use"
        )
    if cfg.layer_norm_epsilon != LAYER_NORM_EPSILON:
        notes.append(
            f"the network was trained with layer_norm_epsilon {cfg.layer_norm_epsilon:g}, and "
            f"google-research/bert always takes {LAYER_NORM_EPSILON:g}"
        )
    return notes


def google_tensors(weights):
    """{google-research/bert's name: array} of {neutral name: array}."""
    arrays = {name: np.asarray(weight) for name, weight in weights.items()}
    return {
        foreign_in(FOREIGN_NAMES, name): array.T if name in TRANSPOSED else array
        for name, array in arrays.items()
    }


def usage(classifier):
    return """
`bert_model.ckpt` is the prefix to give, as `init_checkpoint` of google-research/bert's
`run_classifier.py`; `output_weights` and `output_bias` are the
classifier's last layer. To look at it:

```python
import tensorflow as tf

for name, shape in tf.train.list_variables("bert_model.ckpt"):
    print(name, shape)
```
"""
