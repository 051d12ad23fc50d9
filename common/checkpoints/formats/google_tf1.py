# SPDX-License-Identifier: Apache-2.0
"""Google's TF1 checkpoints: `bert_model.ckpt` of google-research/bert, also fine-tuned ones.

`bert_config.json` and `vocab.txt` are in the folder of the checkpoint. Maps the names of its
modeling.py, run_pretraining.py and run_classifier.py to neutral names, and back for tools that read
its checkpoints. The files that are written are those of `run_classifier.py`.
"""

import dataclasses
import re
from pathlib import Path

import numpy as np

from common.checkpoints.containers import tf_bundle
from common.checkpoints.names import geometry, notes_on_state, pattern_of, weights_of
from common.checkpoints.small_files import (
    NETWORK_KEYS,
    brief,
    check_against,
    check_name,
    export_beside,
    read_json,
    vocab_beside,
    write_json,
    write_vocab,
)
from common.checkpoints.standard_bert import (
    read_sizes,
    refuse_other_networks,
    with_every_weight,
    write_sizes,
)
from common.errors import UserError

CONFIG_FILE = "bert_config.json"

# Module of modeling.py -> neutral module. Names within a module are the same: kernel, bias, gamma,
# beta.
MODULES = {
    "bert/embeddings/LayerNorm": "embeddings/layer_norm",
    "bert/encoder/layer_{i}/attention/self/query": "encoder/layer_{i}/attention/query",
    "bert/encoder/layer_{i}/attention/self/key": "encoder/layer_{i}/attention/key",
    "bert/encoder/layer_{i}/attention/self/value": "encoder/layer_{i}/attention/value",
    "bert/encoder/layer_{i}/attention/output/dense": "encoder/layer_{i}/attention/output",
    "bert/encoder/layer_{i}/attention/output/LayerNorm": "encoder/layer_{i}/attention_layer_norm",
    "bert/encoder/layer_{i}/intermediate/dense": "encoder/layer_{i}/feed_forward/expand",
    "bert/encoder/layer_{i}/output/dense": "encoder/layer_{i}/feed_forward/project",
    "bert/encoder/layer_{i}/output/LayerNorm": "encoder/layer_{i}/feed_forward_layer_norm",
    "bert/pooler/dense": "pooler",
    "cls/predictions/transform/dense": "mlm/transform",
    "cls/predictions/transform/LayerNorm": "mlm/layer_norm",
}
TENSORS = {
    "bert/embeddings/word_embeddings": "embeddings/word_embeddings",
    "bert/embeddings/position_embeddings": "embeddings/position_embeddings",
    "bert/embeddings/token_type_embeddings": "embeddings/segment_embeddings",
    "cls/predictions/output_bias": "mlm/output_bias",
    "cls/seq_relationship/output_weights": "nsp/kernel",
    "cls/seq_relationship/output_bias": "nsp/bias",
    # Of run_classifier.py, without a scope.
    "output_weights": "classifier/kernel",
    "output_bias": "classifier/bias",
}
TRANSPOSED = ("nsp/kernel", "classifier/kernel")  # [labels, hidden]
PARTS = ("kernel", "bias", "gamma", "beta")

NONLINEARITIES = {"gelu": "gelu_tanh"}  # modeling.py, gelu


def is_checkpoint(path):
    """Whether this format claims a path: any TensorFlow checkpoint that no other format claims."""
    return tf_bundle.find_prefix(path) is not None


def read_config(path):
    """See `huggingface.read_config`. The layer-norm epsilon is in the program, not in the config.

    Raises:
        UserError: a file cannot be read, belongs to another network, or contradicts the weights.
    """
    prefix = tf_bundle.find_prefix(path)
    tensors = list_tensors(path)
    shapes = {name: tensor.shape for name, tensor in weights_of(prefix, tensors).items()}
    if "embeddings/word_embeddings" not in shapes:
        names = ", ".join(tensor.name for tensor in tensors[:3])
        raise UserError(
            f"{prefix} holds no BERT of google-research/bert or Cerebras: none of its "
            f"{len(tensors)} variables is called bert/embeddings/word_embeddings; it has "
            f"{brief(names)}..."
        )
    folder = Path(prefix).parent
    config = dict.fromkeys(NETWORK_KEYS)
    from_shapes = geometry(shapes)
    config |= from_shapes | {"family": "google", "do_lower_case": None}
    values = read_json(folder / CONFIG_FILE)
    if values is not None:
        config |= read_sizes(values, folder / CONFIG_FILE)
        activation = check_name(values.get("hidden_act", "gelu"), "hidden_act", CONFIG_FILE)
        config["encoder_nonlinearity"] = NONLINEARITIES.get(activation, activation)
        check_against(from_shapes, config, folder / CONFIG_FILE, Path(prefix).name)
    config["vocab_file"] = vocab_beside(folder)
    config["notes"] = notes_on_state(tensors)
    return config | tf_bundle.read_step(tensors) | export_beside(folder)


def read_weights(path):
    """See `huggingface.read_weights`."""
    return weights_of(tf_bundle.find_prefix(path), list_tensors(path))


def list_tensors(path):
    """Every variable of a checkpoint: list of StoredTensor."""
    tensors = tf_bundle.list_variables(tf_bundle.find_prefix(path), neutral_name)
    return [
        dataclasses.replace(tensor, is_transposed=tensor.weight in TRANSPOSED) for tensor in tensors
    ]


def neutral_name(name, names=()):
    """Neutral name of a variable, or None. names: not used."""
    if name in TENSORS:
        return TENSORS[name]
    module, _, part = name.rpartition("/")
    pattern = re.sub(r"^bert/encoder/layer_(0|[1-9]\d{0,3})/", "bert/encoder/layer_{i}/", module)
    neutral = MODULES.get(pattern)
    if neutral is None or part not in PARTS:
        return None
    if pattern != module:
        neutral = neutral.replace("{i}", module.split("/")[2].removeprefix("layer_"))
    return f"{neutral}/{part}"


# ---- Writing -------------------------------------------------------------------------------------

PREFIX = "bert_model.ckpt"
MODULE_NAMES = {module: name for name, module in MODULES.items()}
TENSOR_NAMES = {weight: name for name, weight in TENSORS.items()}
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
    """What google-research/bert would compute differently: list of str.

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
        google_name(name): np.asarray(weight).T if name in TRANSPOSED else np.asarray(weight)
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
