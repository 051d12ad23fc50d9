# SPDX-License-Identifier: Apache-2.0
"""Tokenised documents in a file, from which any sentence is read: a text may exceed the memory."""

import itertools
from array import array

import numpy as np
import tensorflow as tf

from common.signals import poll

LINES_AT_ONCE = 4096  # tokenised by one call


class Corpus:
    """Documents of sentences of token ids; those without any token are left out.

    In memory are 8 bytes a sentence and 8 a document.

    Args:
        documents: iterable of documents, each an iterable of lines, str.
        tokenizer: WordPieceTokenizer.
        file: binary file, empty, open for writing and reading. It has to stay there.
    """

    def __init__(self, documents, tokenizer, file):
        self._sentences = array("q", [0])  # where each begins among the tokens, and their number
        self._documents = array("q", [0])  # the first sentence of each, and the number of all
        lines = ((number, line) for number, lines in enumerate(documents) for line in lines)
        current = None
        while some := list(itertools.islice(lines, LINES_AT_ONCE)):
            poll()
            numbers, texts = zip(*some, strict=True)
            tokens = tokenizer.traced(tf.constant(texts, tf.string))
            file.write(tokens.flat_values.numpy().astype("<i4").tobytes())
            for number, length in zip(numbers, tokens.row_lengths().numpy().tolist(), strict=True):
                if not length:
                    continue
                if number != current and current is not None:
                    self._documents.append(len(self._sentences) - 1)
                current = number
                self._sentences.append(self._sentences[-1] + length)
        if current is not None:
            self._documents.append(len(self._sentences) - 1)
        file.flush()
        self.num_tokens = self._sentences[-1]
        empty = np.zeros(0, "<i4")
        self._ids = np.memmap(file, "<i4", mode="r") if self.num_tokens else empty

    def __len__(self):
        return len(self._documents) - 1

    def num_sentences(self, document):
        return self._documents[document + 1] - self._documents[document]

    def num_tokens_of(self, document):
        first, end = self._span(document)
        return end - first

    def sentence(self, document, place):
        """Returns the ids of a sentence of a document, list of int."""
        first = self._documents[document] + place
        return self._ids[self._sentences[first] : self._sentences[first + 1]].tolist()

    def tokens(self, document):
        """Returns the ids of a document, list of int."""
        first, end = self._span(document)
        return self._ids[first:end].tolist()

    def _span(self, document):
        first, end = self._documents[document], self._documents[document + 1]
        return self._sentences[first], self._sentences[end]
