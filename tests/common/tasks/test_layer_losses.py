# SPDX-License-Identifier: Apache-2.0
"""The losses of layers against NumPy in float64, of whole networks: padded, packed, in streams."""

import numpy as np
import pytest

from common.BaseModel import TRAIN
from common.errors import UserError
from common.params.distillation import OF_LAYERS, DistillationParams
from common.tasks.distillation import layers_to_learn
from model import make_model
from tests.reference.bert_numpy import BertNumpy
from tests.reference.tiny_bert import (
    INPUTS_OF_TASK,
    pack_rows,
    random_features,
    randomize,
    tiny_params,
)

OURS = {"hidden_size": 6, "num_hidden_layers": 2, "num_heads": 2}
THEIRS = {"hidden_size": 8, "num_hidden_layers": 4, "num_heads": 2}
LAYERS = (1, 3)  # of the teacher, evenly


def distilling(task="classification", num_streams=1, ours=None, theirs=None, **keys):
    """Params of a tiny training whose layers learn from those of a teacher."""
    classes = None if task in ("question_answering", "pretraining") else 3
    params = tiny_params(classes, task=task, **OURS | (ours or {}))
    run = params.runconfig.model_copy(update={"mode": "train", "num_streams": num_streams})
    keys = keys or dict.fromkeys(OF_LAYERS[:3], 1.0)
    section = DistillationParams(teacher="none", **keys)
    params = params.model_copy(update={"runconfig": run, "distillation": section})
    return params.with_teacher(tiny_params(classes, task=task, **THEIRS | (theirs or {})))


class Layers(BertNumpy):
    """One row's hidden states [T, D] of embeddings and layers, and the heads of each layer."""

    def __init__(self, model, cfg):
        weights = model.weights_by_name()
        sizes = cfg.num_hidden_layers, cfg.num_heads, "gelu_erf", cfg.layer_norm_epsilon
        super().__init__({name: np.asarray(each) for name, each in weights.items()}, *sizes)
        self.depth = cfg.num_hidden_layers

    def hidden(self, *row):
        states = []
        for depth in range(self.depth + 1):
            self.num_hidden_layers = depth
            states.append(self.run(*row))
        return states

    def heads(self, hidden, layer):
        """[(query, key, value), each [T, d]] of each head; the query is not scaled."""
        name, parts = f"encoder/layer_{layer}/attention", []
        query, key, value = (
            self.dense(hidden[layer], f"{name}/{each}") for each in ("query", "key", "value")
        )
        size = query.shape[-1] // self.num_heads
        for head in range(self.num_heads):
            columns = slice(head * size, (head + 1) * size)
            parts.append((query[:, columns], key[:, columns], value[:, columns]))
        return parts


def softmax(x):
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def divergence(ours, theirs):
    """KL(theirs || ours) of each token: [T]."""
    return (softmax(theirs) * np.log(softmax(theirs) / softmax(ours))).sum(axis=-1)


def in_numpy(model, params, features):
    """{key: loss} by the papers, row after row and without padding."""
    ours, theirs = Layers(model, params.model), Layers(model.teacher.network, params.teacher.model)
    matrix = np.asarray(model.projection.kernel, np.float64)
    squares, scores, relations, cosines = [], [], [], []
    names = ("input_ids", "padding_mask", "segment_ids")
    for row in zip(*(features[name] for name in names), strict=True):
        count = int(row[1].sum())
        row = [each[:count] for each in row]
        own, taught = ours.hidden(*row), theirs.hidden(*row)
        pairs = [(0, 0), *((n + 1, layer + 1) for n, layer in enumerate(LAYERS))]
        squares.append([((own[n] @ matrix - taught[m]) ** 2).mean(-1) for n, m in pairs])
        of_row = []
        for n, layer in enumerate(LAYERS):
            heads = zip(ours.heads(own, n), theirs.heads(taught, layer), strict=True)
            differences = [
                q @ k.T / np.sqrt(q.shape[-1]) - tq @ tk.T / np.sqrt(tq.shape[-1])
                for (q, k, _), (tq, tk, _) in heads
            ]
            of_row.append(np.mean(np.square(differences), axis=0).ravel())
        scores.append(of_row)
        last = zip(ours.heads(own, 1), theirs.heads(taught, 3), strict=True)
        of_heads = []
        for (q, k, v), (tq, tk, tv) in last:
            width, taught_width = np.sqrt(q.shape[-1]), np.sqrt(tq.shape[-1])
            attention = divergence(q @ k.T / width, tq @ tk.T / taught_width)
            of_heads.append(attention + divergence(v @ v.T / width, tv @ tv.T / taught_width))
        relations.append(np.mean(of_heads, axis=0))
        if own[-1].shape == taught[-1].shape:
            norms = np.linalg.norm(own[-1], axis=-1) * np.linalg.norm(taught[-1], axis=-1)
            cosines.append(1 - (own[-1] * taught[-1]).sum(-1) / norms)

    def of_layers(parts):
        return sum(np.concatenate(each).mean() for each in zip(*parts, strict=True))

    return {
        "hidden_weight": of_layers(squares),
        "attention_weight": of_layers(scores),
        "relation_weight": np.concatenate(relations).mean(),
        "cosine_weight": np.concatenate(cosines).mean() if cosines else None,
    }


def made(params):
    model = make_model(params)
    randomize(model)
    randomize(model.teacher.network, seed=5)
    return model


