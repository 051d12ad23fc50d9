# SPDX-License-Identifier: Apache-2.0
"""Events for TensorBoard: those of training in model_dir, those of evaluation in its folder eval.

The first event imports TensorFlow (5 s), so that importing this module does not.
"""

import contextlib
import socket
import time
from pathlib import Path

from common.reports.listener import Listener
from common.reports.metrics_file import is_of_curves, not_written


class TensorBoard(Listener):
    """Writes events.out.tfevents.*, with the original's tags, and flushes them at every call.

    metrics_file: MetricsFile, called before this: it knows whether a resume has removed figures.
    """

    def __init__(self, model_dir, metrics_file):
        self.event_dirs = {"train": Path(model_dir), "eval": Path(model_dir) / "eval"}
        self.metrics_file = metrics_file
        self._writers = {}

    def on_figures(self, split, step, values, histograms=None, facts=None):
        if split == "eval" and not is_of_curves(facts or {}):
            return
        import tensorflow as tf

        # tf.summary.histogram takes values, and would need every gradient; these are buckets.
        metadata = tf.compat.v1.SummaryMetadata(plugin_data={"plugin_name": "histograms"})
        event_dir = self.event_dirs[split]
        with _write_errors_explained(event_dir):
            if split not in self._writers:
                self._writers[split] = tf.summary.create_file_writer(str(event_dir))
            with self._writers[split].as_default(int(step)):
                for name, value in values.items():
                    tf.summary.scalar(name, float(value))
                for name, buckets in (histograms or {}).items():
                    tf.summary.write(name, buckets, metadata=metadata)
            self._writers[split].flush()

    def on_resume(self, step, evaluated_step):
        """Event files cannot be shortened: an event makes TensorBoard forget later steps."""
        if self.metrics_file.has_dropped:
            for event_dir in self.event_dirs.values():
                if any(event_dir.glob("events.out.tfevents.*")):
                    with _write_errors_explained(event_dir):
                        _write_restart_event(event_dir, step + 1)

    def close(self):
        if self._writers:
            import tensorflow as tf
        for writer in self._writers.values():
            # What was not flushed has been reported as lost.
            with contextlib.suppress(tf.errors.OpError):
                writer.close()
        self._writers = {}


@contextlib.contextmanager
def _write_errors_explained(event_dir):
    """Turns TensorFlow's errors in writing events into a RunError."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        path = event_dir / "events.out.tfevents.*"
        # "{{function_node ...}} the path; what the system says [Op:...]", path and end not always
        reason = error.message.splitlines()[0].rpartition("}} ")[2].partition(" [Op:")[0]
        reason = reason.rpartition("; ")[2]
        raise not_written(path, reason) from error


def _write_restart_event(event_dir, step):
    """Makes TensorBoard forget earlier events from `step` on, as the original's Estimator did.

    TensorBoard reads files in the order of their names: "-restart" sorts before the ".<process>" of
    the resumed run's file of the same second.
    """
    import tensorflow as tf

    now = time.time()
    path = event_dir / f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}-restart"
    version = tf.compat.v1.Event(wall_time=now, file_version="brain.Event:2")
    session = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
    start = tf.compat.v1.Event(wall_time=now, step=step, session_log=session)
    with tf.io.TFRecordWriter(str(path)) as writer:
        # Twice: the first start in a folder counts as the run's beginning, the next as a restart
        # (tensorboard/backend/event_processing/plugin_event_accumulator.py).
        for event in (version, start, start):
            writer.write(event.SerializeToString())
