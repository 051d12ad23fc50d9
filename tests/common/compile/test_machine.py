# SPDX-License-Identifier: Apache-2.0
"""Which machine code is loaded: what was written, for this machine and these libraries, only."""

import pytest

from common.compile import machine

FACTS = {"tensorflow": "2.21.0", "processor": "A", "instructions": "avx2"}


@pytest.fixture(autouse=True)
def this_machine(monkeypatch):
    """A machine of which the tests say what it is; and no flags of TensorFlow remain."""
    facts = dict(FACTS)
    monkeypatch.setattr(machine, "machine_facts", lambda: dict(facts))
    monkeypatch.setenv(machine.FLAGS, "--some_flag")
    return facts


def compile_on(compiled):
    """What `--compile_only` leaves: one file of machine code."""
    machine.write_machine_code(compiled)
    (machine.machine_dir(compiled) / "xla" / "loop.pb").write_bytes(b"code")
    assert machine.keep_machine_code(compiled) == len(b"code")


def test_machine_code_is_written_once_and_then_only_read(tmp_path):
    compile_on(tmp_path)
    flags = machine.os.environ[machine.FLAGS]
    assert flags.startswith("--some_flag ") and flags.endswith("read_only=false")
    assert machine.use_machine_code(tmp_path)
    assert machine.os.environ[machine.FLAGS].endswith("read_only=true")


def test_nothing_is_made_where_nothing_was_compiled(tmp_path):
    assert not machine.use_machine_code(tmp_path)
    assert list(tmp_path.iterdir()) == [] and machine.os.environ[machine.FLAGS] == "--some_flag"


@pytest.mark.parametrize("fact", FACTS)
def test_code_for_another_library_or_processor_is_not_loaded(tmp_path, this_machine, capsys, fact):
    compile_on(tmp_path)
    then = this_machine[fact]
    this_machine[fact] = "other"
    assert not machine.use_machine_code(tmp_path)
    assert f"are not loaded: {fact} was {then}, is other" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["changed", "added", "no list"])
def test_damaged_code_is_not_loaded_and_is_deleted_when_compiled_anew(tmp_path, capsys, damage):
    compile_on(tmp_path)
    folder = machine.machine_dir(tmp_path)
    file = folder / "xla" / ("new.pb" if damage == "added" else "loop.pb")
    if damage == "no list":
        (folder / machine.MACHINE).unlink()
    else:
        file.write_bytes(b"c0de")
    assert not machine.use_machine_code(tmp_path)
    assert f"{folder} is not used" in capsys.readouterr().err
    machine.write_machine_code(tmp_path)
    assert not file.exists()
    compile_on(tmp_path)
    assert machine.use_machine_code(tmp_path)


def test_the_differences_of_two_machines_are_told_in_short():
    then, now = {name: "0" for name in "abcde"}, {name: "1" for name in "abcd"} | {"e": "0"}
    text = machine.differences(then, now)
    assert text == "a was 0, is 1, b was 0, is 1, c was 0, is 1, and 1 more"


# ---- Precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx512f avx512_vnni", "float32"),  # Cascade Lake
        ("fpu avx512f avx512_bf16", "mixed_bfloat16"),  # Cooper Lake, Zen 4
        ("fpu amx_tile amx_bf16", "mixed_bfloat16"),  # Sapphire Rapids
    ],
)
def test_bfloat16_is_taken_where_the_processor_multiplies_it(monkeypatch, flags, expected):
    monkeypatch.setattr(machine, "_cpuinfo", lambda: {"flags": flags})
    assert machine.best_precision([]) == expected


def test_bfloat16_is_taken_where_every_gpu_multiplies_it(monkeypatch):
    monkeypatch.setattr(machine, "_cpuinfo", lambda: {"flags": "avx512_bf16"})
    assert machine.best_precision([(9, 0), (8, 0)]) == "mixed_bfloat16"
    assert machine.best_precision([(9, 0), (7, 5)]) == "float32"


@pytest.mark.parametrize(
    "given, expected",
    [
        (None, "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion"),
        ("--a=b", "--a=b --xla_backend_extra_options=xla_cpu_use_multi_output_fusion"),
        ("--xla_backend_extra_options=c --a=b", "--xla_backend_extra_options=c --a=b"),
    ],
)
def test_multi_output_fusion_leaves_what_is_set(given, expected, monkeypatch):
    monkeypatch.delenv(machine.XLA_FLAGS, raising=False)
    if given is not None:
        monkeypatch.setenv(machine.XLA_FLAGS, given)
    for _ in range(2):
        machine.use_multi_output_fusion()
        assert machine.os.environ[machine.XLA_FLAGS] == expected
