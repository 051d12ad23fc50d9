# SPDX-License-Identifier: Apache-2.0
"""common/training/moved_words.py: shares of pieces become those of words, in the order of texts."""

from types import SimpleNamespace

import numpy as np

from common.training import moved_words

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "dull", "snooze", "##fest", "a"]
ROWS = [[2, 7, 5, 6, 3], [2, 4, 3, 0, 0]]  # a snoozefest; dull


class Batches:
    """Both rows in a batch, the second text first, and a row that only fills up."""

    rows = np.array([[1, 0, -1]])

    def __iter__(self):
        ids = np.array([ROWS[1], ROWS[0], [0] * 5])
        yield {"input_ids": ids, "input_mask": (ids == 0) * 1, "segment_ids": ids * 0}, {}, None


class FakeAttribution:
    """A share for each token: its id in hundredths, negative for class 1."""

    def __init__(self, model, pad_id):
        assert pad_id == 0

    def __call__(self, features, is_text, target):
        assert features["input_ids"].all()  # without padding
        shares = features["input_ids"][0] / 100 * (-1 if target == 1 else 1)
        return np.where(is_text[0], shares, 0), 0.9, 0.5


def test_pieces_become_words_and_texts_keep_their_order(monkeypatch):
    monkeypatch.setattr(moved_words, "Attribution", FakeAttribution)

    inference = SimpleNamespace(model=None, load=list)
    data = SimpleNamespace(predict_input_fn=lambda params, texts: ({"texts": Batches()}, {}))
    texts = [("a snoozefest",), ("dull",)]
    session = SimpleNamespace(checkpoint=(), vocab=VOCAB, data=data, params=None, texts=texts)
    session.label_names = ("good", "not\tgood")  # the second as a table of rows has it
    first, second = moved_words.words_that_moved(session, inference, ["good", "not good"])
    assert [word for word, _ in first] == ["a", "snoozefest"]
    np.testing.assert_allclose([share for _, share in first], [0.07, 0.05 + 0.06])
    assert second == [("dull", -0.04)]
