# SPDX-License-Identifier: Apache-2.0
"""common/tasks/targets.py: labels of any source become arrays, or are refused with a reason."""

import dataclasses

import numpy as np
import pytest

from common.errors import UserError
from common.tasks.regression import ValueTargets
from common.tasks.targets import (
    Classes,
    ClassTargets,
    LabelColumn,
    TargetSpec,
    names_of_labels,
)

COLUMN = LabelColumn("the set", "stars", "text", description="a column", read=lambda: ["b", "a"])


def column(kind, **values):
    return dataclasses.replace(COLUMN, kind=kind, **values)


@pytest.mark.parametrize(
    "labels,expected",
    [
        (["b", "a", "b"], ("a", "b")),
        (["1", "0"], ("0", "1")),
        (["10", "9", "1"], ("1", "9", "10")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["-1", "1"], ("-1", "1")),
        (["0.0", "11.0", "2.0"], ("0.0", "2.0", "11.0")),
        (["0", "0.0", "+1", "1", "01", "2."], ("0", "1", "2.")),
        (["10.5", "9.25", "-1"], ("-1", "9.25", "10.5")),
        (["1.10", "1.1"], ("1.1", "1.10")),  # versions, say: only whole numbers are the same
    ],
)
def test_classes_are_the_distinct_labels_in_order(labels, expected):
    assert names_of_labels(labels) == expected


def test_a_label_is_a_name_or_else_the_number_of_a_class():
    def classes_of(names, labels):
        return [Classes(names).of_label(label) for label in labels]

    assert classes_of(("no", "yes"), ["no", "yes", "0", "1", "1.0", "2", " YES"]) == [
        *(0, 1, 0, 1, 1, None, 1),
    ]
    # Stars from 1 to 3: class 0 is one star, and "0" is nothing.
    assert classes_of(("1", "2", "3"), ["0", "1", "2.0", "+3"]) == [None, 0, 1, 2]
    assert classes_of(("cat", "Cat"), ["cat", "Cat", "CAT"]) == [0, 1, None]


def test_classes_go_where_the_networks_outputs_have_their_names():
    arrays = {"labels": np.array([0, 1, 2, -1, 9], np.int32)}
    targets = ClassTargets(("a", "b", "c"))
    ordered = targets.in_order_of(("C", "a", "other", "b"), arrays)["labels"]
    np.testing.assert_array_equal(ordered, np.int32([1, 3, 0, -1, 9]), strict=True)
    with pytest.raises(UserError, match="data are a, b, c, but the network has x, b, c; give"):
        targets.in_order_of(("x", "b", "c"), arrays)
    values = {"labels": np.float32([2, 1])}
    assert ValueTargets(("value",)).in_order_of(("value",), values) is values


def test_another_task_or_version_or_shape_has_other_settings():
    class Reversed(ClassTargets):
        """Reads the same labels otherwise."""

    class Later(ClassTargets):
        version = 2

    class Wider(ClassTargets):
        specs = {"labels": TargetSpec((3,), np.dtype(np.int32))}  # noqa: RUF012

    Later.__qualname__ = Wider.__qualname__ = ClassTargets.__qualname__
    kinds = (ClassTargets, ValueTargets, Reversed, Later, Wider)
    assert len({tuple(kind().settings) for kind in kinds}) == len(kinds)


def test_classes_are_named_by_the_params_or_else_by_the_source():
    assert ClassTargets().named(COLUMN).label_names == ("a", "b")
    named = column("class", class_names=("no", "yes"))
    assert ClassTargets().named(named).label_names == ("no", "yes")
    for each in (COLUMN, named, column("integer")):
        assert ClassTargets(("x", "y")).named(each).label_names == ("x", "y")


@pytest.mark.parametrize(
    "targets,kind,message",
    [
        (
            ClassTargets(),
            "integer",
            "the set has a feature stars that is no class .* but a column",
        ),
        (ClassTargets(("x", "y")), "number", "no class"),
        (ClassTargets(), "one class", "stars of one class, all; a classifier needs two or more"),
        (ClassTargets(("x",)), "class", "label_names has 1 name, but the set has 0 classes"),
        (ValueTargets(), "class", "the set has a feature stars that is no number but a column"),
        (ValueTargets(), "other", "no number"),
    ],
)
def test_a_column_that_the_task_cannot_learn_from_is_refused(targets, kind, message):
    wanted = column(kind)
    if kind == "one class":
        wanted = column("class", class_names=("all",))
    with pytest.raises(UserError, match=message):
        targets.named(wanted)


@pytest.mark.parametrize("targets", [ClassTargets(), ValueTargets()])
def test_a_missing_label_is_a_fault_and_a_label_is_none(targets):
    targets = targets.named(column("text", read=lambda: ["2", "3"]))
    rows = [targets.parse("3"), targets.missing, targets.parse("2")]
    arrays = {
        name: np.array([row[name] for row in rows], spec.dtype)
        for name, spec in targets.specs.items()
    }
    assert all(array.shape == (3, *targets.specs[name].shape) for name, array in arrays.items())
    (fault,) = targets.faults(arrays).items()
    assert fault in ((1, "label -1"), (1, "label nan"))


def test_classes_out_of_range_are_faults():
    faults = ClassTargets(("x", "y")).faults({"labels": np.array([0, 2, 1, -1], np.int32)})
    assert faults == {1: "label 2", 3: "label -1"}
    assert ClassTargets(("x", "y")).accepted == "go from 0 to 1"


@pytest.mark.parametrize("label", ["good", "nan", "inf", "1e39"])
def test_a_value_is_a_number_that_float32_holds(label):
    assert ValueTargets().parse("-1e-3") == {"labels": -1e-3}
    with pytest.raises(ValueError, match="a number is wanted"):
        ValueTargets().parse(label)
