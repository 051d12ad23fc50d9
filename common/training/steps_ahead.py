# SPDX-License-Identifier: Apache-2.0
"""Training steps handed to TensorFlow while it computes the ones before; between the loop and
`train_step.py`."""

import time

import tensorflow as tf

from common.platform.tf_private import background_executor

READ_SECONDS = 1e-3  # to read a figure that is there takes much less


class StepsAhead:
    """A train_step whose call ends when the step before is computed. A context manager.

    What Python does between two steps, and what TensorFlow does to begin one, is then done beside
    the computing: 1.05 times the examples of short rows. When the context is left, for whatever
    reason, nothing is left to be computed.

    Args:
        train_step: of `make_train_step`, for one CPU.
    Call:
        as of train_step. To read one of the figures waits for the step.
    Attributes:
        was_busy: bool. When the last call handed its step over, the step before was still computed.
    """

    def __init__(self, train_step):
        self.train_step, self.was_busy = train_step, False
        self._executor = background_executor()  # None: each step is computed when its call ends
        self._compiled, self._before = set(), None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if self._executor is None:
            return
        try:
            self._executor.wait()
        except tf.errors.OpError:
            self._executor.clear_error()
            if error is None:
                raise

    def __call__(self, features, labels):
        if self._executor is None:
            return self.train_step(features, labels)
        shapes = tuple(tuple(feature.shape) for feature in features.values())
        if shapes not in self._compiled:
            # What compiles answers signals, and explains what it fails for, while it is called.
            self._executor.wait()
            figures = self.train_step(features, labels)
            self._compiled.add(shapes)
            self._before, self.was_busy = figures, False
            return figures
        with self._executor.scope():
            figures = self.train_step(features, labels)
        begun = time.monotonic()
        if self._before is not None:  # None: a batch of several to one update
            float(self._before["train/cost_cls"])
        self._before, self.was_busy = figures, time.monotonic() - begun > READ_SECONDS
        return figures
