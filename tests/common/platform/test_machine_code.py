# SPDX-License-Identifier: Apache-2.0
"""Only intact machine code for this machine and these libraries is loaded; and the cache of
programs: intact, for this machine, limited in size, and never the end of a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.params import RunParams
from common.platform import machine_code
from common.platform.machine import differences

FACTS = {"tensorflow": "2.21.0", "processor": "A", "instructions": "avx2"}
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def flags(monkeypatch):
    """Releases the locks after a test, and resets the flags of TensorFlow."""
    monkeypatch.setenv(machine_code.FLAGS, "")
    monkeypatch.setattr(machine_code, "_locks", [])
    yield
    release_locks()


def release_locks():
    """Closes them, as the end of a process does."""
    while machine_code._locks:
        os.close(machine_code._locks.pop())


@pytest.fixture
def this_machine(monkeypatch):
    """A machine with FACTS, which a test can change."""
    facts = dict(FACTS)
    monkeypatch.setattr(machine_code, "machine_facts", lambda: dict(facts))
    monkeypatch.setenv(machine_code.FLAGS, "--some_flag")
    return facts


def compile_on(compiled):
    """Writes one file of machine code, as `--compile_only` does."""
    machine_code.write_machine_code(compiled)
    (machine_code.machine_dir(compiled) / "xla" / "loop.pb").write_bytes(b"code")
    assert machine_code.keep_machine_code(compiled) == len(b"code")


def test_machine_code_is_written_once_and_then_only_read(tmp_path, this_machine):
    compile_on(tmp_path)
    flags = os.environ[machine_code.FLAGS]
    assert flags.startswith("--some_flag ") and flags.endswith("read_only=false")
    assert machine_code.use_machine_code(tmp_path)
    assert os.environ[machine_code.FLAGS].endswith("read_only=true")


def test_code_in_a_folder_that_others_can_write_to_is_not_loaded(tmp_path, this_machine, capsys):
    compile_on(tmp_path)
    (machine_code.machine_dir(tmp_path) / "xla").chmod(0o777)
    assert not machine_code.use_machine_code(tmp_path)
    assert "xla: other users can write to it" in capsys.readouterr().err


def test_no_folder_is_created_where_nothing_was_compiled(tmp_path, this_machine):
    assert not machine_code.use_machine_code(tmp_path)
    assert list(tmp_path.iterdir()) == [] and os.environ[machine_code.FLAGS] == "--some_flag"


@pytest.mark.parametrize("fact", FACTS)
def test_code_for_another_library_or_processor_is_not_loaded(tmp_path, this_machine, capsys, fact):
    compile_on(tmp_path)
    value = this_machine[fact]
    this_machine[fact] = "other"
    assert not machine_code.use_machine_code(tmp_path)
    assert f"are not loaded: {fact} was {value}, is other" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["changed", "added", "no list", "of others", "for others"])
def test_damaged_code_is_not_loaded_and_compiling_again_deletes_it(
    tmp_path, this_machine, capsys, monkeypatch, damage
):
    compile_on(tmp_path)
    folder = machine_code.machine_dir(tmp_path)
    file = folder / "xla" / ("new.pb" if damage == "added" else "loop.pb")
    if damage == "no list":
        (folder / machine_code.MACHINE).unlink()
    elif damage == "of others":  # whoever sent the folder has another key
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    elif damage == "for others":
        file.chmod(0o666)
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
    text = differences(then, now)
    assert text == "a was 0, is 1, b was 0, is 1, c was 0, is 1, and 1 more"


FUSION = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion"
NO_YNNPACK = "--xla_cpu_experimental_ynn_fusion_type="


@pytest.mark.parametrize(
    "flags, expected",
    [
        (None, f"{FUSION} {NO_YNNPACK}"),
        ("--a=b", f"--a=b {FUSION} {NO_YNNPACK}"),
        (f"--xla_backend_extra_options=c {NO_YNNPACK}dot", None),
    ],
)
def test_flags_of_xla_that_the_user_has_set_stay(flags, expected, monkeypatch):
    monkeypatch.delenv(machine_code.XLA_FLAGS, raising=False)
    if flags is not None:
        monkeypatch.setenv(machine_code.XLA_FLAGS, flags)
    for _ in range(2):
        machine_code.set_xla_flags()
        assert os.environ[machine_code.XLA_FLAGS] == (expected or flags)


def test_no_sum_goes_to_ynnpack(tmp_path):
    """TensorFlow 2.21 begins one by a list that threads share without a lock: a rare SIGSEGV."""
    program = """
