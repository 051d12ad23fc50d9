# SPDX-License-Identifier: Apache-2.0
"""The table at the end of `make pretrain-demo`."""

from benchmarks.pretraining_gain import table


def test_the_table_has_the_mean_of_each_way_and_their_difference():
    lines = table(
        {
            "fresh": [{"accuracy": 0.75, "loss": 0.5}, {"accuracy": 0.80, "loss": 0.6}],
            "pre-trained": [{"accuracy": 0.80, "loss": 0.4}, {"accuracy": 0.90, "loss": 0.3}],
        }
    )
    assert [line.split() for line in lines] == [
        ["accuracy", "fresh", "0.7750", "0.7500", "0.8000"],
        ["accuracy", "pre-trained", "0.8500", "0.8000", "0.9000"],
        ["gained", "+0.0750"],
        ["loss", "fresh", "0.5500", "0.5000", "0.6000"],
        ["loss", "pre-trained", "0.3500", "0.4000", "0.3000"],
        ["gained", "-0.2000"],
    ]
