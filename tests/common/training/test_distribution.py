# SPDX-License-Identifier: Apache-2.0
"""Several devices: the rows of each, its dropout masks, and the weights of one device."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from common.checkpoints.writer import CheckpointWriter, NoWriter
from common.errors import RunError, UserError
from common.export.engine import Engine
from common.layers.dropout import Dropout, DropoutClock
from common.metrics.row_metrics import RowMetrics
from common.params import RunParams
from common.training.cluster import Cluster
from common.training.distribution import ONE_DEVICE, Distribution, make_distribution
from common.training.inference import Inference
from common.training.session import Session
from model import make_model, model_fn
from tests.reference.tiny_bert import tiny_params
from tests.reference.toy_rows import toy_eval_batches, toy_tokens, toy_train_batches

ROOT = Path(__file__).resolve().parents[3]


def worker_of(num_workers, worker):
    """Returns the Distribution of one worker, without the other processes."""
    addresses = tuple(f"host{i}:1" for i in range(num_workers))
    return Distribution(cluster=Cluster(addresses, worker))


# ---- Rows ----------------------------------------------------------------------------------------


def test_workers_take_every_row_of_every_batch_once_and_in_order():
    def batches():
        return toy_train_batches(toy_tokens(40), 6, 0, 9, num_buckets=2)

    shares = [list(worker_of(3, worker).shard(batches())) for worker in range(3)]
    for whole, *parts in zip(batches(), *shares, strict=True):
        together = tf.nest.map_structure(lambda *x: tf.concat(x, 0), *parts)
        tf.nest.map_structure(np.testing.assert_array_equal, together, whole)
        assert all(targets["labels"].shape == (2,) for _, targets in parts)


def test_batches_that_cannot_be_shared_equally_are_refused():
    three = worker_of(3, 1)
    three.check_batch_size(6)
    with pytest.raises(
        UserError, match=r"batch_size is 8, .*3 workers of 1 devices.*multiple of 3"
    ):
        three.check_batch_size(8)


@pytest.mark.parametrize(("num_workers", "batch_size"), [(2, 3), (4, 3), (5, 4)])
def test_logits_of_all_workers_are_those_of_one_also_where_some_get_no_batch(
    num_workers, batch_size
):
    """Each worker computes its share; what is gathered has every row once."""
    batches = toy_eval_batches(toy_tokens(7), batch_size)  # 3, 3 and 2 batches

    def collect(distribution):
        params = tiny_params()
        session = Session(params, make_model, model_fn, None, distribution=distribution)
        inference = Inference(session, session.new_model())
        metrics = inference.collect({"split": batches}, RowMetrics, "eval", Ids("nowhere"))
        return metrics["split"].outputs["logits"]

    class Ids(Engine):
        def run(self, features):  # a number for each row
            ids = features["input_ids"].sum(axis=1)
            return {"logits": ids[:, None].astype(np.float32)}

    expected = collect(ONE_DEVICE)
    assert expected.shape == (7, 1)
    gathered = [[] for _ in range(num_workers)]
    for worker in range(num_workers):
        part = worker_of(num_workers, worker)
        # In the place of the network: what the others give is added up below.
        part.gather = lambda array, kept=gathered[worker]: kept.append(array) or array
        collect(part)
    rows, ids, _ = (np.concatenate(arrays) for arrays in zip(*gathered, strict=True))
    assert sorted(rows[rows >= 0]) == list(range(7))
    np.testing.assert_array_equal(ids[rows >= 0][np.argsort(rows[rows >= 0])], expected)


@pytest.mark.parametrize("counts", [(2, 3), (0, 4, 1)])
def test_rows_of_workers_are_gathered_in_their_order(counts):
    parts = [np.arange(n, dtype=np.float32)[:, None] + 10 * i for i, n in enumerate(counts)]
    numbers = iter([np.array(counts)] * len(counts))
    added = []
    for worker, array in enumerate(parts):
        part = worker_of(len(counts), worker)
        part.sum = lambda x: next(numbers) if x.dtype == np.int64 else added.append(x) or x
        part.gather(array)
    np.testing.assert_array_equal(sum(added), np.concatenate(parts))


# ---- Dropout -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("row", [(5, 8), (3, 5), (2, 3, 3), ()])  # 40, 15, 18 and 1 number
def test_rows_have_the_masks_of_the_whole_batch(row, dtype):
    clock = DropoutClock(seed=11)
    clock.step.assign(5)
    layer = Dropout(0.4, clock, dtype=dtype)
    x = tf.ones((12, *row), dtype)
    whole = layer(x, training=True)
    for num_shares in (1, 2, 3):
        shares = []
        for clock.share, part in enumerate(tf.split(x, num_shares)):
            shares.append(layer(part, training=True))
        np.testing.assert_array_equal(tf.concat(shares, 0), whole)
        clock.share = 0
    clock.share = 1  # the last 6 rows, computed as 2 and 4 of them
    parts = []
    for clock.rows, part in zip([(0, 6), (2, 6)], (x[6:8], x[8:]), strict=True):
        parts.append(layer(part, training=True))
    np.testing.assert_array_equal(tf.concat(parts, 0), whole[6:])
    assert 0 < np.mean(np.asarray(whole, np.float32) == 0) < 1


# ---- Devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grad_accum_steps", "task"),
    [
        (1, "classification"),
        pytest.param(2, "classification", marks=pytest.mark.slow),
        (1, "token_classification"),  # the devices have different numbers of labelled tokens
    ],
)
def test_two_devices_make_the_updates_of_one(grad_accum_steps, task):
    """With dropout, class weights and clipping on."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.reference.two_devices", str(grad_accum_steps), task],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == ["CPU:0", "CPU:1"]
    assert found["replicas"] == 0
    assert found["one"] < 1e-6  # the rows of a batch are added in another order
    assert found["loss"] < 1e-6


