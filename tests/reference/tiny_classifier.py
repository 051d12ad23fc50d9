# SPDX-License-Identifier: Apache-2.0
"""A tiny classifier to export: random weights, a vocabulary of 23 entries, two to five labels."""

from common.export.export import Classifier
from input.features import Layout, TextFeatures
from input.tokenizers.library import LibraryTokenizer
from input.tokenizers.wordpiece import WordPieceTokenizer
from model import make_model
from tests.reference.tiny_bert import VOCAB_SIZE, randomize, tiny_params

VOCAB = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "never", "once", "dull", "it", "was"),
    *("dragged", "good", "bad", "##ly", "##er", ".", ",", "!", "caf", "##e", "a", "b", "|"),
]  # fmt: skip
LABELS = ("awful", "bad", "so so", "good", "père")
assert len(VOCAB) == VOCAB_SIZE


def make_classifier(
    texts_per_row=1, num_classes=5, quantize=None, rows=None, task=None, vocab=None, **model
):
    """Returns a Classifier. rows: keys of InputParams; task, model: as of `tiny_params`; vocab: a
    LibraryVocab, or None: VOCAB."""
    tokenizer = WordPieceTokenizer(VOCAB) if vocab is None else LibraryTokenizer(vocab)
    if vocab is not None:
        model["vocab_size"] = len(vocab)
    params = tiny_params(num_classes, task=task, **model)
    data = params.predict_input.model_copy(update=rows or {})
    params = params.model_copy(update={"predict_input": data})
    network = make_model(params, LABELS[:num_classes])
    randomize(network)
    return Classifier(
        network,
        params,
        tokenizer.vocab,
        TextFeatures(
            tokenizer,
            texts_per_row,
            data.max_sequence_length,
            Layout(data.add_special_tokens, data.invert_mask, data.pad_id, tokenizer.num_between),
        ),
        metrics={"accuracy": 0.875},
        step=1234,
        quantize=quantize,
    )
