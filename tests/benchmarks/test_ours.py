# SPDX-License-Identifier: Apache-2.0
"""The measurements of this project on a tiny network and the embedded sample."""

import io
import json
import string

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import ours, worker
from benchmarks.worker import Finished, Gate, StepGate
from common.optimizers.factory import optimizer_of
from common.validate import graph
from model import make_model, model_fn


class CountingGate(Gate):
    """A Gate that allows so many blocks, and stores their figures."""

    def __init__(self, blocks):
        self.facts, self.left, self.blocks = {}, blocks, []

    def begin(self):
        if not self.left:
            raise Finished
        self.left -= 1

    def end(self, count, **figures):
        self.blocks.append({"count": count} | figures)


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """The flags of a worker that has the sample and a vocabulary of letters."""
    folder = tmp_path_factory.mktemp("bench")
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, ".", ",", "'"]
    (folder / "vocab.txt").write_text("".join(f"{entry}\n" for entry in vocab))
    places = [f"--{name}={folder}" for name in ("weights", "data_dir", "cache_dir")]
    sizes = ["--network=tiny", "--length=40", "--batch_size=6", "--steps=2"]
    return [*places, *sizes, "--dataset=sample_glue/sst2"]


def measure(task, *flags, blocks=2):
    gate = CountingGate(blocks)
    with pytest.raises(Finished):
        ours.MEASURES[task](ours.make_parser().parse_args([task, *flags]), gate)
    assert len(gate.blocks) == blocks
    return gate


@pytest.mark.parametrize(
    ("packing", "length"), [("none", 40), pytest.param("packed", 200, marks=pytest.mark.slow)]
)
def test_training_counts_the_rows_and_the_products_of_each_block(flags, packing, length):
    gate = measure("train", *flags, f"--packing={packing}", f"--length={length}")
    for block in gate.blocks:
        assert block["count"] == 2 * 6
        assert block["flops"] > 0 and np.isfinite(block["loss"])
    assert 0 <= gate.blocks[1]["input_wait"] < 1
    assert (packing == "none") == (gate.facts["shapes"] == [[6, length]])
    if packing == "none":
        # Two layers, forward and twice as much backward, two steps; of a token 4 products of D x D
        # and 2 of D x F, and attention to T. The last layer computes a part of it.
        whole = 2 * 3 * 2 * (6 * 40) * (8 * 32 * 32 + 4 * 32 * 64 + 4 * 40 * 32)
        assert 0.5 < gate.blocks[0]["flops"] / whole < 1.05


def test_a_block_may_be_a_single_step(flags):
    blocks = measure("train", *flags, "--packing=none", "--steps=1", blocks=3).blocks
    assert [block["count"] for block in blocks] == [6, 6, 6]
    assert ["input_wait" in block for block in blocks] == [False, False, True]


@pytest.mark.slow
@pytest.mark.parametrize(("packing", "size", "shapes"), [("buckets", 24, 7), ("packed", 6, 2)])
def test_the_products_of_a_shape_are_those_of_its_training_step(flags, packing, size, shapes):
    """Of a token's products and attention: a + b T + c T^2 at fixed rows, or a + b R at fixed T."""
    flags = [*flags, f"--packing={packing}", "--length=200", f"--batch_size={size}"]
    params, _ = ours.params_of(ours.make_parser().parse_args(["train", *flags]))
    batches = ours.data.train_input_fn(params, 0, 50)
    counted = ours.flops_of_steps(params, batches)
    assert len(counted) == shapes
    shape = sorted(counted)[1]  # counted are the first, the last, and the middle of buckets
    with tf.Graph().as_default():
        model = make_model(params)
        step = graph.trace_train_step(
            model_fn,
            params,
            model,
            optimizer_of(model, params),
            shape,
            batches.num_packed,
        )
    assert counted[shape] == pytest.approx(step.flops, rel=1e-6)


def test_the_steps_that_are_measured_are_like_the_whole_epoch_and_of_few_shapes():
    flops = np.array([1.0, 1.0, 9.0, 4.0, 5.0, 6.0, 2.0])  # 4 on the average
    shapes = np.stack([flops, flops], axis=1).astype(int)
    assert ours.typical_stretch(flops, shapes, 1) == 3
    assert ours.typical_stretch(flops, shapes, 2) == 5  # 6 and 2
    assert ours.typical_stretch(flops, shapes, 7) == 0
    flops = np.array([300.0, 100.0, 201.0, 201.0, 198.0, 200.0])  # 200 on the average
    shapes = np.stack([flops, flops], axis=1).astype(int)
    assert ours.typical_stretch(flops, shapes, 2) == 2  # 0 and 3 are nearer, and of two shapes


def test_inference_and_tokenising_are_measured_from_text_on(flags):
    gate = measure("infer", *flags, "--sentences=20", blocks=1)
    assert gate.blocks[0]["count"] == 20
    gate = measure("tokenize", *flags, blocks=1)
    assert gate.blocks[0]["count"] == 2603 and gate.blocks[0]["tokens"] > 5 * 2603


def test_the_ceiling_is_that_of_an_encoder_layers_products(flags):
    gate = measure("ceiling", *flags, blocks=1)
    # 6 x 40 tokens, D 32, F 64; forward 4 D x D and 2 D x F, three times that with the backward
    # pass; 2 FLOP a multiplication and addition; 2 steps.
    assert gate.blocks[0]["count"] == 2 * 240 * (4 * 32 * 32 + 2 * 32 * 64) * 3 * 2


def test_rows_for_peers_are_all_of_the_data_the_training_rows_in_another_order(flags, tmp_path):
    path = tmp_path / "rows.tsv"
    ours.main(["rows", *flags, f"--out={path}"])
    texts, labels = worker.read_rows(path)
    assert len(texts) == len(labels) == 2603 and set(labels) == {0, 1}
    assert len(worker.read_rows(f"{path}.validation")[0]) == 240
    args = ours.make_parser().parse_args(["rows", *flags])
    source = ours.data.get_source(ours.params_of(args)[0].train_input)
    in_order = [(ours.one_line(text),) for (text,) in source.read_texts("train")]
    assert sorted(texts) == sorted(in_order) and texts != in_order


# ---- The other side of the protocol --------------------------------------------------------------


def test_a_loop_that_calls_back_takes_its_blocks_after_the_warm_up(monkeypatch):
    answers = io.StringIO()
    gate = Gate.__new__(Gate)  # without taking over the standard output of the tests
    gate.facts, gate.is_ready, gate.answers = {"a": 1}, False, answers
    gate.requests = io.StringIO("block\nblock\n")
    steps = StepGate(gate, warmup=2, per_block=3, batch_size=5)
    done = 0
    with gate.serving():
        while True:
            done += 1
            steps.after_step()
    lines = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert done == 2 + 2 * 3
    assert lines[0] == {"ready": True} and [line["count"] for line in lines[1:3]] == [15, 15]
    assert lines[3]["a"] == 1 and lines[3]["peak_mib"] > 10
    assert all(line["others"] >= 0 for line in lines[1:3])  # of a block of no length: any number
