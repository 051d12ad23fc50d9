# SPDX-License-Identifier: Apache-2.0
"""A BERT of a few hundred numbers for tests, with random weights, and as a Hugging Face folder.

Every size is a different prime where it can be, so that a swapped axis shows; biases, gains and
offsets are random too, so that a forgotten one does.
"""

import json

import numpy as np
from safetensors.numpy import save_file

from common.params import Params
from input.packing import pack

VOCAB_SIZE, POSITIONS, FILTER_SIZE, NUM_CLASSES = 23, 19, 13, 5
HIDDEN_SIZE, NUM_HEADS, NUM_LAYERS = 6, 2, 2  # heads of 3


INPUTS_OF_TASK = {
    "pretraining": {"data_processor": "DocumentDataProcessor", "data_dir": "none"},
    "question_answering": {
        "data_processor": "QuestionAnsweringDataProcessor",
        "eval_file": "none",
    },
    "token_classification": {"data_processor": "TaggedTextDataProcessor", "eval_file": "none"},
}


def tiny_params(num_classes=NUM_CLASSES, seed=3, task=None, **model):
    """Complete Params of the tiny network without dropout; `model` overrides its section.

    task: None is a classification, or with 1 of num_classes a regression.
    """
    section = {
        "hidden_size": HIDDEN_SIZE,
        "num_hidden_layers": NUM_LAYERS,
        "num_heads": NUM_HEADS,
        "filter_size": FILTER_SIZE,
        "max_position_embeddings": POSITIONS,
        "vocab_size": VOCAB_SIZE,
        "encoder_nonlinearity": "gelu_erf",
        "layer_norm_epsilon": 1e-12,
        "dropout_rate": 0.0,
        **model,
    }
    params = Params.model_validate(
        {
            "eval_input": {
                **INPUTS_OF_TASK.get(
                    task, {"data_processor": "Sst2DataProcessor", "data_dir": "none"}
                ),
                "task": task or ("regression" if num_classes == 1 else "classification"),
                "max_sequence_length": 7,
                "batch_size": 3,
            },
            "model": section,
            "optimizer": {},
            "runconfig": {"tf_random_seed": seed},
        }
    )
    classes = None if task == "pretraining" else num_classes
    return params.complete(None, {"num_cls_classes": classes})


def randomize(model, seed=0):
    """Gives every weight of a model random values. Returns them, {neutral name: <float32>}."""
    generator = np.random.default_rng(seed)
    weights = {}
    for name, variable in sorted(model.weights_by_name().items()):
        weights[name] = generator.normal(0.0, 0.3, variable.shape).astype(np.float32)
        if name.endswith("/gamma"):
            weights[name] += 1.0
        variable.assign(weights[name])
    return weights


