# SPDX-License-Identifier: Apache-2.0
"""What TensorBoard's HParams tab needs of a run: its params, in an event file of their own.

The tab takes the figures from the events of the run itself. It imports no TensorFlow.
"""

import contextlib
import socket
import time
from datetime import datetime

from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.hparams import summary_v2
from tensorboard.summary.writer.record_writer import RecordWriter

from experiments.run_folder import SEED, read_run

SUFFIX = ".hparams"  # of the event file


def write_hparams(folder, keys):
    """Writes the event file of a run, unless it has one.

    folder: Path of its model_dir. keys: the dotted keys to show, beside the seed.
    """
    if any(folder.glob(f"events*{SUFFIX}")):
        return
    run = read_run(folder)
    values = {key: as_hparam(run.params.get(key)) for key in [*keys, SEED]}
    started = None
    with contextlib.suppress(KeyError, ValueError):
        started = datetime.fromisoformat(run.record["started"]).timestamp()
    summary = summary_v2.hparams_pb(values, trial_id=run.name, start_time_secs=started or 0.0)
    now = time.time()
    version = event_pb2.Event(wall_time=now, file_version="brain.Event:2")
    name = f"events.out.tfevents.{int(now)}.{socket.gethostname()}{SUFFIX}"
    with open(folder / name, "wb") as file:  # EventFileWriter would import TensorFlow
        for event in (version, event_pb2.Event(wall_time=now, summary=summary)):
            RecordWriter(file).write(event.SerializeToString())


def as_hparam(value):
    """The kinds that TensorBoard has: bool, number, str."""
    return value if isinstance(value, bool | int | float | str) else str(value)
