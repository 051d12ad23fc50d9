# SPDX-License-Identifier: Apache-2.0
"""What the comparison of two trees sees and what it leaves out; it runs no tree."""

import json

import numpy as np
from safetensors.numpy import save_file

from benchmarks import compare_trees
from benchmarks.compare_trees import differences, metrics_digests, results_of, tensor_digests

LINE = {
    "time": "2026-01-01T00:00:00+00:00",
    "split": "train",
    "step": 10,
    "train/cost_cls": 0.5,
    "train/examples_per_second": 100.0,
    "train/input_wait": 0.01,
}


def test_every_tensor_has_a_digest_that_changes_with_its_bits_its_dtype_and_its_shape(tmp_path):
    weight = np.arange(6, dtype=np.float32)
    variants = {
        "same": weight,
        "one bit": np.concatenate([np.nextafter(weight[:1], 1), weight[1:]]),
        "dtype": weight.view(np.int32),
        "shape": weight.reshape(2, 3),
    }
    digests = {}
    for name, variant in variants.items():
        save_file({"w": variant, "b": weight}, tmp_path / "x", metadata={"of": name})
        digests[name] = tensor_digests(tmp_path / "x")
    assert all(each.keys() == {"w", "b"} for each in digests.values())
    assert len({each["w"] for each in digests.values()}) == len(variants)
    assert {each["b"] for each in digests.values()} == {digests["same"]["w"]}


def test_metrics_are_compared_without_what_the_clock_decides():
    slower = LINE | {"time": "later", "train/examples_per_second": 9.0, "train/input_wait": 0.9}
    first, second = (metrics_digests(json.dumps(line) + "\n") for line in (LINE, slower))
    assert first == second == {"train 10 train/cost_cls": "0.5"}
    other = metrics_digests(json.dumps(LINE | {"train/cost_cls": 0.5000000000000001}))
    assert differences(first, other) == ["train 10 train/cost_cls"]


def test_a_line_that_is_there_twice_differs_from_one_that_is_there_once():
    once, twice = (metrics_digests(f"{json.dumps(LINE)}\n" * n) for n in (1, 2))
    assert differences(once, twice) == ["train 10 train/cost_cls (2)"]


def test_the_last_checkpoint_and_all_predictions_are_compared(tmp_path):
    for step in (5, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file({"w": np.full(2, step)}, folder / "weights.safetensors")
        save_file({"m": np.full(2, -step)}, folder / "training_state.safetensors")
    (tmp_path / "metrics.jsonl").write_text(json.dumps(LINE))
    (tmp_path / "predict").mkdir()
    np.savez(tmp_path / "predict" / "predictions_tf_0.npz", np.ones((2, 3)))
    before = results_of(tmp_path)
    assert {part: len(values) for part, values in before.items()} == {
        "weights": 1, "state": 1, "metrics": 1, "predictions": 1,
    }  # fmt: skip
    save_file({"w": np.zeros(2)}, tmp_path / "checkpoint-5" / "weights.safetensors")
    assert results_of(tmp_path) == before
    np.savez(tmp_path / "predict" / "predictions_tf_0.npz", np.zeros((2, 3)))
    save_file({"w": np.zeros(2)}, tmp_path / "checkpoint-10" / "weights.safetensors")
    after = results_of(tmp_path)
    unequal = [part for part in before if differences(before[part], after[part])]
    assert unequal == ["weights", "predictions"]


def test_measured_labels_are_among_those_of_the_benchmark():
    plan = compare_trees.bench.plan(("train", "infer", "start"), ("float32", "bfloat16"), False)
    labels = {spec.label for spec in plan}
    assert labels >= {*compare_trees.MEASURED, *compare_trees.STARTS}