def random_features(batch=3, tokens=7, seed=0):
    """Rows of different lengths: {"input_ids", "padding_mask", "segment_ids"}, <int32>[B, T]."""
    generator = np.random.default_rng(seed)
    lengths = generator.permutation(np.linspace(1, tokens, batch).round().astype(int))  # [B]
    positions = np.arange(tokens)
    padding_mask = (positions < lengths[:, None]).astype(np.int32)
    input_ids = generator.integers(1, VOCAB_SIZE, (batch, tokens), dtype=np.int32)
    segment_ids = (positions >= lengths[:, None] // 2).astype(np.int32)
    return {
        "input_ids": input_ids * padding_mask,
        "padding_mask": padding_mask,
        "segment_ids": segment_ids * padding_mask,
    }


def pack_rows(features, num_long_rows, room):
    """The same rows one behind the other in long ones, in the places of `input.packing.pack`."""
    lengths = features["padding_mask"].sum(axis=1)
    order, row, offset, fullest = (array[0] for array in pack(lengths[None], num_long_rows))
    assert fullest <= room
    starts = row * room + offset
    result = {"starts": starts.astype(np.int32)}
    for name, values in features.items():
        places = np.zeros(num_long_rows * room, np.int32)
        for row, start in zip(order, starts, strict=True):
            places[start : start + lengths[row]] = values[row, : lengths[row]]
        result[name] = places.reshape(num_long_rows, room)
    return result, order


def huggingface_tensors(num_labels=None, num_layers=NUM_LAYERS, seed=0):
    """What transformers would save: {its name: <float32>}, BertModel or with a classifier."""
    generator = np.random.default_rng(seed)
    hidden, filters = HIDDEN_SIZE, FILTER_SIZE
    shapes = {
        "embeddings.word_embeddings.weight": (VOCAB_SIZE, hidden),
        "embeddings.position_embeddings.weight": (POSITIONS, hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
        "pooler.dense.weight": (hidden, hidden),
        "pooler.dense.bias": (hidden,),
    }
    for i in range(num_layers):
        for module, rows, columns in (
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", filters, hidden),
            ("output.dense", hidden, filters),
        ):
            shapes[f"encoder.layer.{i}.{module}.weight"] = (rows, columns)  # [out, in]
            shapes[f"encoder.layer.{i}.{module}.bias"] = (rows,)
        for module in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"encoder.layer.{i}.{module}.weight"] = (hidden,)
            shapes[f"encoder.layer.{i}.{module}.bias"] = (hidden,)
    if num_labels:
        shapes = {f"bert.{name}": shape for name, shape in shapes.items()}
        shapes["classifier.weight"] = (num_labels, hidden)
        shapes["classifier.bias"] = (num_labels,)
    return {name: generator.normal(size=s).astype(np.float32) for name, s in shapes.items()}


def pretraining_tensors(has_nsp=True, is_tied=True, seed=0):
    """What transformers would save of a BertForPreTraining, or without has_nsp BertForMaskedLM.

    Values of a size as in trained networks, so that float32 leaves room for small updates.
    """
    tensors = {f"bert.{name}": each for name, each in huggingface_tensors(seed=seed).items()}
    if not has_nsp:
        tensors = {name: each for name, each in tensors.items() if "pooler" not in name}
    shapes = {
        "cls.predictions.bias": (VOCAB_SIZE,),
        "cls.predictions.transform.dense.weight": (HIDDEN_SIZE, HIDDEN_SIZE),
        "cls.predictions.transform.dense.bias": (HIDDEN_SIZE,),
        "cls.predictions.transform.LayerNorm.weight": (HIDDEN_SIZE,),
        "cls.predictions.transform.LayerNorm.bias": (HIDDEN_SIZE,),
    }
    if has_nsp:
        shapes |= {
            "cls.seq_relationship.weight": (2, HIDDEN_SIZE),
            "cls.seq_relationship.bias": (2,),
        }
    if not is_tied:
        shapes["cls.predictions.decoder.weight"] = (VOCAB_SIZE, HIDDEN_SIZE)
        shapes["cls.predictions.decoder.bias"] = (VOCAB_SIZE,)
    generator = np.random.default_rng(seed + 1)
    tensors |= {n: generator.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    return {
        name: np.float32(0.1) * each + np.float32(name.endswith("LayerNorm.weight"))
        for name, each in tensors.items()
    }


ARCHITECTURES = {
    "multi_label": "BertForSequenceClassification",
    "token_classification": "BertForTokenClassification",
    "question_answering": "BertForQuestionAnswering",
}


def save_head(folder, task):
    """Writes what transformers would save of a task of ARCHITECTURES, with the labels a, b and c.

    Values of a size as in trained networks, so that float32 leaves room for small updates.
    Returns the folder.
    """
    config = {"architectures": [ARCHITECTURES[task]]}
    if task == "question_answering":
        tensors = huggingface_tensors(num_labels=2)
        for part in ("weight", "bias"):
            tensors[f"qa_outputs.{part}"] = tensors.pop(f"classifier.{part}")
    else:
        tensors = huggingface_tensors(num_labels=3)
        config["id2label"] = {"0": "a", "1": "b", "2": "c"}
    if task == "multi_label":
        config["problem_type"] = "multi_label_classification"
    else:
        tensors = {name: each for name, each in tensors.items() if "pooler" not in name}
    tensors = {
        name: np.float32(0.1) * each + np.float32(name.endswith("LayerNorm.weight"))
        for name, each in tensors.items()
    }
    return save_huggingface(folder, tensors, **config)


def save_heads(folder):
    """Writes each of ARCHITECTURES into a folder of its task's name."""
    for task in ARCHITECTURES:
        save_head(folder / task, task)


def save_huggingface(folder, tensors, **config):
    """Writes `model.safetensors` and a `config.json` of the tiny network. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    written = {
        "model_type": "bert",
        "hidden_size": HIDDEN_SIZE,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": NUM_HEADS,
        "intermediate_size": FILTER_SIZE,
        "max_position_embeddings": POSITIONS,
        "vocab_size": VOCAB_SIZE,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(written))
    return folder


def loss_of(model, logits, labels):
    """The loss of a row task. logits: of its network; labels: array [B]."""
    return model.build_total_loss({"logits": logits}, {"labels": np.asarray(labels)})
