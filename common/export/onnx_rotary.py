# SPDX-License-Identifier: Apache-2.0
"""Rotary positions and windows as operations of an ONNX graph, of any length.

graph: BertGraph of `onnx.py`. Shapes: B batch, H heads, T tokens, d head size.
"""

import numpy as np

from common.layers.dot_product_attention import MASKED_SCORE
from common.layers.rotary import LOW, RotaryPositions


def places(graph):
    """<int64>[T], 0 to T - 1."""
    length = graph.add("Squeeze", graph.add("Shape", "input_ids", start=1, end=2))
    return graph.add("Range", np.int64(0), length, np.int64(1))


def rotate(graph, x, theta, head_size):
    """x: [B, H, T, d]. Returns it turned by its places; see `RotaryPositions`."""
    tables = RotaryPositions(head_size, theta).tables
    place = places(graph)
    parts = []
    for name, of_part, which in (
        ("low", tables[0], graph.add("Mod", place, np.int64(LOW))),
        ("high", tables[1], graph.add("Div", place, np.int64(LOW))),
    ):
        for kind, table in zip(("cos", "sin"), of_part, strict=True):
            table = graph.constant(table, f"rotary/{theta}/{name}/{kind}")
            parts.append(graph.add("Gather", table, which, axis=0))  # [T, d / 2]
    cos_low, sin_low, cos_high, sin_high = parts
    both = graph.add("Mul", cos_low, cos_high), graph.add("Mul", sin_low, sin_high)
    cos = graph.add("Sub", *both)
    both = graph.add("Mul", sin_low, cos_high), graph.add("Mul", cos_low, sin_high)
    sin = graph.add("Add", *both)
    half, whole, last = np.array([head_size // 2]), np.array([head_size]), np.array([3])
    first = graph.add("Slice", x, np.array([0]), half, last)
    second = graph.add("Slice", x, half, whole, last)
    turned = (
        graph.add("Sub", graph.add("Mul", first, cos), graph.add("Mul", second, sin)),
        graph.add("Add", graph.add("Mul", second, cos), graph.add("Mul", first, sin)),
    )
    return graph.add("Concat", *turned, axis=-1)


def window(graph, reach, first_token_only):
    """What is added to scores: 0 up to `reach` places away, else a score whose softmax is 0.

    Returns [T, T], or of [CLS] alone [1, T].
    """
    place = places(graph)
    others = graph.add("Unsqueeze", place, np.array([0]))  # [1, T]
    asking = np.zeros((1, 1), np.int64)
    if not first_token_only:
        asking = graph.add("Unsqueeze", place, np.array([1]))  # [T, 1]
    distance = graph.add("Abs", graph.add("Sub", asking, others))
    is_far = graph.add("Cast", graph.add("Greater", distance, np.int64(reach)), to=graph.float32)
    return graph.add("Mul", is_far, np.float32(MASKED_SCORE))