def test_more_devices_than_there_are_are_refused():
    if tf.config.list_physical_devices("GPU"):
        run = RunParams(enable_distributed=True, num_devices=1000)
        with pytest.raises(UserError, match="num_devices is 1000, and this machine has"):
            make_distribution(run)
    cluster = Cluster(("a:1", "b:2"), 0)
    with pytest.raises(UserError, match="num_devices is 1000, and this worker has"):
        make_distribution(RunParams(multiple_workers=True, num_devices=1000), cluster)


def test_one_device_needs_no_strategy():
    for run in (RunParams(), RunParams(enable_distributed=True, mode="export")):
        one = make_distribution(run)
        assert (one.strategy, one.num_replicas, one.is_chief) == (None, 1, True)


# ---- Lost workers --------------------------------------------------------------------------------


def test_a_lost_worker_is_reported_by_name():
    two = worker_of(2, 1)
    for message, name in (
        ("Graph execution error:\nfrom remote target /job:worker/replica:0/task:0 while", "worker"),
        ("The following tasks are unhealthy (no heartbeats):\n/job:chief/task:0\nThe", "chief"),
    ):
        told = rf"another of the 2 workers has ended.*\(/job:{name}\S*/task:0 of TF_CONFIG\)"
        with pytest.raises(RunError, match=told), two.lost_workers_explained():
            raise tf.errors.UnavailableError(None, None, message)
    reason = r"cannot be reached\. Its last"
    with pytest.raises(RunError, match=reason), two.lost_workers_explained():
        raise tf.errors.AbortedError(None, None, "Socket closed")
    with pytest.raises(tf.errors.InvalidArgumentError), two.lost_workers_explained():
        raise tf.errors.InvalidArgumentError(None, None, "a fault of this program")


def test_workers_that_differ_are_refused():
    two = worker_of(2, 1)
    two.sum = lambda numbers: np.array([40, numbers[1]])  # 40 is the chief's
    two.require_same("the step to begin from", 40)
    with pytest.raises(
        UserError, match=r"step to begin from is 0 for worker 1 \(host1:1\), and 40"
    ):
        two.require_same("the step to begin from", 0)


# ---- Output --------------------------------------------------------------------------------------


def public_methods(of):
    return {name for name in vars(of) if not name.startswith("_")}


def test_a_worker_that_is_not_the_chief_writes_nothing(tmp_path):
    # NoWriter has to override every method of the other.
    assert public_methods(CheckpointWriter) == public_methods(NoWriter)
    writer, array = NoWriter(), np.eye(3, 2)
    writer.reserve({"w": array})
    writer.save(1, {"w": array}, {}, {}, ["a"], keep_max=1, keep={1})
    writer.then(lambda: (tmp_path / "best").touch())
    writer.poll()
    writer.wait()
    assert not list(tmp_path.iterdir())


def test_only_the_chief_prints(capsys):
    for worker in range(2):
        with worker_of(2, worker).chief_only_logging():
            print(f"from {worker}")
    said = capsys.readouterr()
    assert said.out == "from 0\n"
    assert said.err.startswith("Worker 1 of 2 (host1:1) takes part; worker 0 (host0:1) prints")
