# SPDX-License-Identifier: Apache-2.0
"""common/training/attribution.py: the shares of tokens, whatever of the network is frozen.

tests/serving/test_engines.py has the axiom of completeness, with a trained network.
"""

import numpy as np
import pytest

from common.training.attribution import Attribution


@pytest.mark.parametrize("frozen", [["embeddings"], ["embeddings", "layers:1"], ["encoder"]])
def test_shares_do_not_depend_on_what_is_frozen(make_classifier, frozen):
    ids = np.array([[2, 5, 6, 7, 3]], np.int32)
    features = {"input_ids": ids, "input_mask": ids * 0, "segment_ids": ids * 0}
    is_text = np.array([[False, True, True, True, False]])
    model = make_classifier().model
    expected, *answers = Attribution(model, 0)(features, is_text, 1)
    assert np.abs(expected[1:4]).min() > 0
    model.freeze(frozen)
    shares, *answers_frozen = Attribution(model, 0)(features, is_text, 1)
    np.testing.assert_array_equal(shares, expected)
    assert answers_frozen == answers
