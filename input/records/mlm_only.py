# SPDX-License-Identifier: Apache-2.0
"""Rows of one text each for masked words alone, as the original's create_tfrecords_mlm_only.py
makes them: windows over documents that are shuffled buffer by buffer.
"""

from input.records.google import Example


def windows(corpus, settings, separator_id, rng):
    """Yields the tokens of every row, without special ones, `dupe_factor` times: lists of int.

    A window steps back by `overlap_size`. One that would hold nothing but the overlap is left out.
    With `allow_cross_document_examples` what is left of a document, too short for a window, begins
    the next one's first, a separator between them.
    """
    room = settings.max_sequence_length - 2
    overlap = settings.overlap_size
    shortest = settings.min_short_seq_length or 2 + overlap
    for _ in range(settings.dupe_factor):
        for documents in _buffers(corpus, settings.buffer_size):
            rng.shuffle(documents)
            rest = []
            for number, document in enumerate(documents):
                tokens = [*rest, separator_id] if rest else []
                tokens += corpus.tokens(document)
                is_last = number == len(documents) - 1
                carries = settings.allow_cross_document_examples and not is_last
                begin, rest = 0, []
                while True:
                    target = room
                    if rng.random() < settings.short_seq_prob:
                        target = rng.randint(shortest, room)
                    end = begin + target
                    if carries and end > len(tokens):
                        rest = tokens[begin:]
                        break
                    yield tokens[begin:end]
                    if end >= len(tokens):
                        break
                    begin = end - overlap


def _buffers(corpus, size):
    """Yields lists of documents that have `size` tokens together, or the last ones."""
    documents, num_tokens = [], 0
    for document in range(len(corpus)):
        documents.append(document)
        num_tokens += corpus.num_tokens_of(document)
        if num_tokens >= size:
            yield documents
            documents, num_tokens = [], 0
    if documents:
        yield documents


def masked(rows, masking, special, rng):
    """Yields the Example of each row of `windows`. special: ids of [CLS] and [SEP]."""
    cls_id, sep_id = special
    for tokens in rows:
        ids = [cls_id, *tokens, sep_id]
        drawn, positions, labels = masking.draw(ids, rng)
        yield Example(drawn, len(ids), positions, labels)
