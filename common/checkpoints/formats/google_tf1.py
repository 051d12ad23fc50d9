# SPDX-License-Identifier: Apache-2.0
"""Google's TF1 checkpoints: `bert_model.ckpt` of google-research/bert, also fine-tuned ones.

`bert_config.json` and `vocab.txt` are in the folder of the checkpoint. The names of its
modeling.py, run_pretraining.py and run_classifier.py, and those of Google's ALBERT and ELECTRA,
stand in `common/checkpoints/google_families.py`. BERT is written, too, for tools that read its
checkpoints.
"""

from functools import partial
from pathlib import Path

import numpy as np

from common.checkpoints.containers import tf_bundle
from common.checkpoints.google_families import (
    GOOGLE_FAMILIES,
    family_of_variables,
    neutral_name,
)
from common.checkpoints.names import foreign_in, notes_on_state, weights_of
from common.checkpoints.small_files import export_beside, network_config, write_json
from common.checkpoints.standard_bert import (
    read_network,
    refuse_other_families,
    refuse_other_heads,
    refuse_other_networks,
    with_every_weight,
    write_sizes,
)
from common.checkpoints.vocab import write_vocab
from common.errors import UserError
from common.params.families import BERT, FAMILIES
from common.params.pretraining import TASK as PRETRAINING
from common.params.words import ANSWERING

CONFIG_FILE = GOOGLE_FAMILIES[BERT].config_file

# {task: (its program, the scope of its last layer)}
PROGRAMS = {
    "classification": ("run_classifier.py", ""),
    ANSWERING: ("run_squad.py", "cls/squad/"),
}
TRANSPOSED = ("nsp/kernel", "classifier/kernel", "qa/kernel")  # [labels, hidden]


def is_checkpoint(path):
    """Any TensorFlow checkpoint that no other format claims."""
    return tf_bundle.find_prefix(path) is not None


def read_config(path):
    """The layer-norm epsilon is in the program, not in the config."""
    prefix = tf_bundle.find_prefix(path)
    tensors = list_tensors(path)
    words = "bert/embeddings/word_embeddings, or Cerebras' input_embedding/embedding_weights"
    family = family_of_variables(tensor.name for tensor in tensors)
    row, shares_layers = GOOGLE_FAMILIES[family], FAMILIES[family].shares_layers
    read = partial(read_network, gelu=row.gelu, config_keys=row.config_keys)
    weights, file = weights_of(prefix, tensors), Path(prefix)
    texts = row.config_file, read, shares_layers
    config, content = network_config("google", file, weights, words, *texts)
    config |= {"backbone": family, "notes": notes_on_state(tensors)}
    if content is None and row.head_size and config["hidden_size"]:
        config |= {"num_heads": max(1, config["hidden_size"] // row.head_size)}
        config |= {"encoder_nonlinearity": row.gelu, "mlm_nonlinearity": row.gelu}
        note = f"num_heads {config['num_heads']}: as published for this width; there is no config"
        config["notes"].append(note)
    vocabs = sorted(file.parent.glob(row.vocab)) if row.vocab else []
    if config["vocab_file"] is None and len(vocabs) == 1:
        config |= {"vocab_file": str(vocabs[0]), "do_lower_case": True}
    return config | tf_bundle.read_step(tensors) | export_beside(Path(prefix).parent)


def read_weights(path):
    return weights_of(tf_bundle.find_prefix(path), list_tensors(path))


def list_tensors(path):
    return tf_bundle.list_variables(tf_bundle.find_prefix(path), neutral_name, TRANSPOSED)


# ---- Writing -------------------------------------------------------------------------------------

PREFIX = "bert_model.ckpt"
FOREIGN_NAMES = {weight: name for name, weight in GOOGLE_FAMILIES[BERT].names.items()}
# modeling.py, get_activation. Its "gelu" is the tanh form and its epsilon is fixed.
HIDDEN_ACT = dict(gelu_tanh="gelu", gelu_erf="gelu", relu="relu", tanh="tanh", linear="linear")
LAYER_NORM_EPSILON = 1e-12


def check(params, quantize):
    refuse_other_families(params.model, "google-research/bert")
    refuse_other_networks(params.model, "google-research/bert")
    if params.task == PRETRAINING:
        refuse_other_heads(params.model, "google-research/bert")
        if not params.model.share_embedding_weights:
            raise UserError(
                "model.share_embedding_weights is false, and google-research/bert predicts masked "
                "words with the table of the word embeddings. Export it as huggingface or keras"
            )
    elif params.task not in PROGRAMS:
        raise UserError(
            f"the task is {params.task}, and google-research/bert has programs for "
            f"{' and '.join(PROGRAMS)} alone. Export it as huggingface, saved_model or onnx"
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
    notes = []
    if classifier.params.task == PRETRAINING and cfg.disable_nsp:
        notes.append(
            "the network has no next-sentence head, which google-research/bert's "
            "run_pretraining.py begins with random weights"
        )
    return notes + notes_on(cfg, classifier.params.predict_input.add_special_tokens)


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
    program = "`run_pretraining.py`, or of `run_classifier.py` to fine-tune it"
    if classifier.params.task != PRETRAINING:
        name, scope = PROGRAMS[classifier.params.task]
        last_layer = f"`{scope}output_weights` and `{scope}output_bias` are the\nlast layer"
        program = f"`{name}`; {last_layer}"
    return f"""
`bert_model.ckpt` is the prefix to give, as `init_checkpoint` of google-research/bert's
{program}. To look at it:

```python
import tensorflow as tf

for name, shape in tf.train.list_variables("bert_model.ckpt"):
    print(name, shape)
```
"""
