# SPDX-License-Identifier: Apache-2.0
"""Pairs of texts and their masks, draw for draw as google-research/bert creates them.

The functions follow create_pretraining_data.py (commit eedf571) line by line, on ids in place of
strings. All of them draw from one `random.Random(seed)`, so the same text, vocabulary and settings
give the same examples in the same order.
"""

from dataclasses import dataclass

NUM_TRIES = 10  # to draw another document than the first text's


@dataclass(frozen=True)
class Example:
    """A row with its masks."""

    ids: list[int]  # after masking, with special tokens, without padding
    num_first: int  # tokens of the first text, [CLS] and its [SEP] included
    positions: list[int]  # of the tokens to predict, ascending
    labels: list[int]  # these tokens
    is_random_next: bool | None = None  # whether the second text is another document's; None: none


@dataclass(frozen=True)
class Masking:
    """Which tokens are predicted, and what stands in their place.

    Attributes:
        share: float, of a row's tokens, special ones included.
        most: int. Tokens to predict in a row, at most.
        vocab_size: int. Random tokens are uniform over all of it.
        mask_id: int, id of [MASK].
        never: frozenset of the ids that are not predicted.
        continues: sequence of bool, which ids continue a word; empty: pieces are drawn singly.
    """

    share: float
    most: int
    vocab_size: int
    mask_id: int
    never: frozenset
    continues: tuple = ()

    def draw(self, ids, rng):
        """Returns the ids after masking, the positions and the labels: three lists of int."""
        candidates = []
        for place, token in enumerate(ids):
            if token in self.never:
                continue
            if self.continues and candidates and self.continues[token]:
                candidates[-1].append(place)
            else:
                candidates.append([place])
        rng.shuffle(candidates)
        masked = list(ids)
        wanted = min(self.most, max(1, round(len(ids) * self.share)))
        chosen = []
        for word in candidates:
            if len(chosen) >= wanted:
                break
            if len(chosen) + len(word) > wanted:
                continue
            for place in word:
                if rng.random() < 0.8:
                    masked[place] = self.mask_id
                elif rng.random() >= 0.5:
                    masked[place] = rng.randint(0, self.vocab_size - 1)
                chosen.append(place)
        chosen.sort()
        return masked, chosen, [ids[place] for place in chosen]


def pairs(corpus, order, settings, masking, special, rng):
    """Yields the Examples of all documents, `dupe_factor` times, in the order of creation.

    Args:
        corpus: Corpus.
        order: sequence of int, the documents in their drawn order.
        settings: RecordSettings.
        masking: Masking.
        special: tuple of the ids of [CLS] and [SEP].
        rng: random.Random.
    """
    for _ in range(settings.dupe_factor):
        for place in range(len(order)):
            yield from _pairs_of(corpus, order, place, settings, masking, special, rng)


def _pairs_of(corpus, order, place, settings, masking, special, rng):
    """Yields the Examples of the document at a place of the order."""
    room = settings.max_sequence_length - 3
    target = room
    if rng.random() < settings.short_seq_prob:
        target = rng.randint(settings.min_short_seq_length or 2, room)
    document = order[place]
    num_sentences = corpus.num_sentences(document)
    chunk, length, i = [], 0, 0
    while i < num_sentences:
        chunk.append(corpus.sentence(document, i))
        length += len(chunk[-1])
        if i == num_sentences - 1 or length >= target:
            end = 1 if len(chunk) < 2 else rng.randint(1, len(chunk) - 1)
            first = [token for sentence in chunk[:end] for token in sentence]
            is_random_next = len(chunk) == 1 or rng.random() < 0.5
            if is_random_next:
                second = _random_text(corpus, order, place, target - len(first), rng)
                i -= len(chunk) - end  # the sentences that are not used begin the next chunk
            else:
                second = [token for sentence in chunk[end:] for token in sentence]
            truncate(first, second, room, rng)
            cls_id, sep_id = special
            ids = [cls_id, *first, sep_id, *second, sep_id]
            ids, positions, labels = masking.draw(ids, rng)
            yield Example(ids, len(first) + 2, positions, labels, is_random_next)
            chunk, length = [], 0
        i += 1


def _random_text(corpus, order, place, wanted, rng):
    """Returns the tokens of sentences of another document, until there are `wanted`."""
    for _ in range(NUM_TRIES):
        other = rng.randint(0, len(order) - 1)
        if other != place:
            break
    document, tokens = order[other], []
    num_sentences = corpus.num_sentences(document)
    for i in range(rng.randint(0, num_sentences - 1), num_sentences):
        tokens += corpus.sentence(document, i)
        if len(tokens) >= wanted:
            break
    return tokens


def truncate(first, second, room, rng):
    """Takes tokens from the longer text, at its beginning or its end, until both fit. In place."""
    while len(first) + len(second) > room:
        longer = first if len(first) > len(second) else second
        if rng.random() < 0.5:
            del longer[0]
        else:
            longer.pop()
