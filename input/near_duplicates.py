# SPDX-License-Identifier: Apache-2.0
"""Texts that are nearly the same: MinHash finds candidates, and each is compared as it is.

A text is the set of its pairs of neighbouring tokens, its beginning and its end among them. Two
texts are alike where the Jaccard similarity of their sets, common pairs / all pairs, is
MIN_SIMILARITY or more: of eleven tokens one may differ. Of rows with two texts both must be alike,
so that two questions on one passage are not.

MinHash (Broder 1997): under a random order of all pairs of tokens, two sets have the same first
element with a probability that is their similarity. NUM_BANDS bands of BAND_SIZE orders find a pair
of similarity s with probability 1 - (1 - s^4)^16: 0.99 at 0.7, 0.9999 at 0.85 (Leskovec, Rajaraman
and Ullman, Mining of Massive Datasets, 3.4). SST-2 (67,349 rows) takes 2 s.
"""

import numpy as np

from common.signals import poll

MIN_SIMILARITY = 0.7
NUM_BANDS, BAND_SIZE = 16, 4
# Texts of a band with the same hashes are compared with so many before them, not with all: a
# thousand of one form would be half a million pairs.
MAX_NEIGHBOURS = 12
ROWS_AT_ONCE = 65536  # for which the hashes of their pairs of tokens are in memory
CANDIDATES_AT_ONCE = 50000
EDGE = np.uint64(2**32 - 1)  # stands before the first and after the last token


def near_pairs(ids, offsets, texts_per_row):
    """Finds the rows that are nearly the same.

    Args:
        ids, offsets: as of Tokens: int32 [sum of lengths], int64 [N * texts_per_row + 1]. No row
            should be there twice, as equal rows crowd out others.
        texts_per_row: int, 1 or 2.
    Returns:
        pairs: int64 [P, 2], rows in order, the first below the second.
        similarities: float64 [P], of the less similar texts of each pair.
    """
    sets = _TokenPairs(ids, offsets)
    pairs = _candidates(sets.signatures(texts_per_row))
    similarities = np.ones(len(pairs))
    for start in range(0, len(pairs), CANDIDATES_AT_ONCE):
        poll()
        part = slice(start, start + CANDIDATES_AT_ONCE)
        for text in range(texts_per_row):
            first, second = pairs[part].T * texts_per_row + text
            similarities[part] = np.minimum(similarities[part], sets.jaccard(first, second))
    is_near = similarities >= MIN_SIMILARITY
    return pairs[is_near], similarities[is_near]


class _TokenPairs:
    """The pairs of neighbouring tokens of texts. A text of n tokens has n + 1, so none has none."""

    def __init__(self, ids, offsets):
        self.ids, self.offsets = ids, offsets

    def hashes(self, first, last):
        """Returns the hashes of the pairs of texts first <= text < last, uint64, and where each
        text begins among them, with the end: int64 [last - first + 1]."""
        begin, end = self.offsets[[first, last]]
        lengths = np.diff(self.offsets[first : last + 1])
        starts = np.concatenate([[0], np.cumsum(lengths + 1)])
        places = np.arange(end - begin) + np.repeat(np.arange(last - first), lengths)
        before = np.full(starts[-1], EDGE)
        after = np.full(starts[-1], EDGE)
        tokens = self.ids[begin:end].astype(np.uint64)
        after[places], before[places + 1] = tokens, tokens
        before[starts[:-1]] = EDGE
        return _mixed((before << np.uint64(32)) | after), starts

    def signatures(self, texts_per_row):
        """Returns the smallest hash of each row under each order, uint32 [N, bands * size]."""
        random = np.random.Generator(np.random.Philox(key=[0, 0]))
        size = NUM_BANDS * BAND_SIZE
        # Dietzfelbinger et al. 1997: the high bits of a * x + b, for odd a.
        factors = random.integers(0, 2**63, size, np.uint64) * np.uint64(2) + np.uint64(1)
        terms = random.integers(0, 2**63, size, np.uint64)
        num_rows = (len(self.offsets) - 1) // texts_per_row
        signatures = np.empty((num_rows, size), np.uint32)
        for start in range(0, num_rows, ROWS_AT_ONCE):
            poll()
            end = min(start + ROWS_AT_ONCE, num_rows)
            hashes, begins = self.hashes(start * texts_per_row, end * texts_per_row)
            begins = begins[:-1:texts_per_row]
            for n, (factor, term) in enumerate(zip(factors, terms, strict=True)):
                of_pairs = ((hashes * factor + term) >> np.uint64(32)).astype(np.uint32)
                signatures[start:end, n] = np.minimum.reduceat(of_pairs, begins)
        return signatures

    def jaccard(self, first, second):
        """Returns the similarity of each text of `first` to that of `second`: float64 [P]."""
        texts, place = np.unique(np.concatenate([first, second]), return_inverse=True)
        lengths = np.diff(self.offsets)[texts]
        begins = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(self.offsets[texts] - begins[:-1], lengths) + np.arange(begins[-1])
        hashes, starts = _TokenPairs(self.ids[places], begins).hashes(0, len(texts))
        _, numbers = np.unique(hashes, return_inverse=True)  # below 2^31, to share 64 bits
        sizes = np.diff(starts)
        of_texts = np.unique((np.repeat(np.arange(len(texts)), sizes) << 32) | numbers)
        sizes = np.bincount(of_texts >> 32, minlength=len(texts))  # of sets
        starts = np.cumsum(sizes) - sizes
        elements = of_texts & (2**32 - 1)
        # The sets of both texts of each pair, in a row: what is there twice, both have.
        both = place.reshape(2, -1).T.ravel()
        counts = sizes[both]
        begins = np.cumsum(counts) - counts
        taken = elements[np.repeat(starts[both] - begins, counts) + np.arange(counts.sum())]
        pair = np.repeat(np.arange(len(both)) // 2, counts)
        keys = np.sort((pair << 32) | taken)
        common = np.bincount(keys[1:][keys[1:] == keys[:-1]] >> 32, minlength=len(first))
        return common / (counts.reshape(-1, 2).sum(axis=1) - common)


def _mixed(x):
    """The finalizer of SplitMix64 (Steele et al. 2014): all bits of a number reach all others."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _candidates(signatures):
    """Returns the rows that share a band: int64 [P, 2], the first below the second, in order."""
    num_rows, codes = len(signatures), [np.zeros(0, np.int64)]
    for band in range(NUM_BANDS):
        poll()
        keys = np.zeros(num_rows, np.uint64)
        for column in signatures[:, band * BAND_SIZE : (band + 1) * BAND_SIZE].T:
            keys = _mixed(keys ^ column)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        for distance in range(1, min(MAX_NEIGHBOURS, num_rows - 1) + 1):
            place = np.flatnonzero(keys[distance:] == keys[:-distance])
            if not len(place):
                break
            codes.append(order[place] * num_rows + order[place + distance])
    codes = np.unique(np.concatenate(codes))
    return np.stack(np.divmod(codes, num_rows), axis=1) if num_rows else codes.reshape(0, 2)
