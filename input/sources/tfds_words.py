# SPDX-License-Identifier: Apache-2.0
"""Data sets of TensorFlow Datasets with a label for each word, or with questions on texts.

words       tokens: Sequence(Text), tags: Sequence(ClassLabel) or Sequence(Text), such as
            conll2003
questions   question: Text, context: Text, answers: Sequence({text: Text, answer_start: int}),
            such as squad; is_impossible and id may stand beside
"""

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from common.errors import UserError
from common.tasks.targets import LabelColumn
from input.sources.conll import Sentences, sentence_of
from input.sources.question_source import QuestionSource
from input.sources.source import unreadable
from input.sources.squad import questions_of, with_places
from input.sources.tagged import TaggedSource
from input.sources.text_files import RowFault
from input.sources.tfds import TfdsSource

OF_QUESTIONS = ("id", "is_impossible")  # features that a data set of questions may have


class OfTfds:
    """What both have: rows one by one. A row is named by its split and number, from 0."""

    unit = "row"

    def _where(self, split):
        return f"split {split} of {self}"

    def _settings(self, split):
        return ["tfds", self.processor.dataset, split]

    def _content(self, split):
        return TfdsSource.content(self, split).encode()

    def skipped(self, split):
        return TfdsSource.skipped(self, split) + super().skipped(split)

    def _examples(self, split, keys):
        """Yields the features `keys` of each row as plain values: {feature: str, int, list or
        dict}. Raises UserError where the files are damaged."""
        rows = self._decoded(split, self._stored_records(split))
        rows = rows.map(lambda row: {key: row[key] for key in keys}).prefetch(2)
        try:
            for row in rows.as_numpy_iterator():
                yield _plain(row)
        except tf.errors.OpError as error:
            raise unreadable(self, split, error.message.splitlines()[0]) from error

    def _refuse_feature(self, key, wanted):
        raise UserError(
            f"{self} has a feature {key} that is no {wanted} but {self._builder.info.features[key]}"
        )


class TfdsTaggedSource(OfTfds, TaggedSource, TfdsSource):
    """A TaggedSource over a data set of TensorFlow Datasets.

    processor: DataProcessor: one text key, of the words, and the label key, of their labels.
    Others: see TfdsSource.
    """

    def _check_features(self, rename_map):
        self._check_names(rename_map)
        features, (words,) = self._builder.info.features, self.processor.text_keys
        if not _is_sequence(features[words], tfds.features.Text):
            self._refuse_feature(words, "list of words, Sequence(Text); write text_keys")
        label = self.processor.label_key
        if not _is_sequence(features[label], tfds.features.ClassLabel, tfds.features.Text):
            self._refuse_feature(label, "list of labels, Sequence(ClassLabel); write label_key")

    def _label_column(self):
        key = self.processor.label_key
        feature = self._builder.info.features[key].feature
        if isinstance(feature, tfds.features.ClassLabel):
            return LabelColumn(str(self), key, "class", tuple(feature.names))
        return LabelColumn(str(self), key, "text", read=self._labels)

    def _parsed(self, split, content):
        del content  # of the files, which are read
        (words,), label = self.processor.text_keys, self.processor.label_key
        feature = self._builder.info.features[label].feature
        names = getattr(feature, "names", None)
        rows, faults = [], []
        for number, row in enumerate(self._examples(split, (words, label))):
            if names is not None:
                is_known = all(0 <= each < len(names) for each in row[label])
                row[label] = [names[each] for each in row[label]] if is_known else None
            try:
                keys = (words,), (label,)
                sentence = sentence_of(row, number, *keys, None, None, self.needs_targets)
                rows.append(sentence)
            except RowFault as fault:
                faults.append((number, str(fault)))
        return Sentences(rows, faults)


class TfdsQuestionSource(OfTfds, QuestionSource, TfdsSource):
    """A QuestionSource over a data set of TensorFlow Datasets.

    processor: DataProcessor: the text keys of question and context, and the label key, of the
    answers. Others: see TfdsSource.
    """

    def _check_features(self, rename_map):
        TfdsSource._check_features(self, rename_map)
        key = self.processor.label_key
        inner = getattr(self._builder.info.features[key], "feature", {})
        if not {"text", "answer_start"} <= set(getattr(inner, "keys", tuple)()):
            self._refuse_feature(key, "list of answers with text and answer_start; write label_key")

    def _label_column(self):
        return LabelColumn(str(self), self.processor.label_key, "other")  # it names no classes

    def _parsed(self, split, content):
        del content  # of the files, which are read
        (question, context), answers = self.processor.text_keys, self.processor.label_key
        more = [key for key in OF_QUESTIONS if key in self._builder.info.features]
        keys = {"question": question, "context": context, "answers": answers}
        examples = self._examples(split, (*keys.values(), *more))
        entries = (
            {name: row[key] for name, key in keys.items()} | {key: row[key] for key in more}
            for row in examples
        )
        places = with_places(enumerate(entries), f"{self._where(split)}, row")
        return questions_of(places, self.needs_targets)


def _is_sequence(feature, *kinds):
    """Whether a feature is a list of values of one of some kinds."""
    return isinstance(feature, tfds.features.Sequence) and isinstance(feature.feature, kinds)


def _plain(value):
    """Returns str, int, list or dict of what NumPy gives."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return [_plain(each) for each in value.tolist()]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) else value
