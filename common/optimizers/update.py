# SPDX-License-Identifier: Apache-2.0
"""Moves one weight by an optimizer's rule, in one compiled loop over it and its slots."""

from typing import NamedTuple

import tensorflow as tf

NUM_PIECES = 16  # of a gradient whose squares are added up; 4 to 32 take as long
MIN_COMPILED = 2**14  # numbers; to start a compiled loop takes longer than a smaller sum


class TableGradient(NamedTuple):
    """The gradient of a table of V rows, of which a batch looks up few.

    To write it out takes three passes over memory of the table's size, on one core, while the
    others wait for the norm of all gradients.

    Attributes:
        rows: <float32>[K + 1, D]. The first is 0, and those behind the U that are looked up.
        place: <int32>[V]. Which of `rows` is the gradient of each row of the table.
        ids: <int32>[U]. Of which row of the table each of `rows` is the gradient, from the second.
    """

    rows: tf.Tensor
    place: tf.Tensor
    ids: tf.Tensor


def gradient_of(weight, gradient):
    """Returns what `half_square` and `move` take of a weight's gradient, of any dtype.

    Rows of a table that a batch looks up twice are added here, before anything is squared.

    weight: tf.Variable [V, ...]. gradient: tensor, or IndexedSlices of K rows.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    num_slices = gradient.values.shape[0]
    # A GPU writes the table faster than it finds equal numbers.
    if num_slices is None or weight.shape[0] <= num_slices or "GPU" in weight.device:
        return tf.convert_to_tensor(gradient)
    indices = tf.cast(gradient.indices, tf.int32)
    ids, which = tf.unique(indices)
    which += 1
    rows = tf.math.unsorted_segment_sum(gradient.values, which, num_slices + 1)
    nowhere = tf.zeros(weight.shape[:1], tf.int32)
    place = tf.tensor_scatter_nd_update(nowhere, indices[:, None], which)
    return TableGradient(rows, place, ids)


def half_square(gradient):
    """Returns half the sum of the squares of a gradient of `gradient_of`, <float32>[]."""
    if isinstance(gradient, TableGradient):
        gradient = gradient.rows
    size = gradient.shape.num_elements()
    is_known = gradient.dtype in (tf.float32, tf.bfloat16)
    if size < MIN_COMPILED or size % (2 * NUM_PIECES) or not is_known:
        return tf.nn.l2_loss(tf.cast(gradient, tf.float32))
    if gradient.dtype == tf.bfloat16:
        gradient = tf.bitcast(tf.reshape(gradient, [-1, 2]), tf.uint32)
    return 0.5 * tf.reduce_sum(_squares(tf.reshape(gradient, [NUM_PIECES, -1])))


@tf.function(jit_compile=True, autograph=False)
def _squares(pieces):
    """<float32>[P, N], or <uint32> of two bfloat16 each -> <float32>[N], their squares, added up.

    Piece by piece to a loop of vectors: the sum of an axis XLA adds up one number after the other.
    Two at a time, as XLA would write numbers that it widens one by one out to memory first.
    """
    return sum(map(_square, tf.unstack(pieces)))


def _square(x):
    if x.dtype == tf.float32:
        return x * x
    high = tf.bitcast(tf.bitwise.bitwise_and(x, tf.constant(0xFFFF0000, tf.uint32)), tf.float32)
    low = tf.bitcast(tf.bitwise.left_shift(x, tf.constant(16, tf.uint32)), tf.float32)
    return high * high + low * low


def move(rule, weight, slots, average, gradient, names, numbers, is_lazy=False):
    """Moves a weight, its slots and its average (or None).

    Args:
        rule: as of `base.Optimizer`.
        slots: {slot: tf.Variable}.
        gradient: of `gradient_of`, of the scaled loss.
        names: tuple of str, of the numbers: those of the rule; "scale", on the gradient; "decay",
            share of the weight; "max_value" of the gradient, or none; "average_share".
        numbers: <float32>[N], one tensor, as XLA makes a loop of several only of few inputs.
        is_lazy: bool. Rows whose gradient is 0 and their slots stay as they are; their average
            does not.
    """
    if is_lazy and average is None and isinstance(gradient, TableGradient):
        move_rows(rule, weight, slots, gradient, names, numbers)
        return
    if isinstance(gradient, TableGradient):
        # Another number of words in every batch would be another program to compile.
        gradient = gradient._replace(ids=None)
    num_results = 1 + len(slots) + (average is not None)
    # What two values have in common, XLA would compute first and write out. So each is computed
    # from a gradient and numbers of its own, of which XLA is not told that they are the same.
    compiled_move(rule, weight, slots, average, names, [(gradient, numbers)] * num_results, is_lazy)


def move_rows(rule, weight, slots, gradient, names, numbers):
    """A lazy `move` of a TableGradient: reads and writes the rows that are looked up."""
    variables = [weight, *slots.values()]
    num_ids, num_slices = tf.size(gradient.ids), gradient.rows.shape[0] - 1
    # As many rows as tokens, whose number the program knows.
    ids = tf.ensure_shape(tf.pad(gradient.ids, [[0, num_slices - num_ids]]), [num_slices])
    weight, *old = [tf.gather(variable.read_value(), ids) for variable in variables]
    slots = dict(zip(slots, old, strict=True))
    values = compiled_rows(rule, weight, slots, gradient.rows[1:], names, numbers)
    for variable, value in zip(variables, values, strict=True):
        variable.scatter_update(tf.IndexedSlices(value[:num_ids], gradient.ids))
        # Or whoever reads the variable from now on gets a copy of the whole table.
        tf.raw_ops.DisableCopyOnRead(resource=variable.handle)


@tf.function(jit_compile=True, autograph=False)
def compiled_rows(rule, weight, slots, gradient, names, numbers):
    numbers = dict(zip(names, tf.unstack(numbers), strict=True))
    return new_values(rule, weight, slots, None, gradient, numbers, is_lazy=True)


# One compiled loop over a weight and its slots, where `machine.use_multi_output_fusion` was called:
# it reads and writes each number once. A function of one weight, not of all: equal shapes share the
# program, and TensorFlow runs several at once.
@tf.function(jit_compile=True, autograph=False)
def compiled_move(rule, weight, slots, average, names, inputs, is_lazy):
    """inputs: list of (gradient, numbers), for each of what `new_values` returns."""
    variables, values = [weight, *slots.values(), average], []
    for place, (gradient, numbers) in enumerate(inputs):
        numbers = dict(zip(names, tf.unstack(numbers), strict=True))
        values.append(new_values(rule, weight, slots, average, gradient, numbers, is_lazy)[place])
    for variable, value in zip(variables, values, strict=False):  # the average is None, or last
        variable.assign(value)


def new_values(rule, weight, slots, average, gradient, numbers, is_lazy):
    """Returns the new values of weight, slots and average, in this order."""
    if isinstance(gradient, TableGradient):
        gradient = tf.gather(gradient.rows, gradient.place)
    has_gradient = tf.reduce_any(gradient != 0, axis=-1, keepdims=True) if is_lazy else None
    gradient = tf.cast(gradient, weight.dtype) * numbers["scale"]
    if "max_value" in numbers:
        gradient = tf.clip_by_value(gradient, -numbers["max_value"], numbers["max_value"])
    update, new_slots = rule(gradient, slots, numbers)
    new_weight = weight - (update + numbers["decay"] * weight)
    values = [new_weight, *(new_slots[name] for name in slots)]
    if is_lazy:
        old = [weight, *slots.values()]
        values = [tf.where(has_gradient, *pair) for pair in zip(values, old, strict=True)]
    if average is not None:
        values.append(average + numbers["average_share"] * (values[0] - average))
    return values
