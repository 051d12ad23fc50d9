# SPDX-License-Identifier: Apache-2.0
"""The figures and the answers of token classification, of words and of the entities they make.

A row of the network is a window of a text; here words are put together again, each from the window
that answers for it (`input/word_rows.py`). NumPy alone.
"""

import json
import re

import numpy as np

from common.metrics.entities import (
    CONLLEVAL,
    OUTSIDE,
    RULES,
    STRICT,
    EntityCounts,
    TagSet,
    commonest_confusions,
    usual_scheme,
)
from common.metrics.probabilities import cross_entropy, softmax
from common.metrics.row_metrics import RowMetrics

FIRST, AVERAGE, MAX = AGGREGATIONS = ("first", "average", "max")
PARTS = re.compile(r"[\t\n\v\f\r]")  # what would part columns or lines of a CoNLL file
IMPROBABLE = -100.0  # logit of the other labels of a word without a token, which counts as O


def tag_set(label_names, scheme=None):
    """Returns the TagSet of label names; None where they are no tags, as parts of speech.

    scheme: of SCHEMES, or None: `usual_scheme`.
    """
    try:
        tags = TagSet(tuple(label_names), scheme or usual_scheme(label_names))
    except ValueError:
        return None
    return tags if tags.type_names else None


def word_logits(logits, rows, aggregation, label_names):
    """Returns the logits of words, <float32>[W, C].

    Args:
        logits: <float32>[tokens of all rows, C], without special tokens.
        rows: WordRows.
        aggregation: first: those of a word's first token; average: the logarithm of the mean of its
            tokens' probabilities; max: those of its token with the largest probability.
        label_names: C str. A word without a token is O, or the first label where there is no O.
    """
    place, pieces = rows.place_of_word, rows.pieces_in_row
    if not len(logits):
        words = np.zeros((len(place), len(label_names)), np.float32)
    elif aggregation == FIRST:
        words = logits[place]
    else:
        probabilities = softmax(logits.astype(np.float64))
        word = np.repeat(np.arange(len(place)), pieces)
        within = np.arange(len(word)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        token = np.repeat(place, pieces) + within
        if aggregation == AVERAGE:
            sums = np.zeros((len(place), logits.shape[1]))
            np.add.at(sums, word, probabilities[token])
            words = np.log(np.maximum(sums, 1e-300) / np.maximum(pieces, 1)[:, None])
        else:
            # Stable: of equal ones the first token.
            order = np.lexsort((within, -probabilities[token].max(axis=1), word))
            best = place.copy()
            first = np.searchsorted(word[order], np.arange(len(place)))
            has_tokens = pieces > 0
            best[has_tokens] = token[order][first[has_tokens]]
            words = logits[best]
    words = words.astype(np.float32)
    words[~rows.has_tokens] = IMPROBABLE
    outside = label_names.index(OUTSIDE) if OUTSIDE in label_names else 0
    words[~rows.has_tokens, outside] = 0.0
    return words


class TaggingMetrics(RowMetrics):
    """Figures of outputs {"logits": <float32>[B, T, C]}, of all words of a split.

    Args:
        label_names: C str.
        scheme: of SCHEMES, or None: see `tag_set`.
        aggregation: of AGGREGATIONS.
    """

    main_mode = "max"

    def __init__(self, label_names, scheme=None, aggregation=FIRST):
        super().__init__()
        self.label_names, self.aggregation = tuple(label_names), aggregation
        self.tags = tag_set(label_names, scheme)
        self.main = "eval/word_accuracy" if self.tags is None else "eval/entity_f1"
        of_entities = ("entity_f1", "entity_precision", "entity_recall", "strict_entity_f1")
        names = () if self.tags is None else of_entities
        self.names = ("loss", *(f"eval/{name}" for name in names), "eval/word_accuracy")
        self.names_of_splits = {self.main: self.main.removeprefix("eval/")}
        self._rows = self._logits = None  # WordRows; {row: logits of its tokens}

    def begin(self, batches):
        self._rows, self._logits = batches.word_rows, {}

    def __len__(self):
        return len(self.outputs["num_words"]) if self._rows is not None or self._splits else 0

    def update(self, outputs, targets, rows):
        logits, first = outputs["logits"], self._rows.num_before
        for place, row in enumerate(np.asarray(rows).tolist()):
            if row >= 0:
                count = self._rows.windows.count[row]
                self._logits[row] = logits[place, first : first + count]
            else:  # so that a worker without rows knows the number of labels
                self._logits.setdefault(-1, logits[place, :0])

    def exchange(self, gather):
        numbers = sorted(self._logits)
        joined = gather(np.concatenate([self._logits[number] for number in numbers]))
        numbers = gather(np.array(numbers, np.int64))
        counts = np.where(numbers >= 0, self._rows.windows.count[numbers], 0)
        parts = np.split(joined, np.cumsum(counts)[:-1])
        self._logits = dict(zip(numbers.tolist(), parts, strict=True))

    def _joined(self):
        """Returns (numbers of texts, outputs, targets) of all splits."""
        if self._rows is not None:
            rows, self._rows = self._rows, None
            parts = [self._logits[row] for row in range(len(rows.windows))]
            logits = np.concatenate(parts) if parts else np.zeros((0, len(self.label_names)))
            words = word_logits(logits, rows, self.aggregation, self.label_names)
            outputs = {"logits": words, "num_words": rows.words.counts}
            targets = {"labels": rows.words.labels, "has_tokens": rows.has_tokens}
            self._splits.append((np.arange(len(rows)), outputs, targets))
        return super()._joined()

    def entity_counts(self, rule):
        """Returns EntityCounts by a rule of RULES."""
        lengths = self.outputs["num_words"]
        sides = self.targets["labels"], self.outputs["logits"].argmax(axis=1)
        spans = [self.tags.entities(side, lengths, rule) for side in sides]
        return EntityCounts.of(*spans, self.tags.type_names)

    def compute(self):
        logits, labels = self.outputs["logits"], self.targets["labels"]
        is_scored = self.targets["has_tokens"]  # a word that the network sees
        losses = cross_entropy(logits[is_scored], labels[is_scored])
        figures = {"loss": float(losses.mean()) if len(losses) else 0.0}
        if self.tags is not None:
            overall = self.entity_counts(CONLLEVAL).overall()
            figures |= {f"eval/entity_{name}": overall[name] for name in ("f1", "precision")}
            figures["eval/entity_recall"] = overall["recall"]
            figures["eval/strict_entity_f1"] = self.entity_counts(STRICT).overall()["f1"]
        is_right = logits.argmax(axis=1) == labels
        return figures | {"eval/word_accuracy": float(is_right.mean()) if len(labels) else 0.0}

    def report(self):
        """Figures, and of each type those of both rules; the labels that are commonly confused."""
        labels, predicted = self.targets["labels"], self.outputs["logits"].argmax(axis=1)
        figures = {name.removeprefix("eval/"): value for name, value in self.compute().items()}
        report = {"num_examples": len(self), "num_words": len(labels), **figures}
        if self.tags is not None:
            report |= {"scheme": self.tags.scheme, "rule": CONLLEVAL}
            for rule, key in zip(RULES, ("per_class", "per_class_strict"), strict=True):
                rows = self.entity_counts(rule).per_type()
                report[key] = [{"label": row.pop("type"), **row} for row in rows]
        return report | {"confusions": commonest_confusions(labels, predicted, self.label_names)}

    def describe(self, figures):
        if self.tags is None:
            return super().describe(figures)
        others = dict(figures)
        three = [others.pop(f"eval/entity_{name}") for name in ("precision", "recall", "f1")]
        strict = others.pop("eval/strict_entity_f1")
        text = "precision {:.4f}, recall {:.4f}, F1 {:.4f}".format(*three)
        return [
            ("Entities", f"{text} (conlleval); F1 {strict:.4f} (strict {self.tags.scheme})"),
            *super().describe(others),
        ]

    def describe_difference(self, other):
        ours, theirs = (each.outputs["logits"].argmax(axis=1) for each in (self, other))
        number = int((ours != theirs).sum())
        return f"{number} of {len(ours)} words {'has' if number == 1 else 'have'} another label"


# ---- Answers -------------------------------------------------------------------------------------


def best_probabilities(logits):
    """Returns the largest probability of each word, float64 [W]. logits: [W, C]."""
    return softmax(np.asarray(logits, np.float64)).max(axis=1) if len(logits) else np.zeros(0)


def entities_of_words(labels, num_words, tags):
    """Returns the entities of each text: list of lists of (first word, the one after the last,
    type). labels: int [W]; num_words: int [N]; tags: TagSet."""
    ends, found = np.cumsum(num_words), [[] for _ in num_words]
    for first, end, kind in tags.entities(labels, num_words).tolist():
        text = int(np.searchsorted(ends, first, side="right"))
        begin = int(ends[text] - num_words[text])
        found[text].append((first - begin, end - begin, tags.type_names[kind]))
    return found


def entity_counts_of_texts(labels, predicted, num_words, tags):
    """Returns {"hits", "missed", "extra"}: int64 [N], entities of each text that are found, that
    are not, and that are none. labels, predicted: int [W]; num_words: int [N]; tags: TagSet."""
    ends, sides = np.cumsum(num_words), (labels, predicted)
    true, found = (set(map(tuple, tags.entities(s, num_words).tolist())) for s in sides)

    def of_texts(entities):
        texts = np.searchsorted(ends, [first for first, _, _ in entities], side="right")
        return np.bincount(texts, minlength=len(ends))

    kinds = {"hits": true & found, "missed": true - found, "extra": found - true}
    return {name: of_texts(entities) for name, entities in kinds.items()}


def labels_of_texts(labels, num_words, label_names):
    """Returns the label names of the words of each text: list of lists; None where unknown."""
    ends = np.cumsum(num_words).tolist()
    names = [label_names[label] if label >= 0 else None for label in labels.tolist()]
    return [names[end - n : end] for end, n in zip(ends, num_words.tolist(), strict=True)]


def records_of_texts(outputs, label_names, tags, texts, spans):
    """Returns a record for each text, for people: list of {column: str}.

    texts: list of str; spans: list of lists of (first, after last) of words. With entities, those
    with type, characters and score; else the labels of the words.
    """
    if tags is None:
        labels = outputs["logits"].argmax(axis=1)
        rows = labels_of_texts(labels, outputs["num_words"], label_names)
        return [{"labels": " ".join(row)} for row in rows]
    return [
        {
            "entities": "; ".join(
                f"{e['text']} ({e['label']} {e['start']}-{e['end']} {e['score']:.4f})"
                for e in entities
            )
        }
        for entities in entities_of_texts(outputs, tags, texts, spans)
    ]


def entities_of_texts(outputs, tags, texts, spans):
    """Returns [{"start", "end", "label", "text", "score"}] of each text, places in characters; the
    score is the mean of the largest probabilities of its words."""
    lengths = outputs["num_words"]
    best = np.split(best_probabilities(outputs["logits"]), np.cumsum(lengths)[:-1])
    found = entities_of_words(outputs["logits"].argmax(axis=1), lengths, tags)
    return [
        [
            {
                "start": (start := of_words[first][0]),
                "end": (stop := of_words[end - 1][1]),
                "label": kind,
                "text": text[start:stop],
                "score": round(float(of_text[first:end].mean()), 6),
            }
            for first, end, kind in entities
        ]
        for text, of_words, of_text, entities in zip(texts, spans, best, found, strict=True)
    ]


def compare_texts(outputs, targets, label_names, tags, texts, spans):
    """Returns a record for each text: list of {"entities_true": str, "hits", "missed", "extra":
    numbers of `entity_counts_of_texts`, "words", "wrong_words": numbers, "correct": "yes" or "no"},
    without entities {"labels_true", "words", "wrong_words", "correct"}; and how sure it was of its
    surest wrong word, float64 [N]; 0 where all words are right, or the labels are not known."""
    labels, lengths = targets["labels"], outputs["num_words"]
    predicted = outputs["logits"].argmax(axis=1)
    is_wrong = (predicted != labels) & (labels >= 0)
    sure = np.where(is_wrong, best_probabilities(outputs["logits"]), 0.0)
    ends = np.cumsum(lengths)
    named = labels_of_texts(labels, lengths, label_names)
    counts, true = {}, [None] * len(texts)
    if tags is not None:
        true = entities_of_words(labels, lengths, tags)
        counts = entity_counts_of_texts(labels, predicted, lengths, tags)
    counts["words"], number = np.asarray(lengths), np.append(0, np.cumsum(is_wrong))
    counts["wrong_words"] = number[ends] - number[ends - lengths]
    records, mistakes = [], np.zeros(len(texts))
    for n, (text, of_words, names) in enumerate(zip(texts, spans, named, strict=True)):
        mistakes[n] = sure[ends[n] - lengths[n] : ends[n]].max(initial=0.0)
        is_known = None not in names
        answer = "labels_true", " ".join(names) if is_known else ""
        if tags is not None:
            listed = (
                f"{text[of_words[first][0] : of_words[end - 1][1]]} ({kind})"
                for first, end, kind in true[n]
            )
            answer = "entities_true", "; ".join(listed) if is_known else ""
        right = ("no" if mistakes[n] else "yes") if is_known else ""
        numbers = {name: str(values[n]) if is_known else "" for name, values in counts.items()}
        records.append(dict([answer]) | numbers | {"correct": right})
    return records, mistakes


def conll_of_texts(outputs, targets, label_names, texts, spans):
    """Returns a CoNLL file: word, true label where known, predicted label, parted by tabs."""
    predicted = labels_of_texts(outputs["logits"].argmax(axis=1), outputs["num_words"], label_names)
    true = labels_of_texts(targets["labels"], outputs["num_words"], label_names)
    lines = []
    for text, of_words, theirs, ours in zip(texts, spans, true, predicted, strict=True):
        for (start, end), gold, label in zip(of_words, theirs, ours, strict=True):
            word = PARTS.sub(" ", text[start:end])
            lines.append("\t".join([word, *([gold] if gold is not None else []), label]))
        lines.append("")
    return "\n".join(lines) + "\n"


def json_lines_of_texts(outputs, label_names, tags, texts, spans):
    """Returns JSON Lines: {"text", "tokens", "tags", "entities"} of each text."""
    labels = labels_of_texts(outputs["logits"].argmax(axis=1), outputs["num_words"], label_names)
    entities = [[]] * len(texts) if tags is None else entities_of_texts(outputs, tags, texts, spans)
    rows = [
        {
            "text": text,
            "tokens": [text[start:end] for start, end in of_words],
            "tags": tags_of_text,
            **({} if tags is None else {"entities": found}),
        }
        for text, of_words, tags_of_text, found in zip(texts, spans, labels, entities, strict=True)
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
