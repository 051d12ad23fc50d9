# SPDX-License-Identifier: Apache-2.0
"""Export under the names of google-research/bert, for tools that read its TensorFlow 1 checkpoints.

The names are those of `common/checkpoints/formats/google_tf1.py`, read the other way round.
What `run_classifier.py` leaves: `bert_model.ckpt.{index,data-00000-of-00001}` as a name-based
Saver writes them, `bert_config.json` and `vocab.txt`.
"""

import numpy as np

from common.checkpoints.formats.google_tf1 import CONFIG_FILE, CONFIG_KEYS, MODULES, TENSORS, TURNED
from common.checkpoints.names import pattern_of
from common.errors import UserError
from common.export.export import (
    refuse_other_networks,
    with_what_bert_has,
    write_json,
    write_vocab,
)

PREFIX = "bert_model.ckpt"
MODULE_NAMES = {ours: theirs for theirs, ours in MODULES.items()}
TENSOR_NAMES = {ours: theirs for theirs, ours in TENSORS.items()}
# modeling.py, get_activation. Its "gelu" is the tanh form and its epsilon is fixed.
HIDDEN_ACT = {
    "gelu_tanh": "gelu",
    "gelu_erf": "gelu",
    "relu": "relu",
    "tanh": "tanh",
    "linear": "linear",
}
LAYER_NORM_EPSILON = 1e-12


def check(params, quantize):
    del quantize
    refuse_other_networks(params.model, "google-research/bert")
    if params.model.num_cls_classes == 1:
        raise UserError(
            "model.num_cls_classes is 1, a regression, and google-research/bert's "
            "run_classifier.py knows classes alone. Export it as huggingface, saved_model or onnx"
        )
    activation = params.model.encoder_nonlinearity
    if activation not in HIDDEN_ACT:
        raise UserError(
            f"model.encoder_nonlinearity is {activation}, which google-research/bert does not "
            f"have; it has {', '.join(HIDDEN_ACT)}. Export it as huggingface, saved_model or onnx"
        )


def write(classifier, folder):
    """Writes the checkpoint, bert_config.json and vocab.txt. Returns notes: list of str."""
    save_checkpoint(folder / PREFIX, google_tensors(with_what_bert_has(classifier)))
    cfg = classifier.params.model
    config = {
        **{theirs: getattr(cfg, ours) for theirs, ours in CONFIG_KEYS.items()},
        "attention_probs_dropout_prob": cfg.attention_dropout_rate,
        "hidden_act": HIDDEN_ACT[cfg.encoder_nonlinearity],
        "hidden_dropout_prob": cfg.dropout_rate,
        "initializer_range": 0.02,
        "type_vocab_size": 2,
    }
    write_json(folder / CONFIG_FILE, config)
    write_vocab(classifier, folder)
    return notes_on(cfg, classifier.params.predict_input.add_special_tokens)


def save_checkpoint(prefix, tensors):
    """Writes `<prefix>.index` and `<prefix>.data-00000-of-00001`, as `tf.train.Saver` does.

    prefix: path-like; tensors: {name: array}.
    """
    import tensorflow as tf

    with tf.device("/cpu:0"):
        tf.raw_ops.SaveV2(
            prefix=str(prefix),
            tensor_names=list(tensors),
            shape_and_slices=[""] * len(tensors),
            tensors=list(tensors.values()),
        )


def notes_on(cfg, has_special_tokens):
    """What google-research/bert would compute otherwise: list of str.

    cfg: ModelParams; has_special_tokens: bool, whether rows have [CLS] and [SEP].
    """
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


def google_name(name):
    """Name of a variable in google-research/bert.

    `encoder/layer_3/attention/key/bias` -> `bert/encoder/layer_3/attention/self/key/bias`.
    """
    if name in TENSOR_NAMES:
        return TENSOR_NAMES[name]
    pattern, layer = pattern_of(name)
    module, _, part = pattern.rpartition("/")
    return f"{MODULE_NAMES[module]}/{part}".replace("{i}", str(layer))


def google_tensors(weights):
    """{google-research/bert's name: array} of {neutral name: array}."""
    return {
        google_name(name): np.asarray(weight).T if name in TURNED else np.asarray(weight)
        for name, weight in weights.items()
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
