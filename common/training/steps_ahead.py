# SPDX-License-Identifier: Apache-2.0
"""Training steps that are given to TensorFlow while it still computes the ones before.

`loop.py` calls them in place of the step of `train_step.py`.
"""

import time

import tensorflow as tf

from common.platform.tf_private import background_executor

READ_SECONDS = 1e-3  # reading a figure that is already computed takes much less


class StepsAhead:
    """A train_step whose call returns when the step before is computed. A context manager.

    So Python's work between two steps, and TensorFlow's to start one, overlap with computing: 1.05
    times the examples of short rows. On exit, for whatever reason, every step has been computed.

    train_step: of `make_train_step`, for one CPU. Reading one of its figures waits for the step.
    """

    def __init__(self, train_step):
        self.train_step = train_step
        self.was_busy = False  # at the last call the step before was still being computed
        self._executor = background_executor()  # None: a call returns when its step is computed
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

    def __call__(self, features, targets):
        if self._executor is None:
            return self.train_step(features, targets)
        shapes = tuple(tuple(feature.shape) for feature in features.values())
        if shapes not in self._compiled:
            # Compiling polls for signals and explains its errors, both within the call.
            self._executor.wait()
            figures = self.train_step(features, targets)
            self._compiled.add(shapes)
            self._before, self.was_busy = figures, False
            return figures
        with self._executor.scope():
            figures = self.train_step(features, targets)
        start = time.monotonic()
        if self._before is not None:  # None: a batch of several to one update
            float(next(iter(self._before.values())))
        self._before, self.was_busy = figures, time.monotonic() - start > READ_SECONDS
        return figures
