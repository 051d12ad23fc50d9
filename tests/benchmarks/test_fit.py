# SPDX-License-Identifier: Apache-2.0
"""The table of fit.py, whose trainings take minutes."""

from benchmarks.fit import table


def test_the_table_has_the_median_of_the_ratios_to_run_py():
    rounds = {
        "run.py": [{"total": 10.0, "training": 5.0}, {"total": 20.0, "training": 5.0}],
        "fit": [{"total": 11.0, "training": 5.0}, {"total": 26.0, "training": 6.0}],
    }
    assert [line.split() for line in table(rounds)] == [
        ["total", "run.py", "15.0", "1.000", "10.0", "20.0"],
        ["total", "fit", "18.5", "1.200", "11.0", "26.0"],
        ["training", "run.py", "5.0", "1.000", "5.0", "5.0"],
        ["training", "fit", "5.5", "1.100", "5.0", "6.0"],
    ]