from common.platform.machine_code import set_xla_flags
set_xla_flags()
import tensorflow as tf

@tf.function(jit_compile=True)
def f(x):
    x = tf.maximum(x * 2.0, 0.5)
    return tf.cast(x, tf.bfloat16), tf.reduce_sum(x, 0)

x = tf.ones((64, 1536))
f(x)
print(f.experimental_get_compiler_ir(x)("optimized_hlo"))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "reduce" in done.stdout
    assert "ynn" not in done.stdout


# ---- The cache -----------------------------------------------------------------------------------


def part_of(folder):
    """Opens a cache. Returns the part of this machine."""
    assert machine_code.open_cache(folder) == folder
    return machine_code.machine_dir(folder)


def write_code(folder, name, content=b"code", is_listed=True):
    path = machine_code.machine_dir(folder) / "xla" / f"{name}.pb"
    path.write_bytes(content)
    if is_listed:
        machine_code.keep_machine_code(folder)
    return path


def another_run(folder):
    """Returns a process that has the cache open until its stdin is closed."""
    code = (
        "import sys; from common.platform import machine_code; "
        f"print(machine_code.open_cache({str(folder)!r}), flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline().decode().strip() == str(folder)
    return process


def test_xla_reads_and_writes_the_part_of_this_machine(tmp_path):
    part = part_of(tmp_path)
    flags = os.environ[machine_code.FLAGS]
    assert f'--tf_xla_persistent_cache_directory="{part / "xla"}"' in flags
    assert "--tf_xla_persistent_cache_read_only=false" in flags


def test_the_default_is_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert machine_code.open_cache(None) == tmp_path / "bert_classifier" / "compiled"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert machine_code.open_cache(None) == tmp_path / "home/.cache/bert_classifier/compiled"


def test_the_next_run_finds_intact_code_and_no_damaged_one(tmp_path):
    part_of(tmp_path)
    whole, damaged = write_code(tmp_path, "whole"), write_code(tmp_path, "damaged")
    damaged.write_bytes(b"c0de")
    release_locks()
    part = part_of(tmp_path)
    assert whole.read_bytes() == b"code" and not damaged.exists()
    damaged = write_code(tmp_path, "damaged", b"compiled again")
    release_locks()
    part_of(tmp_path)
    assert damaged.exists() and set(machine_code.read_hashes(part)) == {"whole.pb", "damaged.pb"}


def test_files_of_a_killed_run_are_deleted_and_those_of_a_live_one_are_not(tmp_path):
    part_of(tmp_path)
    code = write_code(tmp_path, "code", is_listed=False)
    unfinished = code.with_suffix(".tmp")
    unfinished.write_bytes(b"co")
    release_locks()
    live = another_run(tmp_path)
    assert not code.exists() and not unfinished.exists()
    code.write_bytes(b"code")
    unfinished.write_bytes(b"co")
    part_of(tmp_path)
    assert code.exists() and unfinished.exists()
    release_locks()
    live.kill()
    live.communicate()
    part_of(tmp_path)
    assert not code.exists() and not unfinished.exists()


def test_with_a_damaged_list_the_code_is_deleted_and_compiled_again(tmp_path):
    part = part_of(tmp_path)
    code = write_code(tmp_path, "code")
    (part / machine_code.MACHINE).write_text("{")
    release_locks()
    part_of(tmp_path)
    assert not code.exists()
    write_code(tmp_path, "code")
    release_locks()
    part_of(tmp_path)
    assert code.exists()


def test_code_that_somebody_else_has_listed_is_compiled_again(tmp_path, monkeypatch, capsys):
    part_of(tmp_path)
    code = write_code(tmp_path, "code")
    release_locks()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another home"))
    part_of(tmp_path)
    assert not code.exists()
    assert "machine.json is damaged, or another user's: its programs" in capsys.readouterr().err


def test_the_folder_of_another_user_is_no_cache(tmp_path, monkeypatch, capsys):
    part_of(tmp_path)
    release_locks()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setenv(machine_code.FLAGS, "")
    assert machine_code.open_cache(tmp_path) is None and os.environ[machine_code.FLAGS] == ""
    assert f"{tmp_path} keeps no programs: it belongs to another" in capsys.readouterr().err


def test_over_the_limit_unused_programs_are_deleted_then_all_code(tmp_path, monkeypatch):
    part = part_of(tmp_path)
    monkeypatch.setattr(machine_code, "MAX_BYTES", 60_000)
    for age, name in enumerate(("config-new", "config-older", "config-oldest")):
        (part / name).mkdir()
        (part / name / "train.pb").write_bytes(bytes(20_000))
        os.utime(part / name, (1e9 - age, 1e9 - age))
    code = write_code(tmp_path, "code", bytes(10_000))
    release_locks()
    part_of(tmp_path)
    assert {folder.name for folder in part.glob("config-*")} == {"config-new", "config-older"}
    assert code.exists()
    write_code(tmp_path, "code", bytes(70_000))
    release_locks()
    part_of(tmp_path)
    assert list(part.glob("config-*")) == [] and not code.exists()
    assert (part / "xla").is_dir()


def test_nothing_is_deleted_while_another_run_is_alive(tmp_path, monkeypatch):
    part = part_of(tmp_path)
    release_locks()
    live = another_run(tmp_path)
    (part / "config-used").mkdir()
    monkeypatch.setattr(machine_code, "MAX_BYTES", 1)
    part_of(tmp_path)
    assert (part / "config-used").is_dir()
    live.communicate()


@pytest.mark.parametrize("fault", ["a file", "read only", "full", "over quota"])
def test_a_run_without_a_writable_cache_has_none(tmp_path, monkeypatch, fault):
    folder = tmp_path / "cache"
    if fault == "a file":
        folder.write_text("")
    elif fault == "read only":
        monkeypatch.setattr(machine_code.os, "open", no_space)
    elif fault == "full":
        monkeypatch.delattr(machine_code.os, "posix_fallocate", raising=False)
        usage = machine_code.shutil.disk_usage(tmp_path)._replace(free=2**20)
        monkeypatch.setattr(machine_code.shutil, "disk_usage", lambda folder: usage)
    else:
        monkeypatch.setattr(machine_code.os, "posix_fallocate", no_space, raising=False)
    assert machine_code.open_cache(folder) is None and os.environ[machine_code.FLAGS] == ""


def no_space(*_):
    raise OSError("no space left")


# ---- Which folder a run takes --------------------------------------------------------------------


def run_params(folder, **values):
    return RunParams.model_validate(
        {
            "mode": "train",
            "model_dir": folder / "model",
            "compile_cache_dir": folder / "c",
            **values,
        }
    )


def test_programs_compiled_ahead_come_before_the_cache(tmp_path):
    ahead, cache = tmp_path / "model" / "compiled", tmp_path / "c"
    assert machine_code.compiled_for(run_params(tmp_path)) == (cache, True)
    assert machine_code.compiled_for(run_params(tmp_path, compile_only=True)) == (ahead, False)
    machine_code.keep_machine_code(ahead)
    assert machine_code.compiled_for(run_params(tmp_path)) == (ahead, False)


@pytest.mark.parametrize("values", [{"compile_cache_dir": False}, {"mode": "export"}])
def test_no_cache_where_none_is_wanted(tmp_path, values):
    assert machine_code.compiled_for(run_params(tmp_path, **values)) == (None, False)
    assert list(tmp_path.iterdir()) == [] and os.environ[machine_code.FLAGS] == ""


def test_programs_for_gpus_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([Path("/dev/nvidia0")]))
    assert machine_code.compiled_for(run_params(tmp_path)) == (None, False)
    assert machine_code._may_use_gpu("/gpu:0") and not machine_code._may_use_gpu("/CPU:0")
