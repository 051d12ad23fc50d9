# SPDX-License-Identifier: Apache-2.0
"""Which programs become bytes, what their first call leaves of the standard error stream, and that
the optimized graph in them is what runs, where it fits."""

import itertools
import os
import threading

import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from common.platform.program_bytes import (
    NotKept,
    bind,
    keep_optimized_graph,
    to_bytes,
    without_false_alarms,
)
from common.platform.tf_private import GRAPH_FOLDER, function_runtime

SEVEN = tf.constant(7.0)
numbers = itertools.count()  # a function's name stays in use until the process ends


def test_a_step_that_reads_an_unknown_variable_is_not_kept():
    variable = tf.Variable(1.0)
    concrete = tf.function(lambda x: x * variable, autograph=False).get_concrete_function(
        tf.constant(2.0)
    )
    with pytest.raises(NotKept, match="no name"):
        to_bytes(concrete, {}, "kept_")


def test_threads_that_call_new_programs_restore_stderr(capfd):
    has_begun, may_end = threading.Event(), threading.Event()

    def first():
        with without_false_alarms():
            has_begun.set()
            may_end.wait(timeout=60)

    def second():
        with without_false_alarms():
            one.join(timeout=1)  # times out if `second` did not wait for its turn

    one, two = threading.Thread(target=first), threading.Thread(target=second)
    one.start()
    has_begun.wait(timeout=60)
    two.start()
    may_end.set()
    one.join(timeout=60)
    two.join(timeout=60)
    os.write(2, b"still there\n")
    assert capfd.readouterr().err == "still there\n"


# ---- Optimized graphs --------------------------------------------------------------------------


def kept_program(factor=2.0, prefix=None):
    """Returns (content, entry, variables) of a program that has run once: x -> factor x.

    It also counts its calls in a variable.
    """
    count = tf.Variable(0.0)

    def multiply(x):
        count.assign_add(1.0)  # which no result depends on
        return factor * x

    concrete = tf.function(multiply, autograph=False).get_concrete_function(SEVEN)
    variables = {"count": count}
    content, entry = to_bytes(concrete, variables, prefix or f"kept_{next(numbers)}_")
    call = bind(content, entry, variables, [SEVEN])
    _, *whole = keep_optimized_graph(content, entry, call, [SEVEN])
    return *whole, variables


def tripled(content):
    """Returns the same program with the optimized graph of x -> 3 x."""
    graph = function_runtime().graph.FromString(content)
    changed = 0
    for node in graph.function_graph.node:
        value = node.attr["value"].tensor if node.op == "Const" else None
        if value is not None and tf.make_ndarray(value) == 2.0:
            value.CopyFrom(tf.make_tensor_proto(3.0))
            changed += 1
    assert changed == 1
    return graph.SerializeToString()


def first_result(content, entry, variables):
    """Returns the first result as in a new process, and how many graphs TensorFlow made."""
    context.context().clear_kernel_cache()
    program = bind(content, entry, variables, [SEVEN])
    with context.collect_graphs(optimized=False) as graphs:
        result = program(SEVEN)
    return float(result), sum(1 for graph in graphs if graph.node)


def test_the_kept_graph_runs_with_its_assignments():
    content, entry, variables = kept_program()
    assert float(variables["count"]) == 1.0
    assert first_result(tripled(content), entry, variables) == (21.0, 0)
    assert float(variables["count"]) == 2.0
    assert os.environ[GRAPH_FOLDER] == ""


def test_without_a_kept_graph_tensorflow_makes_one():
    content, entry, variables = kept_program()
    assert first_result(content, entry | {"devices": None}, variables) == (14.0, 1)


def test_a_graph_for_other_devices_is_not_used():
    content, entry, variables = kept_program()
    others = [*entry["devices"], "/job:localhost/replica:0/task:0/device:GPU:0"]
    assert first_result(tripled(content), entry | {"devices": others}, variables) == (14.0, 1)


def test_a_graph_that_cannot_be_read_is_made_again():
    content, entry, variables = kept_program()
    graph = function_runtime().graph.FromString(tripled(content))
    graph.function_graph.node.add(name="of_another_version", op="NoSuchOperation")
    assert first_result(graph.SerializeToString(), entry, variables) == (14.0, 1)


def test_programs_whose_names_differ_only_in_their_number_have_separate_graphs():
    two, five = (kept_program(factor, "alike_") for factor in (2.0, 5.0))
    assert len({entry["function"].rpartition("_")[0] for _, entry, _ in (two, five)}) == 1
    assert first_result(*two) == (14.0, 0)
    assert first_result(*five) == (35.0, 0)
