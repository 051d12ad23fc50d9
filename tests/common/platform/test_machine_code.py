# SPDX-License-Identifier: Apache-2.0
"""Only intact machine code for this machine and these libraries is loaded."""

import os

import pytest

from common.platform import machine_code

FACTS = {"tensorflow": "2.21.0", "processor": "A", "instructions": "avx2"}


@pytest.fixture(autouse=True)
def this_machine(monkeypatch):
    """A machine with FACTS, which a test can change; flags of TensorFlow are reset afterwards."""
    facts = dict(FACTS)
    monkeypatch.setattr(machine_code, "machine_facts", lambda: dict(facts))
    monkeypatch.setenv(machine_code.FLAGS, "--some_flag")
    return facts


def compile_on(compiled):
    """Writes one file of machine code, as `--compile_only` does."""
    machine_code.write_machine_code(compiled)
    (machine_code.machine_dir(compiled) / "xla" / "loop.pb").write_bytes(b"code")
    assert machine_code.keep_machine_code(compiled) == len(b"code")


def test_machine_code_is_written_once_and_then_only_read(tmp_path):
    compile_on(tmp_path)
    flags = os.environ[machine_code.FLAGS]
    assert flags.startswith("--some_flag ") and flags.endswith("read_only=false")
    assert machine_code.use_machine_code(tmp_path)
    assert os.environ[machine_code.FLAGS].endswith("read_only=true")


def test_no_folder_is_created_where_nothing_was_compiled(tmp_path):
    assert not machine_code.use_machine_code(tmp_path)
    assert list(tmp_path.iterdir()) == [] and os.environ[machine_code.FLAGS] == "--some_flag"


@pytest.mark.parametrize("fact", FACTS)
def test_code_for_another_library_or_processor_is_not_loaded(tmp_path, this_machine, capsys, fact):
    compile_on(tmp_path)
    value = this_machine[fact]
    this_machine[fact] = "other"
    assert not machine_code.use_machine_code(tmp_path)
    assert f"are not loaded: {fact} was {value}, is other" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["changed", "added", "no list"])
def test_damaged_code_is_not_loaded_and_compiling_again_deletes_it(tmp_path, capsys, damage):
    compile_on(tmp_path)
    folder = machine_code.machine_dir(tmp_path)
    file = folder / "xla" / ("new.pb" if damage == "added" else "loop.pb")
    if damage == "no list":
        (folder / machine_code.MACHINE).unlink()
    else:
        file.write_bytes(b"c0de")
    assert not machine_code.use_machine_code(tmp_path)
    assert f"{folder} is not used" in capsys.readouterr().err
    machine_code.write_machine_code(tmp_path)
    assert not file.exists()
    compile_on(tmp_path)
    assert machine_code.use_machine_code(tmp_path)


def test_the_differences_of_two_machines_are_listed_briefly():
    then, now = {name: "0" for name in "abcde"}, {name: "1" for name in "abcd"} | {"e": "0"}
    text = machine_code.differences(then, now)
    assert text == "a was 0, is 1, b was 0, is 1, c was 0, is 1, and 1 more"


@pytest.mark.parametrize(
    "flags, expected",
    [
        (None, "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion"),
        ("--a=b", "--a=b --xla_backend_extra_options=xla_cpu_use_multi_output_fusion"),
        ("--xla_backend_extra_options=c --a=b", "--xla_backend_extra_options=c --a=b"),
    ],
)
def test_multi_output_fusion_leaves_options_of_the_user(flags, expected, monkeypatch):
    monkeypatch.delenv(machine_code.XLA_FLAGS, raising=False)
    if flags is not None:
        monkeypatch.setenv(machine_code.XLA_FLAGS, flags)
    for _ in range(2):
        machine_code.use_multi_output_fusion()
        assert os.environ[machine_code.XLA_FLAGS] == expected