def documented(features):
    features = dict(features)
    features["input_mask"] = 1 - features.pop("padding_mask")
    return features


def losses_of(model, features):
    outputs = model.build_model(documented(features), TRAIN)
    names = {name: f"distillation_layer_{name}" for name in model.layer_weights}
    return {name: float(outputs[each]) for name, each in names.items()}


@pytest.mark.parametrize("num_streams", [1, 2])
def test_losses_of_layers_are_the_papers_of_another_width(num_streams):
    params = distilling(num_streams=num_streams)
    model, features = made(params), random_features(batch=4, tokens=7)
    expected = in_numpy(model, params, features)
    losses = losses_of(model, features)
    assert losses.keys() == {"hidden_weight", "attention_weight", "relation_weight"}
    for name, loss in losses.items():  # float32 against float64
        assert loss == pytest.approx(expected[name], rel=2e-5), name


def test_packed_rows_have_the_losses_of_padded_ones():
    params = distilling()
    model, features = made(params), random_features(batch=5, tokens=7)
    packed, _ = pack_rows(features, num_long_rows=2, room=13)
    losses, expected = losses_of(model, packed), in_numpy(model, params, features)
    for name, loss in losses.items():
        assert loss == pytest.approx(expected[name], rel=2e-5), name


def test_the_cosine_is_of_the_last_layers_of_the_same_width():
    keys = {"cosine_weight": 2.0, "hidden_weight": 1.0}
    params = distilling(theirs={"hidden_size": 6}, **keys)
    model, features = made(params), random_features(batch=4, tokens=7)
    expected = in_numpy(model, params, features)
    losses = losses_of(model, features)
    assert losses["cosine_weight"] == pytest.approx(expected["cosine_weight"], rel=2e-5)
    assert losses["hidden_weight"] == pytest.approx(expected["hidden_weight"], rel=2e-5)


@pytest.mark.parametrize("task", sorted({*INPUTS_OF_TASK, "multi_label"}))
def test_every_task_learns_from_layers_with_its_weights_in_the_total(task):
    weights = {"hidden_weight": 0.5, "relation_weight": 0.25}
    params = distilling(task, soft_weight=0.7, hard_weight=0.4, **weights)
    model, features = made(params), random_features(batch=3, tokens=7)
    targets = {
        "multi_label": {"labels": np.array([[0, 1, 1]] * 3, np.float32)},
        "token_classification": {"labels": np.where(features["padding_mask"], 2, -1)},
        "question_answering": {
            "start_positions": np.array([0, 0, 1]),
            "end_positions": np.array([0, 0, 1]),
        },
        "pretraining": {
            "masked_lm_ids": np.array([[5, 6], [7, 0], [8, 9]], np.int32),
            "masked_lm_weights": np.array([[1, 1], [1, 0], [1, 1]], np.float32),
            "next_sentence_labels": np.array([0, 1, 1], np.int32),
        },
    }[task]
    if task == "pretraining":
        features["masked_lm_positions"] = np.array([[0, 1], [2, 0], [1, 3]], np.int32)
    outputs = model.build_model(documented(features), TRAIN)
    total, hard, soft, hidden, relation = map(float, model.build_losses(outputs, targets))
    assert min(hard, soft, hidden, relation) > 0
    expected = 0.4 * hard + 0.7 * soft + 0.5 * hidden + 0.25 * relation
    assert total == pytest.approx(expected, rel=1e-5)
    layers = in_numpy(model, params, features)
    assert hidden == pytest.approx(layers["hidden_weight"], rel=2e-5)
    assert relation == pytest.approx(layers["relation_weight"], rel=2e-5)


def test_the_matrix_is_trained_and_begins_as_identity_where_the_widths_are_the_same():
    names = {name for name in make_model(distilling()).weights_by_name() if "distil" in name}
    assert names == {"distillation/kernel"}
    same = make_model(distilling(theirs={"hidden_size": 6}))
    np.testing.assert_array_equal(np.asarray(same.projection.kernel), np.eye(6))
    assert same.projection.kernel is not None and same.trainable_weights[-1].shape == (6, 6)


@pytest.mark.parametrize(
    "ours, theirs, keys, match",
    [
        ({"num_hidden_layers": 3}, {}, {"hidden_weight": 1}, r"no multiple of the network's 3"),
        ({}, {}, {"hidden_weight": 1, "teacher_layers": (0, 4)}, r"\[0, 4\], but .* 0 to 3"),
        ({}, {}, {"hidden_weight": 1, "teacher_layers": (2,)}, r"has 2 layers"),
        ({}, {"num_heads": 4}, {"relation_weight": 1}, "num_heads is 2 and the teacher has 4"),
        ({}, {"num_heads": 4}, {"attention_weight": 1}, "head with head"),
        ({}, {}, {"cosine_weight": 1}, "hidden_size is 6 and the teacher has 8"),
    ],
    ids=str,
)
def test_networks_that_do_not_go_together_are_refused(ours, theirs, keys, match):
    with pytest.raises(UserError, match=match):
        layers_to_learn(distilling(ours=ours, theirs=theirs, **keys))


def test_layers_are_learned_from_evenly_or_as_chosen():
    assert layers_to_learn(distilling()) == LAYERS
    params = distilling(hidden_weight=1.0, teacher_layers=(0, 3))
    assert layers_to_learn(params) == (0, 3)
