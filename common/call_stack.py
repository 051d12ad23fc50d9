# SPDX-License-Identifier: Apache-2.0
"""Room for the frames of Python's calls, taken once.

CPython (3.11 and later) keeps frames in pieces of 16 kB. The call that needs the next piece asks
the system for it, and gives it back when it returns: a loop that happens to call there does so at
every turn, and its calls take a hundred times as long. TensorFlow's import has such loops: a
twelfth of the time to a run's first step (benchmarks/NOTES.md, "Start").
"""

import types

# Numbers of 8 bytes. The piece for a frame is a power of two, so as many are left for all that it
# calls, some thousand frames. Memory that no frame uses is not taken.
STACK_SIZE = 2**17


def in_one_piece(function):
    """Returns function(), all calls within it in one piece of memory."""
    code = _call.__code__.replace(co_stacksize=STACK_SIZE)
    return types.FunctionType(code, globals())(function)


def _call(function):
    return function()
