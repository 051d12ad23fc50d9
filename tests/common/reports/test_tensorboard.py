# SPDX-License-Identifier: Apache-2.0
"""Events for TensorBoard, read by TensorFlow and by TensorBoard."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from common.errors import RunError
from common.reports.listener import Listeners
from common.reports.metrics_file import MetricsFile
from common.reports.tensorboard import TensorBoard


@pytest.fixture
def make_listeners(tmp_path):
    """Returns a function that makes a MetricsFile and a TensorBoard, as a new process would."""
    opened = []

    def make():
        metrics_file = MetricsFile(tmp_path)
        opened.append(Listeners([metrics_file, TensorBoard(tmp_path, metrics_file)]))
        return opened[-1]

    yield make
    for listeners in opened:
        listeners.close()


def _read_events(event_dir):
    """Returns {(name, step): (plugin, value)} of a folder's event files."""
    paths = sorted(map(str, event_dir.glob("events.out.tfevents.*")))
    values = {}
    for record in tf.data.TFRecordDataset(paths):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            plugin = value.metadata.plugin_data.plugin_name
            values[value.tag, event.step] = plugin, tf.make_ndarray(value.tensor)
    return values


def test_figures_reach_the_events_of_their_split(tmp_path, make_listeners):
    listeners = make_listeners()
    buckets = np.array([[0.0, 0.5, 3.0], [0.5, 1.0, 4.0]])
    assert not list(tmp_path.iterdir())
    listeners.on_figures(
        "train", 100, {"train/cost_cls": np.float32(0.5), "train/lr": 5e-5}, {"grads/w:0": buckets}
    )
    assert not (tmp_path / "eval").exists()
    listeners.on_figures("eval", 100, {"eval/accuracy_cls": 0.75})
    events = _read_events(tmp_path)  # read while the files are open: they were flushed
    plugin, written = events.pop(("grads/w:0", 100))
    assert plugin == "histograms"
    np.testing.assert_array_equal(written, buckets)
    assert events == {
        ("train/cost_cls", 100): ("scalars", np.float32(0.5)),
        ("train/lr", 100): ("scalars", np.float32(5e-5)),
    }
    assert _read_events(tmp_path / "eval") == {("eval/accuracy_cls", 100): ("scalars", 0.75)}


def test_tensorboard_shows_a_resumed_run_once(tmp_path, make_listeners):
    """Read by its Python reader: the faster one drops events of later steps in any case."""
    # In another process, as warnings of tensorboard would fail this one.
    program = """
import sys
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1]).Reload()
print([(e.step, float(tf.make_ndarray(e.tensor_proto))) for e in events.Tensors("train/lr")])
"""
    first = make_listeners()
    for step in (1, 2, 3, 4):
        first.on_figures("train", step, {"train/lr": step})
    first.close()
    (events,) = tmp_path.glob("events.*")
    # Files are read in the order of their names, which begin with the second of their creation.
    events.rename(tmp_path / "events.out.tfevents.1000000000.host.1.0.v2")
    second = make_listeners()
    second.on_resume(2, 2)
    second.on_figures("train", 3, {"train/lr": 30})
    second.close()
    shown = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[(1, 1.0), (2, 2.0), (3, 30.0)]"


def test_a_resume_that_removes_nothing_writes_no_event(tmp_path, make_listeners):
    listeners = make_listeners()
    listeners.on_figures("train", 1, {"train/lr": 1.0})
    listeners.on_resume(1, 1)
    assert len(list(tmp_path.glob("events.*"))) == 1


def test_events_that_cannot_be_written_are_reported(tmp_path, make_listeners):
    (tmp_path / "eval").write_text("a file where a folder is to be made")
    told = r"eval/events.* could not be written: Not a directory\. Checkpoints are"
    with pytest.raises(RunError, match=told):
        make_listeners().on_figures("eval", 1, {"loss": 1.0})
