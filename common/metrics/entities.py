# SPDX-License-Identifier: Apache-2.0
"""Entities in tagged sentences: from a label a word to spans, and the figures of spans.

NumPy alone. Two rules say what the entities of a sentence are. They agree on well-formed labels,
and differ on those that a model may predict, such as an I- without its B-:

    conlleval  the rule of the CoNLL shared tasks (conlleval.pl; seqeval's default): an I- after O,
               after another type or at the start of a sentence begins an entity.
    strict     the scheme as it is written (seqeval's `mode="strict"`): such an I- belongs to no
               entity, and in IOBES neither does a B- that no E- ends.

    scheme  one word   several words   begins directly after an entity of its type
    IOB1    I          I I I           with B
    IOB2    B          B I I           with B, as every entity
    IOBES   S          B I E           with B or S, as every entity

IOB is Ramshaw and Marcus 1995, its second form Tjong Kim Sang and Veenstra 1999.
"""

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from common.metrics.classification import precision_recall_f1

OUTSIDE = "O"
PREFIXES = "OBIES"  # a prefix as a number is its place here
O, B, I, E, S = range(len(PREFIXES))  # noqa: E741  (the names of the schemes)
SCHEMES = ("IOB1", "IOB2", "IOBES")
CONLLEVAL, STRICT = RULES = ("conlleval", "strict")
MAX_CONFUSIONS = 20  # that a report lists


def usual_scheme(label_names):
    """Returns the scheme of labels where nobody names it: IOBES where one begins with E- or S-."""
    ends = any(name[:2] in ("E-", "S-") or name in ("E", "S") for name in label_names)
    return "IOBES" if ends else "IOB2"


def is_label_of(label, scheme):
    """Whether a label is one of a scheme: O, or a prefix of its own, alone or before a type."""
    tag = split_label(label)
    return tag is not None and (scheme == "IOBES" or tag[0] not in "ES")


def split_label(label):
    """Returns the prefix and the type of a label: ("B", "creative-work") of B-creative-work.

    A type may contain hyphens, so the first one ends the prefix. A label without a type, such as
    the B and I of data with a single type, has the type "". None for what is no such label.
    """
    prefix, _, kind = label.partition("-")
    is_tag = prefix in PREFIXES and len(prefix) == 1 and (prefix == OUTSIDE) <= (not kind)
    return (prefix, kind) if is_tag else None


@dataclass(frozen=True)
class TagSet:
    """The labels of a tagging task. Raises ValueError for a label that is no tag.

    Attributes:
        label_names: tuple of str.
        scheme: one of SCHEMES.
    """

    label_names: tuple[str, ...]
    scheme: str = "IOB2"

    def __post_init__(self):
        allowed = PREFIXES if self.scheme == "IOBES" else "OBI"
        for name in self.label_names:
            if not is_label_of(name, self.scheme):
                raise ValueError(
                    f"{name} is no label of {self.scheme}: O, or "
                    f"{', '.join(f'{prefix}-' for prefix in allowed[1:])} before a type"
                )

    @functools.cached_property
    def type_names(self):
        """Types, in the order of their first labels: tuple of str."""
        tags = map(split_label, self.label_names)
        return tuple(dict.fromkeys(kind for prefix, kind in tags if prefix != OUTSIDE))

    @functools.cached_property
    def prefixes(self):
        """The prefix of each label, int8 [C]."""
        return np.array([PREFIXES.index(split_label(n)[0]) for n in self.label_names], np.int8)

    @functools.cached_property
    def types(self):
        """The place in type_names of each label, int32 [C]; -1 of O."""
        tags = map(split_label, self.label_names)
        places = [-1 if p == OUTSIDE else self.type_names.index(kind) for p, kind in tags]
        return np.array(places, np.int32)

    def entities(self, labels, lengths, rule=CONLLEVAL):
        """Returns the entities of sentences: int64 [E, 3], in order of their first word.

        Args:
            labels: int [N], those of all words of all sentences, one after the other.
            lengths: int [S], words of each sentence; their sum is N.
            rule: one of RULES.
        Returns:
            the first word, the word after the last one, both counted over all sentences, and the
            place of the type in type_names.
        """
        # An O after each sentence ends its entities.
        ends = np.cumsum(lengths)
        places = np.arange(len(labels)) + np.repeat(np.arange(len(ends)), lengths)
        prefix = np.zeros(len(labels) + len(ends) + 1, np.int8)
        kind = np.full(len(prefix), -1, np.int32)
        prefix[places + 1], kind[places + 1] = self.prefixes[labels], self.types[labels]
        before, prefix, before_kind, kind = prefix[:-1], prefix[1:], kind[:-1], kind[1:]
        starts, continues, closes = _marks(
            self.scheme, rule, before, prefix, (before_kind == kind) & (prefix != O)
        )
        starts, breaks = np.flatnonzero(starts), np.append(np.flatnonzero(~continues), len(prefix))
        ends = breaks[np.searchsorted(breaks, starts, side="right")]
        is_closed = closes[prefix[ends - 1]]
        starts, ends = starts[is_closed], ends[is_closed]
        number = np.full(len(prefix), -1)
        number[places] = np.arange(len(labels))
        return np.stack([number[starts], number[ends - 1] + 1, kind[starts]], axis=1)


