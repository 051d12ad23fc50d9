# SPDX-License-Identifier: Apache-2.0
"""Pairs of sentences for pre-training as two published programs make them, in plain Python.

create_instances_from_document of google-research/bert create_pretraining_data.py, and that of
google-research/albert without --random_next_sentence, on lists of tokens. The draws are those of
`input/prepared/draws.py`, in the order of this project.
"""

from input.prepared.draws import Draws


def pairs(documents, room, short_seq_prob, key, is_order=False):
    """Returns [(first text, second text, label)]. documents: of sentences, lists of tokens."""
    instances = []
    for number, document in enumerate(documents):
        draws = Draws(*key, number)
        target = room
        if draws.chance(short_seq_prob):
            target = 2 + draws.below(room - 1)
        chunk, length, i = [], 0, 0
        while i < len(document):
            chunk.append(document[i])
            length += len(document[i])
            if i == len(document) - 1 or length >= target:
                a_end = 1
                if len(chunk) >= 2:
                    a_end = 1 + draws.below(len(chunk) - 1)
                a = [token for sentence in chunk[:a_end] for token in sentence]
                b = []
                label = 0
                if len(chunk) == 1 or (not is_order and draws.chance(0.5)):
                    label = 1
                    for _ in range(10):
                        other = draws.below(len(documents))
                        if other != number:
                            break
                    start = draws.below(len(documents[other]))
                    for sentence in documents[other][start:]:
                        b += sentence
                        if len(b) >= target - len(a):
                            break
                    i -= len(chunk) - a_end
                else:
                    b = [token for sentence in chunk[a_end:] for token in sentence]
                    if is_order and draws.chance(0.5):
                        label = 1
                        a, b = b, a
                truncate(a, b, room, draws)
                instances.append((a, b, label))
                chunk, length = [], 0
            i += 1
    return instances


def truncate(a, b, room, draws):
    """truncate_seq_pair; the coins are those of the first text, then the second's."""
    cut_a = cut_b = 0
    while len(a) - cut_a + len(b) - cut_b > room:
        if len(a) - cut_a > len(b) - cut_b:
            cut_a += 1
        else:
            cut_b += 1
    for text, cut in ((a, cut_a), (b, cut_b)):
        front = draws.heads(cut)
        del text[:front]
        del text[len(text) - (cut - front) :]
