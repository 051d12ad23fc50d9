# SPDX-License-Identifier: Apache-2.0
"""What `mixed_precision: auto` stands for on a machine, and whether it has a network."""

import os
import socket
import urllib.request

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


@pytest.mark.parametrize(
    "name",
    [
        *("TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS", "XLA_FLAGS"),
        *("TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA"),
    ],
)
def test_what_changes_the_last_bits_is_a_fact_of_the_machine(monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    before = machine.machine_facts()
    assert before["cores"] == str(len(os.sched_getaffinity(0)))
    monkeypatch.setenv(name, "7")
    assert machine.differences(before, machine.machine_facts()) == f"{name} was not set, is 7"
    cores = {0} if os.sched_getaffinity(0) != {0} else {1}
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: cores)
    assert machine.machine_facts()["cores"] == "1"


def test_a_network_is_there_where_one_host_answers(monkeypatch):
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and does not listen
        here, nowhere = (
            f"http://127.0.0.1:{each.getsockname()[1]}/file" for each in (server, silent)
        )
        machine.check_reachable([nowhere, here])
        machine.check_reachable([])
        with pytest.raises(OSError, match=r"127\.0\.0\.1: Connection refused"):
            machine.check_reachable([nowhere])
        monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "proxy"})
        machine.check_reachable([nowhere])


def test_bfloat16_is_not_chosen_where_the_user_keeps_onednn_from_its_instructions(monkeypatch):
    monkeypatch.setattr(machine, "_cpuinfo", lambda: {"flags": "avx512_bf16"})
    for limit, expected in (("AVX512_CORE", "mixed_bfloat16"), ("avx2", "float32")):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        assert machine.best_precision([]) == expected
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert machine.best_precision([]) == "mixed_bfloat16"
