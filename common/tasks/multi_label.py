# SPDX-License-Identifier: Apache-2.0
"""Multi-label classification: any number of the labels for each row; all that is of this task."""

import functools
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from keras import ops

from common.console import counted
from common.errors import UserError
from common.losses import MultiLabelLoss
from common.metrics.multi_label import (
    HALF,
    MultiLabelMetrics,
    compare_label_sets,
    multi_label_predictions,
)
from common.tasks.answer import ROW_ARCHITECTURE, Answer
from common.tasks.row_task import RowTask
from common.tasks.targets import (
    Classes,
    Targets,
    TargetSpec,
    described,
    distinct_names,
    other_names,
    places_in,
)


def sets_of(label_names, thresholds):
    """Returns the Answer of a set of labels for each row."""
    names = list(label_names)
    return Answer(
        kind="multi-label classifier",
        description="any number of "
        + ", ".join(
            f"{i} {name} (from a probability of {threshold:.4g})"
            for i, (name, threshold) in enumerate(zip(names, thresholds, strict=True))
        ),
        architecture=ROW_ARCHITECTURE,
        problem_type="multi_label_classification",
        probabilities="sigmoid",
        served=("predicted", "label_names", "probabilities", "logits"),
        reading={
            "saved_model": 'row = zip(result["label_names"][0].numpy(), '
            'result["predicted"][0].numpy())\nprint([name.decode() for name, yes in row if yes])',
            "ids": f"""row = zip({names}, probabilities[0], {list(thresholds)})
print([name for name, probability, threshold in row if probability >= threshold])""",
            "huggingface": f"""probabilities = model(**rows).logits.sigmoid()[0].tolist()
row = zip({names}, probabilities, {list(thresholds)})
print([name for name, probability, threshold in row if probability >= threshold])""",
        },
    )


@dataclass(frozen=True)
class LabelSetTargets(Targets):
    """Which labels a row has: {"labels": float32 [N, C]}, 1 for each of its own.

    Attributes:
        label_separator: str, what stands between the labels in a text; None: a text is one label.
    """

    takes_several: ClassVar = True
    has_classes: ClassVar = True
    label_separator: str | None = None

    @classmethod
    def of(cls, cfg):
        return cls(cfg.label_names, cfg.label_separator)

    @property
    def specs(self):
        return {"labels": TargetSpec((len(self.label_names or ()),), np.dtype(np.float32))}

    def named(self, column):
        if column.kind != "text":
            raise UserError(
                f"{column.source} has a feature {column.name} with one label a row, "
                f"{column.description}; task: multi_label reads lists of labels from files, with "
                "data_processor: TextFileDataProcessor"
            )
        if self.label_names:
            return self
        labels = [name for label in column.read() for name in self._names_in(label)]
        return replace(self, label_names=distinct_names(column, labels, fewest=1))

    def _names_in(self, label):
        """Returns list of str. label: str, or tuple of str."""
        if isinstance(label, str):
            label = label.split(self.label_separator) if self.label_separator else [label]
        return [name for each in label if (name := each.strip())]

    def parse(self, label):
        row = [0.0] * len(self.label_names)
        for name in self._names_in(label):
            place = self._classes.of_label(name)
            if place is None:
                raise ValueError(f"{name} is none of the labels {', '.join(self.label_names)}")
            row[place] = 1.0
        return {"labels": row}

    @functools.cached_property
    def _classes(self):
        return Classes(self.label_names)

    def describe(self, arrays):
        return described(self.label_names, self.counts(arrays).values())

    def counts(self, arrays):
        counts = (arrays["labels"] > 0).sum(axis=0).tolist()
        return dict(zip(self.label_names, counts, strict=True))

    def labels_of(self, arrays):
        separator = self.label_separator or ", "
        return [
            separator.join(self.label_names[place] for place in np.flatnonzero(row > 0))
            for row in arrays["labels"]
        ]

    def in_order_of(self, label_names, arrays):
        places, labels = places_in(label_names, self.label_names), arrays["labels"]
        if places is None:
            raise UserError(other_names(self.label_names, label_names))
        ordered = np.zeros((len(labels), len(label_names)), labels.dtype)
        ordered[:, places] = labels
        ordered[(labels < 0).any(axis=1)] = -1  # without labels
        return arrays | {"labels": ordered}

    @property
    def settings(self):
        return [*super().settings, f"separator {self.label_separator}"]

    @property
    def missing(self):
        return {"labels": [-1.0] * len(self.label_names)}

    def faults(self, arrays):
        rows = np.flatnonzero((arrays["labels"] < 0).any(axis=1))
        return dict.fromkeys(rows.tolist(), "no labels")

    @property
    def accepted(self):
        return f"are any of {', '.join(self.label_names)}, or none"


class MultiLabelTask(RowTask):
    """The two-dense head with a sigmoid for each label, trained to the binary cross entropy.

    Args:
        params, label_names: as of RowTask.
    """

    targets = LabelSetTargets

    def __init__(self, params, label_names=(), name="bert"):
        super().__init__(params, MultiLabelLoss(), label_names, name)
        # Shapes need as many names as outputs, known or not.
        self.targets = LabelSetTargets(self.label_names or ("",) * self.num_outputs)
        self.separator = params.predict_input.label_separator or ", "
        self.thresholds = (HALF,) * self.num_outputs

    @property
    def answer(self):
        return sets_of(self.label_names, self.thresholds)

    def build_eval_metric_ops(self):
        return MultiLabelMetrics(self.label_names, self.thresholds)

    def predictions(self, outputs, origins=None):
        return multi_label_predictions(outputs, self.label_names, self.thresholds, self.separator)

    def compare(self, outputs, targets, origins=None):
        names, thresholds = self.label_names, self.thresholds
        return compare_label_sets(outputs, targets, names, thresholds, self.separator)

    def shorten(self, record):
        probabilities = (record[f"p_{name}"] for name in self.label_names)
        pairs = zip(probabilities, self.thresholds, strict=True)
        likely = [f"{probability:.4f}" for probability, least in pairs if probability >= least]
        return [record["label"] or "-", self.separator.join(likely) or "-"]

    def export_outputs(self, outputs):
        """Returns what a server answers.

        predicted: <bool>[B, C], whether the row has each label;
        label_names: <string>[B, C], what the columns are called;
        probabilities, logits: <float32>[B, C].
        """
        logits = outputs["logits"]
        probabilities = ops.sigmoid(logits)
        label_names = ops.convert_to_tensor(list(self.label_names))  # [C]
        return {
            "predicted": probabilities >= ops.convert_to_tensor(self.thresholds, "float32"),
            "label_names": ops.broadcast_to(label_names, ops.shape(logits)),
            "probabilities": probabilities,
            "logits": logits,
        }

    def checkpoint_config(self):
        config = super().checkpoint_config()
        if self.thresholds != (HALF,) * self.num_outputs:
            config["thresholds"] = list(self.thresholds)
        return config

    def restore(self, config):
        thresholds = config.get("thresholds")
        self.thresholds = tuple(thresholds or (HALF,) * self.num_outputs)
        if len(self.thresholds) != self.num_outputs:
            raise UserError(
                f"{config.get('path', 'the checkpoint')} has "
                f"{counted(len(thresholds), 'threshold')} for "
                f"{counted(self.num_outputs, 'label')}; take a whole checkpoint"
            )
        listed = zip(self.label_names, self.thresholds, strict=False)
        named = ", ".join(f"{name} {threshold:.4f}" for name, threshold in listed)
        return [f"thresholds {named}"] if thresholds else []
