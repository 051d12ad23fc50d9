# SPDX-License-Identifier: Apache-2.0
"""The seconds of training beside which the losses of `pretraining_quality.py` stand."""

import pytest

from benchmarks.pretraining_quality import curve_of, draw


def line(second, split, step, **values):
    return {"time": f"2026-01-01T00:00:{second:02}+00:00", "split": split, "step": step, **values}


def test_evaluations_and_the_compilation_of_the_first_step_are_no_training():
    rate = {"train/examples_per_second": 4.0}
    lines = [
        line(20, "train", 5, **rate),  # 5 steps of 8 rows, 4 a second: 10 s
        line(25, "train", 10, **rate),
        line(40, "eval", 10, loss=9.0),  # 15 s of evaluation
        line(46, "train", 15, **rate),
        line(53, "train", 20, **rate),
        line(58, "eval", 20, loss=8.0),
    ]
    assert curve_of(lines, batch_size=8) == [
        {"seconds": pytest.approx(15.0), "step": 10, "loss": 9.0},
        {"seconds": pytest.approx(28.0), "step": 20, "loss": 8.0},
    ]


def test_both_curves_are_in_one_picture(tmp_path):
    curve = [{"seconds": 60.0, "step": 10, "loss": 7.0}]
    draw({"ours": {"curve": curve}, "hf": {"curve": curve}}, tmp_path / "quality.png")
    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")