def _marks(scheme, rule, before, prefix, is_same):
    """Returns where an entity starts and where one continues, bool [N]; which prefixes may be the
    last of an entity, bool [5].

    before, prefix: int8 [N], of the word before and of the word; is_same: bool [N], whether both
    are inside an entity and of the same type.
    """
    any_prefix, last = np.ones(len(PREFIXES), bool), np.isin(np.arange(len(PREFIXES)), (E, S))
    inside = np.isin(prefix, (I, E)) & np.isin(before, (B, I)) & is_same
    if rule == CONLLEVAL:
        return (prefix != O) & ~inside, inside, any_prefix
    if scheme == "IOB1":
        starts = np.where(prefix == B, is_same, (prefix == I) & ~is_same)
        return starts, inside, any_prefix
    if scheme == "IOB2":
        return prefix == B, inside, any_prefix
    return np.isin(prefix, (B, S)), inside, last


def faults_of_tags(labels, scheme):
    """Returns (place, reason) of each label of a sentence that the scheme does not allow there.

    labels: list of str, each of which `split_label` reads.
    """
    faults, before = [], (OUTSIDE, "")
    for place, label in enumerate(labels):
        prefix, kind = split_label(label)
        follows = before[0] in "BI" and before[1] == kind
        if scheme == "IOBES":
            if before[0] in "BI" and not (follows and prefix in "IE"):
                faults.append((place, f"{label} follows {_name(before)}, which no E- ends"))
            elif prefix in "IE" and not follows:
                faults.append((place, f"{label} follows {_name(before)}, without a B-"))
        elif scheme == "IOB2" and prefix == "I" and not follows:
            faults.append((place, f"{label} follows {_name(before)}, without a B-"))
        elif scheme == "IOB1" and prefix == "B" and not follows:
            faults.append((place, f"{label} follows {_name(before)}, where I- begins an entity"))
        before = prefix, kind
    if scheme == "IOBES" and before[0] in ("B", "I"):
        faults.append((len(labels) - 1, f"{_name(before)} ends the sentence, where an E- would"))
    return faults


def _name(tag):
    return "-".join(part for part in tag if part)


def scheme_of(sentences):
    """Returns the scheme of labelled sentences, or None if a label is no tag.

    sentences: iterable of lists of str. IOBES if a label has its prefixes; IOB1 if that has the
    fewer faults, as a file in which no entity begins with B- directly after O; else IOB2.
    """
    prefixes, faults = set(), {"IOB1": 0, "IOB2": 0}
    for labels in sentences:
        tags = [split_label(label) for label in labels]
        if None in tags:
            return None
        prefixes |= {prefix for prefix, _ in tags}
        for scheme in faults:
            faults[scheme] += len(faults_of_tags(labels, scheme))
    if prefixes & {"E", "S"}:
        return "IOBES"
    return min(("IOB2", "IOB1"), key=faults.get)


def encode(spans, num_words, scheme):
    """Returns the labels of a sentence, list of str: the inverse of reading its entities.

    spans: list of (first word, word after the last, type), which do not overlap.
    """
    labels = [OUTSIDE] * num_words
    spans = sorted(spans)
    for n, (start, end, kind) in enumerate(spans):
        touches = n > 0 and spans[n - 1][1:] == (start, kind)
        for place in range(start, end):
            prefix = "B" if place == start else "I"
            if scheme == "IOB1" and not (place == start and touches):
                prefix = "I"
            if scheme == "IOBES" and place == end - 1:
                prefix = "S" if place == start else "E"
            labels[place] = "-".join([prefix, kind]) if kind else prefix
    return labels


@dataclass
class EntityCounts:
    """How many entities of each type are true, predicted, and both; sums over sentences.

    Attributes:
        type_names: tuple of str.
        hits, predicted, true: int64 [types].
    """

    type_names: tuple[str, ...]
    hits: np.ndarray
    predicted: np.ndarray
    true: np.ndarray

    @classmethod
    def of(cls, true, predicted, type_names):
        """true, predicted: int [E, 3], as `TagSet.entities` returns them."""
        size = len(type_names)
        shared = np.array(sorted(set(map(tuple, true)) & set(map(tuple, predicted))), int)
        counts = (
            np.bincount(spans.reshape(-1, 3)[:, 2], minlength=size)
            for spans in (shared, predicted, true)
        )
        return cls(tuple(type_names), *counts)

    def overall(self):
        """Returns {"precision", "recall", "f1", "support"} of all entities: the micro average."""
        counts = self.hits.sum(), self.predicted.sum(), self.true.sum()
        figures = {name: float(value) for name, value in precision_recall_f1(*counts).items()}
        return figures | {"support": int(self.true.sum())}

    def per_type(self):
        """Returns [{"type", "precision", "recall", "f1", "support"}], in the order of names."""
        figures = precision_recall_f1(self.hits, self.predicted, self.true)
        return [
            {
                "type": name,
                **{figure: float(values[n]) for figure, values in figures.items()},
                "support": int(self.true[n]),
            }
            for n, name in enumerate(self.type_names)
        ]


def commonest_confusions(true, predicted, label_names):
    """Returns [{"true", "predicted", "count"}] of the labels that are taken for others most often.

    true, predicted: int [N], labels of words.
    """
    size = len(label_names)
    wrong = np.flatnonzero(true != predicted)
    counts = np.bincount(true[wrong].astype(np.int64) * size + predicted[wrong], minlength=size**2)
    order = np.argsort(-counts, kind="stable")[:MAX_CONFUSIONS]
    return [
        {
            "true": label_names[pair // size],
            "predicted": label_names[pair % size],
            "count": int(counts[pair]),
        }
        for pair in itertools.takewhile(lambda pair: counts[pair] > 0, order.tolist())
    ]
