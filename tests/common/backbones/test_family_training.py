# SPDX-License-Identifier: Apache-2.0
"""What a training of BERT has, for every family: exact resume, precision, recompute, layer-wise
rates and frozen parts."""

import numpy as np
import pytest
from pydantic import ValidationError

from common.checkpoints import store
from common.checkpoints.load import open_checkpoint
from tests.reference.source_cases import FAMILIES
from tests.reference.toy_session import bits_of, make_params, train

NAMES = ("roberta", "distilbert", "electra", "albert", "modernbert")
STEPS = 4
# Steps that are as large as their gradients: Adam divides the noise of those that are 0 by itself.
PLAIN = {"optimizer_type": "sgd", "weight_decay_rate": 0.0, "max_gradient_norm": None}


def network(family, **model):
    return {"num_hidden_layers": 2, **FAMILIES[family], **model}


def weights_after(folder, steps=STEPS, **values):
    """{neutral name: array} of the network that a training leaves."""
    train(folder, max_steps=steps, **values)
    weights = open_checkpoint(store.newest_checkpoint(folder)).weights
    return {name: np.asarray(each) for name, each in weights.items()}


@pytest.mark.slow  # programs of its own: 3 s each
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("family", NAMES)
def test_a_resumed_run_has_the_bits_of_one_that_went_through(family, precision, tmp_path):
    values = {"model": network(family, mixed_precision=precision)}
    train(tmp_path / "whole", max_steps=STEPS, **values)
    train(tmp_path / "parts", max_steps=STEPS // 2, **values)
    train(tmp_path / "parts", max_steps=STEPS, **values)
    whole, parts = (store.newest_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert bits_of(whole) == bits_of(parts)


@pytest.mark.slow
@pytest.mark.parametrize("family", NAMES)
def test_recomputed_layers_have_the_same_gradients_with_their_dropout(family, tmp_path):
    stored, recomputed = (
        weights_after(
            tmp_path / str(is_on), model=network(family, recompute=is_on), optimizer=PLAIN
        )
        for is_on in (False, True)
    )
    for name, each in stored.items():
        # float32 in another order, of updates up to 0.01
        np.testing.assert_allclose(recomputed[name], each, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("family", NAMES)
def test_layers_learn_at_their_own_rates(family, tmp_path):
    """embeddings, layer 0, layer 1, head: 1/8, 1/4, 1/2 and 1 of the rate."""
    plain = PLAIN | {"learning_rate": 1.0}  # so that the layers move by more than float32 rounds
    optimizer = plain | {"layer_wise_lr_decay": 0.5}
    model = network(family)
    if family == "albert":
        with pytest.raises(ValidationError) as error:
            make_params(tmp_path, model=model, optimizer=optimizer)
        ((key, text),) = error.value.errors()[0]["ctx"]["faults"]
        assert key == "optimizer.layer_wise_lr_decay" and "share their weights" in text
        return
    still = PLAIN | {"learning_rate": 1e-30}
    start = weights_after(tmp_path / "start", 1, model=model, optimizer=still)
    whole = weights_after(tmp_path / "whole", 1, model=model, optimizer=plain)
    decayed = weights_after(tmp_path / "decayed", 1, model=model, optimizer=optimizer)
    factors = {"embeddings": 1 / 8, "encoder/layer_0": 1 / 4, "encoder/layer_1": 1 / 2}
    moved = set()
    for name, before in start.items():
        part = next((part for part in factors if name.startswith(f"{part}/")), None)
        expected = (whole[name] - before) * factors.get(part, 1.0)
        # A difference of numbers near 1 in float32.
        np.testing.assert_allclose(
            decayed[name] - before, expected, rtol=0, atol=3e-7, err_msg=name
        )
        moved |= {part} if np.abs(expected).max() > 1e-5 else set()
    assert moved == {*factors, None}


@pytest.mark.slow
@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("frozen", [["embeddings"], ["encoder"]])
def test_frozen_parts_stay_as_they_were(family, frozen, tmp_path):
    model = network(family, freeze=frozen)
    start = weights_after(tmp_path / "start", 1, model=model, optimizer={"learning_rate": 1e-30})
    after = weights_after(tmp_path / "after", model=model)
    moved = {name for name, before in start.items() if (after[name] != before).any()}
    assert moved and not any(name.startswith(f"{frozen[0]}/") for name in moved)
    others = {name.split("/")[0] for name in start} - set(frozen)
    assert {name.split("/")[0] for name in moved} == others
