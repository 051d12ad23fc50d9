# SPDX-License-Identifier: Apache-2.0
"""Which words moved the predictions of a few rows, for the report of a run."""

import numpy as np

from common.console import in_one_cell
from common.training.attribution import Attribution

PAD, CLS, SEP, CONTINUATION = "[PAD]", "[CLS]", "[SEP]", "##"


def words_that_moved(session, inference, answers):
    """Explains the answers to the texts of a Session of a classifier.

    Args:
        session: Session to predict texts, whose batches are not packed.
        inference: Inference of its model; the checkpoint is loaded here.
        answers: list of str, the label name that each text was given.
    Returns:
        for each text [(word, share of the answer's probability), ...], the words as the vocabulary
        has them.
    """
    inference.load(session.checkpoint)
    vocab, names = session.vocab, [in_one_cell(name) for name in session.label_names]
    pad, *others = (vocab.index(name) for name in (PAD, CLS, SEP))
    attribution = Attribution(inference.model, pad)
    batches, _ = session.data.predict_input_fn(session.params, session.texts)
    batches, found = batches["texts"], {}
    for (features, *_), rows in zip(batches, batches.rows, strict=True):
        features = {name: np.asarray(each) for name, each in features.items()}
        num_tokens = (features["input_ids"] != pad).sum(axis=1)
        for place, row in enumerate(rows.tolist()):
            if row >= 0:
                one = np.s_[place : place + 1, : num_tokens[place]]
                of_row = {name: each[one] for name, each in features.items()}
                is_text = ~np.isin(of_row["input_ids"], others)
                shares, *_ = attribution(of_row, is_text, names.index(answers[row]))
                tokens = of_row["input_ids"][is_text].tolist()
                found[row] = _words_of(tokens, shares[is_text[0]].tolist(), vocab)
    return [found[row] for row in range(len(session.texts))]


def _words_of(tokens, shares, vocab):
    """Joins the pieces of each word, and adds up their shares."""
    words = []
    for token, share in zip(tokens, shares, strict=True):
        piece = vocab[token]
        if piece.startswith(CONTINUATION) and words:
            word, sum_of_word = words[-1]
            words[-1] = word + piece.removeprefix(CONTINUATION), sum_of_word + share
        else:
            words.append((piece, share))
    return words
