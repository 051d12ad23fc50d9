# SPDX-License-Identifier: Apache-2.0
"""What `mixed_precision: auto` stands for on a machine."""

import pytest

from common.platform import machine


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx512f avx512_vnni", "float32"),  # Cascade Lake
        ("fpu avx512f avx512_bf16", "mixed_bfloat16"),  # Cooper Lake, Zen 4
        ("fpu amx_tile amx_bf16", "mixed_bfloat16"),  # Sapphire Rapids
    ],
)
def test_bfloat16_is_chosen_where_the_processor_multiplies_it(monkeypatch, flags, expected):
    monkeypatch.setattr(machine, "_cpuinfo", lambda: {"flags": flags})
    assert machine.best_precision([]) == expected


def test_bfloat16_is_chosen_where_every_gpu_multiplies_it(monkeypatch):
    monkeypatch.setattr(machine, "_cpuinfo", lambda: {"flags": "avx512_bf16"})
    assert machine.best_precision([(9, 0), (8, 0)]) == "mixed_bfloat16"
    assert machine.best_precision([(9, 0), (7, 5)]) == "float32"
