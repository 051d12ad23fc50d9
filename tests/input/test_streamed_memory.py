# SPDX-License-Identifier: Apache-2.0
"""Memory of reading prepared rows does not grow with their number."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from input.prepared.blocks import shard_bytes
from input.prepared.pairing import Rows

ROOT = Path(__file__).resolve().parents[2]
ROWS_PER_SHARD, ROW = 250_000, 30
READ = """
import resource
import sys
import numpy as np
from input.prepared.blocks import Blocks
from input.stream_plan import PACKED, StreamPlan
from input.streamed_batches import make_streamed_batches
from tests.reference.toy_rows import TOKENIZER

folder, number, rows, row = sys.argv[1], *map(int, sys.argv[2:])
shards = [("shard.safetensors", rows)] * number
counts = np.zeros(row + 1, int)
counts[row] = rows * number
store = Blocks(folder, shards, 1, [], 99, counts, "")
plan = StreamPlan(store, 256, 2, PACKED, seed=number)
first = 3 * plan.steps_per_epoch - 150  # within two epochs
read = sum(1 for _ in make_streamed_batches(plan, TOKENIZER, first, first + 300, False))
print(read, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_forty_million_rows_take_no_more_memory_than_a_quarter_of_a_million(tmp_path):
    ids = np.random.default_rng(0).integers(3, 99, 10_000).astype(np.uint16)
    starts = np.arange(ROWS_PER_SHARD) % (len(ids) - ROW)
    spans = np.stack([starts, starts + ROW], axis=1)[:, None]
    content = shard_bytes(Rows(spans, None, 0), ids, {})
    (tmp_path / "shard.safetensors").write_bytes(content)
    peaks = []
    for number in (1, 160):  # the same file again and again, 23 MB each time
        command = [sys.executable, "-c", READ, tmp_path, str(number), str(ROWS_PER_SHARD), str(ROW)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        read, peak = map(int, done.stdout.split())
        assert read == 300
        peaks.append(peak)
    # 40 million rows are 3.4 GB; their numbers alone would be 320 MB.
    assert peaks[1] - peaks[0] < 60, peaks
