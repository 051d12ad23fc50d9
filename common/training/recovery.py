# SPDX-License-Identifier: Apache-2.0
"""`runconfig.recover_from_nan`: back to the last checkpoint, with a lower learning rate, where a
loss or gradient is not finite; and what a message says of such a step."""

import numpy as np
import tensorflow as tf

from common.checkpoints import store
from common.checkpoints.vocab import pad_token
from common.errors import RunError

MAX_RECOVERIES = 3  # in all of a run
MAX_SHOWN_TEXTS = 3  # of the batch


class Recovery:
    """Goes back where numbers stop being finite.

    optimizer: Optimizer, whose learning rate is multiplied by a factor that is 1 at first.
    """

    def __init__(self, session, optimizer, saver, listeners):
        self.session, self.optimizer = session, optimizer
        self.saver, self.listeners = saver, listeners
        self.factor = session.run.recovery_factor
        self.is_wanted = self.factor is not None
        if self.is_wanted:
            number = saver.state.num_recoveries
            self._rate_factor = rate_factor = tf.Variable(self.factor**number, dtype=tf.float32)
            schedule = optimizer.learning_rate
            optimizer.learning_rate = lambda step: schedule(step) * rate_factor

    def recover(self, error, batches, first_step):
        """Goes back to the last checkpoint with a lower rate. Returns its step.

        error: NotFiniteError. batches: those that the loop took from first_step on. Raises RunError
        where recovery is not wanted, or has been done often enough.
        """
        text = f"{error}.{self._describe_step(error, batches, first_step)}"
        number = self.saver.state.num_recoveries + 1
        if not self.is_wanted:
            raise RunError(text) from error
        if number > MAX_RECOVERIES:
            raise RunError(f"{text}\n  {MAX_RECOVERIES} steps back have not helped") from error
        self.saver.writer.wait()
        self.session.distribution.barrier()
        path = store.newest_checkpoint(self.session.model_dir, self.listeners.on_message)
        if path is None:
            raise RunError(text) from error
        step = self.saver.restore(path)
        self.saver.state.num_recoveries = number
        rate_factor = self.factor**number
        self._rate_factor.assign(rate_factor)
        self.listeners.on_message(
            f"{text}\nBack to step {step}, with the learning rate times {rate_factor:g} "
            f"(recover_from_nan, {number} of {MAX_RECOVERIES})"
        )
        return step

    def _describe_step(self, error, batches, first_step):
        """Lines on the gradient and the rows with which numbers stopped being finite."""
        lines = []
        nonfinite = self.optimizer.first_nonfinite()
        if nonfinite is not None and nonfinite[0] == error.step:
            lines.append(f"the first gradient that was not finite is that of {nonfinite[1]}")
        accumulation = self.session.params.optimizer.accumulation
        first, last = (
            accumulation.batches(step) - accumulation.batches(first_step)
            for step in (error.step - 1, error.step)
        )
        rows = batches.rows_of(first, last).ravel()
        lines.append(f"rows of the step: {', '.join(map(str, rows))}")
        features, _ = next(iter(batches.from_batch(first).take(1)))
        ids_of_rows = np.asarray(features["input_ids"])
        if "starts" in features:
            ids_of_rows = np.split(ids_of_rows.ravel(), np.asarray(features["starts"])[1:])
        vocab = self.session.vocab
        padding = pad_token(vocab)
        for row, ids in zip(rows[:MAX_SHOWN_TEXTS], ids_of_rows, strict=False):
            tokens = [vocab[i] for i in ids if vocab[i] != padding]
            text = " ".join(tokens).replace(" ##", "")
            lines.append(f"row {row}: {text if len(text) <= 80 else text[:77] + '...'}")
        return "".join(f"\n  {line}" for line in lines)
