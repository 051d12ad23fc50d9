# SPDX-License-Identifier: Apache-2.0
"""Updates one weight by an optimizer's rule, in one compiled loop over it and its slots."""

from typing import NamedTuple

import tensorflow as tf

NUM_PIECES = 16  # of a gradient whose squares are summed; 4 to 32 take the same time
MIN_COMPILED = 2**14  # elements; for fewer, starting a compiled loop takes longer than the sum


class TableGradient(NamedTuple):
    """The gradient of a table of V rows, of which a batch looks up few.

    A dense gradient would take three passes over memory of the table's size on one core, while the
    other cores wait for the norm of all gradients.
    """

    rows: tf.Tensor  # <float32>[K + 1, D]: 0, then the U rows that are looked up, then 0
    place: tf.Tensor  # <int32>[V], for each row of the table the index of its gradient in `rows`
    ids: tf.Tensor  # <int32>[U], for each of `rows`, from the second, its row in the table


def gradient_of(weight, gradient):
    """Returns the gradient for `half_square` and `update_weight`, of any dtype.

    Gradients of a row that a batch looks up twice are added here, before they are squared.

    weight: tf.Variable [V, ...]. gradient: tensor, or IndexedSlices of K rows.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    num_slices = gradient.values.shape[0]
    # A GPU writes the dense table faster than it finds equal indices.
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
    """<float32>[P, N], or <uint32> of two bfloat16 each -> <float32>[N], the sum of their squares.

    The sum of pieces is a loop over vectors; XLA would sum an axis one element at a time. bfloat16
    is read in pairs, because XLA would write single widened elements to memory first.
    """
    return sum(map(_square, tf.unstack(pieces)))


def _square(x):
    if x.dtype == tf.float32:
        return x * x
    high = tf.bitcast(tf.bitwise.bitwise_and(x, tf.constant(0xFFFF0000, tf.uint32)), tf.float32)
    low = tf.bitcast(tf.bitwise.left_shift(x, tf.constant(16, tf.uint32)), tf.float32)
    return high * high + low * low


@tf.function(jit_compile=True, autograph=False)
def squares_of_step(rule, weight, slots, gradient, names, numbers):
    """<float32>[N], whose sum is that of the squares of what `new_values` subtracts from a weight.

    Arguments as of `update_weight`. Nothing is changed.
    """
    numbers = dict(zip(names, tf.unstack(numbers), strict=True))
    update, _ = rule(scaled_gradient(weight, gradient, numbers), slots, numbers)
    step = update + numbers["decay"] * weight
    size = weight.shape.num_elements()
    pieces = NUM_PIECES if size % NUM_PIECES == 0 else 1
    return sum(map(_square, tf.unstack(tf.reshape(step, [pieces, -1]))))


def update_weight(rule, weight, slots, average, gradient, names, numbers, is_lazy=False):
    """Updates a weight, its slots and its average (or None).

    Args:
        rule: as of `base.Optimizer`.
        slots: {slot: tf.Variable}.
        gradient: of `gradient_of`, of the scaled loss.
        names: tuple of str, of `numbers`: those of the rule; "scale", factor on the gradient;
            "decay", share of the weight; optionally "max_value" of the gradient, "average_share".
        numbers: <float32>[N], one tensor, since XLA fuses loops only of few inputs.
        is_lazy: bool. Rows with gradient 0 and their slots do not change; their average does.
    """
    if is_lazy and average is None and isinstance(gradient, TableGradient):
        update_rows(rule, weight, slots, gradient, names, numbers)
        return
    if isinstance(gradient, TableGradient):
        # Its length differs between batches, and each length would be another compiled program.
        gradient = gradient._replace(ids=None)
    num_results = 1 + len(slots) + (average is not None)
    # XLA would compute the common parts of two values first and write them to memory. So each value
    # gets inputs of its own, which XLA does not know to be equal.
    compiled_update(
        rule, weight, slots, average, names, [(gradient, numbers)] * num_results, is_lazy
    )


def update_rows(rule, weight, slots, gradient, names, numbers):
    """A lazy update by a TableGradient: reads and writes only the rows that are looked up."""
    variables = [weight, *slots.values()]
    num_ids, num_slices = tf.size(gradient.ids), gradient.rows.shape[0] - 1
    # Padded to the number of tokens, which is static.
    ids = tf.ensure_shape(tf.pad(gradient.ids, [[0, num_slices - num_ids]]), [num_slices])
    weight, *old = [tf.gather(variable.read_value(), ids) for variable in variables]
    slots = dict(zip(slots, old, strict=True))
    values = compiled_rows(rule, weight, slots, gradient.rows[1:], names, numbers)
    for variable, value in zip(variables, values, strict=True):
        variable.scatter_update(tf.IndexedSlices(value[:num_ids], gradient.ids))
        # Otherwise every later read of the variable copies the whole table.
        tf.raw_ops.DisableCopyOnRead(resource=variable.handle)


@tf.function(jit_compile=True, autograph=False)
def compiled_rows(rule, weight, slots, gradient, names, numbers):
    numbers = dict(zip(names, tf.unstack(numbers), strict=True))
    return new_values(rule, weight, slots, None, gradient, numbers, is_lazy=True)


# With multi-output fusion (`platform/machine_code.py`) this is one loop that reads and writes each
# element once. It is a function of one weight and not of all, since equal shapes share the program
# and TensorFlow runs several at the same time.
@tf.function(jit_compile=True, autograph=False)
def compiled_update(rule, weight, slots, average, names, inputs, is_lazy):
    """inputs: list of (gradient, numbers), one for each result of `new_values`."""
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
    update, new_slots = rule(scaled_gradient(weight, gradient, numbers), slots, numbers)
    new_weight = weight - (update + numbers["decay"] * weight)
    values = [new_weight, *(new_slots[name] for name in slots)]
    if is_lazy:
        old = [weight, *slots.values()]
        values = [tf.where(has_gradient, *pair) for pair in zip(values, old, strict=True)]
    if average is not None:
        values.append(average + numbers["average_share"] * (values[0] - average))
    return values


def scaled_gradient(weight, gradient, numbers):
    """Returns the gradient that a rule takes: <float32> of the weight's shape, unscaled, clipped.

    gradient: of `gradient_of`. numbers: {name: <float32>[]} of `update_weight`.
    """
    if isinstance(gradient, TableGradient):
        gradient = tf.gather(gradient.rows, gradient.place)
    gradient = tf.cast(gradient, weight.dtype) * numbers["scale"]
    if "max_value" in numbers:
        gradient = tf.clip_by_value(gradient, -numbers["max_value"], numbers["max_value"])
    return gradient
