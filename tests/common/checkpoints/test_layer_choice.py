# SPDX-License-Identifier: Apache-2.0
"""Checkpoints with some of their layers, of families whose layers differ or are the same."""

import numpy as np
import pytest

from common.checkpoints.layer_choice import with_layers
from common.checkpoints.load import open_checkpoint
from common.errors import UserError
from tests.reference.family_fixtures import FIXTURES, needs_fixtures


def of_family(family):
    return open_checkpoint(FIXTURES / f"hf_{family}" / "sequence_classification")


@needs_fixtures
def test_an_albert_of_fewer_layers_has_the_weights_that_they_share():
    teacher = of_family("albert")  # of 3 layers
    student = with_layers(teacher, (0, 2))
    assert student.config["num_hidden_layers"] == 2
    assert student.weights.keys() == teacher.weights.keys()
    name = "encoder/layer_0/attention/query/kernel"
    np.testing.assert_array_equal(np.asarray(student.weights[name]), teacher.weights[name])
    with pytest.raises(UserError, match=r"has 3, but .* has 3 layers, from 0 on"):
        with_layers(teacher, (0, 3))


@needs_fixtures
@pytest.mark.parametrize(("layers", "moved"), [((0, 1, 2, 3), ""), ((0, 2), ""), ((0, 3), "3")])
def test_layers_of_a_modernbert_that_attend_otherwise_in_their_new_place_are_named(layers, moved):
    """Layers 0 and 3 of its 4 attend to all tokens."""
    notes = with_layers(of_family("modernbert"), layers).config["notes"]
    told = [note for note in notes if "attend to other tokens than in the teacher" in note]
    assert [note.split(" attend")[0] for note in told] == ([moved] if moved else [])
