# SPDX-License-Identifier: Apache-2.0
"""Texts to rows of ids, and what a network says of the rows to answers: a class for each task.

A text that is longer than a row becomes windows where the task answers for words, and is cut where
it answers for the whole text. The rules of windows, entities and answers are those of
`common/export/decoders`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import UserError
from common.export.decoders import questions, words
from common.export.decoders.windows import Reader
from common.metrics.probabilities import sigmoid, softmax

STRINGS, FLOATS, BOOLS, INTS = "BYTES", "FP32", "BOOL", "INT32"


class BadText(ValueError):
    """A text that this model cannot take. The message says why, and quotes nothing of it."""


@dataclass(frozen=True)
class Output:
    """A named output. shape: of one row's, -1 where it is free. kind: as the Open Inference
    Protocol calls it. is_json: the values are lists and dicts, which the protocol has as text."""

    name: str
    kind: str
    shape: tuple = ()
    is_json: bool = False


@dataclass(frozen=True)
class Prepared:
    """A text as rows. rows: [(ids, number of ids of the first segment)]. notes: of its reader."""

    rows: list
    notes: Any = None


class TaskReader(Reader):
    """A Reader with what the server wants of it.

    Args:
        settings: dict of `common/export/decoder.settings_of`, and the label names of the task.
        vocab: list of str, or LibraryVocab. texts: names of the texts of a row, one or two.
    """

    is_scored = False  # whether an answer is a score for each label
    raw_outputs: tuple[str, ...]  # of the network

    def __init__(self, settings, vocab, texts):
        super().__init__(settings=settings, vocab=vocab)
        self.text_names = tuple(texts)
        self.max_positions = settings["max_position_embeddings"]  # tokens that a row may have
        self.label_names = list(settings.get("label_names") or ())

    @property
    def task(self):
        return self.settings["task"]

    def prepare(self, text):
        """Returns Prepared. text: tuple of as many str as a row has texts.

        Raises BadText.
        """
        for each in text:
            if not each.isascii():
                try:
                    each.encode()
                except UnicodeEncodeError:
                    raise BadText("a text has half a character (a lone surrogate)") from None
        return self._prepare(text)

    def _prepare(self, text):
        raise NotImplementedError

    def network_features(self, rows):
        """Returns what an engine takes. rows: [(ids, number of ids of the first segment)]."""
        return self.features(rows)

    def answer(self, prepared, outputs):
        """Returns {name of `outputs`: value} of a text. outputs: {name: [array of each row]}."""
        raise NotImplementedError

    def labels(self, answer):
        """Returns what POST /predict says of an answer."""
        raise NotImplementedError

    @property
    def outputs(self):
        """list of Output, what `answer` gives."""
        raise NotImplementedError

    @property
    def outputs_of_ids(self):
        """list of Output, what `answer_ids` gives."""
        return [Output(name, FLOATS, (-1,)) for name in self.raw_outputs]

    def answer_ids(self, row, outputs):
        """Returns {name of `outputs_of_ids`: value} of a row of ids, without its padding."""
        return {name: np.asarray(outputs[name])[: len(row[0])] for name in self.raw_outputs}


# ---- One answer a row ----------------------------------------------------------------------------


class RowReader(TaskReader):
    """Texts that are one row each, cut at its length."""

    raw_outputs = ("logits",)

    def _prepare(self, text):
        room = self.room(len(text))
        ids = [self.vocab.ids_of(each) for each in text]
        if len(ids) == 1:
            ids = [ids[0][:room]]
        else:
            counts = cut_pair(len(ids[0]), len(ids[1]), room)
            ids = [each[:count] for each, count in zip(ids, counts, strict=True)]
        row, first = self.row(*ids)
        return Prepared([(row or [self.pad], first)])

    def places(self, text):
        """Returns where the tokens of a text's row stand: [(number of the text, first character,
        the one after the last)], None for special tokens."""
        ((ids, first),) = self._prepare(text).rows
        special = int(self.settings["add_special_tokens"])
        behind = [special * self.vocab.num_between] * (len(text) - 1) + [special]
        counts = [first - special - behind[0], len(ids) - first - special]
        found = [None] * special
        for number, each in enumerate(text):
            places = self.vocab.places_of(each)[: counts[number]]
            found += [(number, *place) for place in places] + [None] * behind[number]
        return found or [None]

    def answer(self, prepared, outputs):
        return self.answer_logits(outputs["logits"][0])

    def answer_ids(self, row, outputs):
        return self.answer_logits(outputs["logits"])

    @property
    def outputs_of_ids(self):
        return self.outputs

    def answer_logits(self, logits):
        raise NotImplementedError


class ClassReader(RowReader):
    is_scored = True

    def answer_logits(self, logits):
        probabilities = softmax(logits[None])[0]
        return {
            "label": self.label_names[int(probabilities.argmax())],
            "label_names": self.label_names,
            "probabilities": probabilities.astype(np.float32),
            "logits": logits,
        }

    @property
    def outputs(self):
        shape = (len(self.label_names),)
        names = Output("label_names", STRINGS, shape)
        floats = [Output(name, FLOATS, shape) for name in ("probabilities", "logits")]
        return [Output("label", STRINGS), names, *floats]

    def labels(self, answer):
        pairs = zip(self.label_names, floats_of(answer["probabilities"]), strict=True)
        scored = [{"label": label, "score": score} for label, score in pairs]
        return sorted(scored, key=lambda each: -each["score"])


class LabelSetReader(ClassReader):
    def answer_logits(self, logits):
        probabilities = sigmoid(logits).astype(np.float32)
        thresholds = self.settings.get("thresholds") or [0.5] * len(self.label_names)
        return {
            "predicted": probabilities >= np.asarray(thresholds, np.float32),
            "label_names": self.label_names,
            "probabilities": probabilities,
            "logits": logits,
        }

    @property
    def outputs(self):
        shape = (len(self.label_names),)
        return [Output("predicted", BOOLS, shape), *super().outputs[1:]]


class ValueReader(RowReader):
    def answer_logits(self, logits):
        return {"value": logits[0], "logits": logits}

    @property
    def outputs(self):
        return [Output("value", FLOATS), Output("logits", FLOATS, (1,))]

    def labels(self, answer):
        return [{"label": "value", "score": floats_of(answer["value"])}]


# ---- Words and answers ---------------------------------------------------------------------------


class WindowReader(TaskReader):
    """Texts that may be several rows, read by a Decoder of `common/export/decoders`."""

    def _prepare(self, text):
        rows = self.rows([text if len(self.text_names) > 1 else text[0]])
        return Prepared(rows.tokens, rows)


class WordReader(WindowReader, words.Decoder):
    raw_outputs = ("logits",)

    def answer(self, prepared, outputs):
        (found,) = self.decode(prepared.notes, outputs)
        del found["text"]
        return found

    @property
    def outputs(self):
        names = ["tokens", "tags", *(["entities"] if self.settings["has_entities"] else [])]
        return [Output(name, STRINGS, is_json=True) for name in names]

    @property
    def outputs_of_ids(self):
        shape = (-1, len(self.label_names))
        names = Output("label_names", STRINGS, (len(self.label_names),))
        floats = [Output(name, FLOATS, shape) for name in ("probabilities", "logits")]
        return [Output("labels", STRINGS, (-1,)), names, *floats]

    def answer_ids(self, row, outputs):
        logits = outputs["logits"][: len(row[0])]
        return {
            "labels": [self.label_names[i] for i in logits.argmax(-1).tolist()],
            "label_names": self.label_names,
            "probabilities": softmax(logits).astype(np.float32),
            "logits": logits,
        }

    def labels(self, answer):
        if "entities" in answer:
            return answer["entities"]
        pairs = zip(answer["tokens"], answer["tags"], strict=True)
        return [{"token": token, "label": tag} for token, tag in pairs]


class AnswerReader(WindowReader, questions.Decoder):
    raw_outputs = ("start_logits", "end_logits")

    def answer(self, prepared, outputs):
        (found,) = self.decode(prepared.notes, outputs)
        places = {name: -1 if found[name] is None else found[name] for name in ("start", "end")}
        return found | places

    @property
    def outputs(self):
        floats = [Output(name, FLOATS) for name in ("score", "margin")]
        places = [Output(name, INTS) for name in ("start", "end")]
        return [Output("answer", STRINGS), *floats, *places]

    def labels(self, answer):
        return {name: plain(value) for name, value in answer.items()}


class MaskReader(TaskReader):
    """Texts with [MASK]s, in RoBERTa's vocabulary <mask>s: for each the likeliest words."""

    raw_outputs = ("token_ids", "probabilities")

    def __init__(self, settings, vocab, texts):
        super().__init__(settings, vocab, texts)
        self.mask_token = self.vocab.mask_token
        if self.mask_token is None:
            raise UserError("the vocabulary has no [MASK], which stands for a word to fill in")
        self.mask = self.vocab.entries.index(self.mask_token)

    def _prepare(self, text):
        (text,) = text
        mask, parts = self.mask_token, text.split(self.mask_token)
        if len(parts) == 1:
            raise BadText(f"a text has no {mask}; write {mask} in place of each word to fill in")
        if self.vocab.mask_takes_blank:
            parts[:-1] = [part.rstrip() for part in parts[:-1]]
        ids = self.vocab.ids_of(parts[0])
        for part in parts[1:]:
            ids += [self.mask, *self.vocab.ids_of(part)]
        ids = ids[: self.room()]
        if self.mask not in ids:
            raise BadText(
                f"a text has its {mask} behind the {self.settings['max_sequence_length']} tokens "
                "that this model reads"
            )
        return Prepared([self.row(ids)])

    def network_features(self, rows):
        places = [np.flatnonzero(np.asarray(ids) == self.mask) for ids, _ in rows]
        positions = np.zeros((len(rows), max(1, max(map(len, places)))), np.int32)
        for row, found in zip(positions, places, strict=True):
            row[: len(found)] = found
        return {**self.features(rows), "masked_lm_positions": positions}

    def answer(self, prepared, outputs):
        return self.answer_ids(prepared.rows[0], {k: v[0] for k, v in outputs.items()})

    def answer_ids(self, row, outputs):
        count = list(row[0]).count(self.mask)
        found = zip(*(outputs[name][:count] for name in self.raw_outputs), strict=True)
        return {
            "masks": [
                [
                    {"word": self.vocab.entries[i], "score": score}
                    for i, score in zip(ids.tolist(), floats_of(scores), strict=True)
                    if i < len(self.vocab.entries)
                ]
                for ids, scores in found
            ]
        }

    @property
    def outputs(self):
        return [Output("masks", STRINGS, is_json=True)]

    @property
    def outputs_of_ids(self):
        return self.outputs

    def labels(self, answer):
        return answer["masks"]


READERS = {
    "classification": ClassReader,
    "multi_label": LabelSetReader,
    "regression": ValueReader,
    "token_classification": WordReader,
    "question_answering": AnswerReader,
    "pretraining": MaskReader,
}


def make_reader(settings, vocab, texts):
    """Returns the TaskReader of a task, settings["task"]."""
    return READERS[settings["task"]](settings, vocab, texts)


def cut_pair(first, second, room):
    """Returns how many tokens of each text stay, as `input/epoch_plan.truncated_lengths`."""
    return (
        min(first, max((room + 1) // 2, room - second)),
        min(second, max(room // 2, room - first)),
    )


def floats_of(array):
    """Returns float32 numbers as Python's, in the fewest digits that are the same float32."""
    array = np.asarray(array, np.float32)
    if array.ndim == 0:
        return float(str(array))
    if array.ndim == 1:
        return list(map(float, map(str, array)))
    return [floats_of(each) for each in array]


def plain(value):
    """Returns a value of an answer as JSON has it."""
    if isinstance(value, np.ndarray | np.generic):
        return floats_of(value) if value.dtype.kind == "f" else value.tolist()
    return value
