# SPDX-License-Identifier: Apache-2.0
"""Our own checkpoints: what is written comes back, damage is found, a failure costs nothing."""

import contextlib
import errno
import json
import os
import resource
import shutil
import stat

import numpy as np
import pytest

from common.checkpoints import store
from common.checkpoints.load import open_checkpoint
from common.errors import RunError, UserError

FILES = (store.WEIGHTS, store.STATE, store.CONFIG, store.VOCAB, store.MANIFEST)
WEIGHTS = {
    "pooler/kernel": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    "pooler/bias": np.array([-0.0, 1e-45, 3e38], np.float32),  # signed zero, smallest, near largest
}
STATE = {
    "global_step": np.array(2**40 + 1, np.int64),  # more than 32 bits
    "loss_scale/factor": np.array(0.5, np.float32),
    "loss_scale/good_steps": np.array(-3, np.int32),
    "adamw/m/pooler/bias": np.zeros(3, np.float32),
}
CONFIG = {"hidden_size": 3, "label_names": ("neg", "posé"), "step": 20}
VOCAB = ["[PAD]", "é", "\u2028", "##s"]  # U+2028 ends a line for str.splitlines, not here


def save(model_dir, step, keep_max=0, weights=WEIGHTS, config=CONFIG):
    return store.save_checkpoint(model_dir, step, weights, STATE, config, VOCAB, keep_max)


def names_in(model_dir):
    return sorted(path.name for path in model_dir.iterdir())


def contents_of(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


# ---- Round trip ----------------------------------------------------------------------------------


def test_weights_and_state_come_back_with_dtype_shape_and_every_bit(tmp_path):
    path = save(tmp_path, 20)
    assert path == tmp_path / "checkpoint-20"
    for written, tensors in (
        (WEIGHTS, store.read_weights(path)),
        (STATE, store.read_state(path)),
    ):
        assert set(tensors) == set(written)
        for name, array in written.items():
            read = tensors[name].read()
            assert tensors[name].shape == read.shape == array.shape
            assert read.dtype == array.dtype
            assert read.tobytes() == array.tobytes(), name


def test_an_array_that_does_not_lie_row_by_row_comes_back_as_it_was(tmp_path):
    # safetensors writes memory as it lies: without care a transposed kernel comes back scrambled.
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    weights = {"turned": kernel.T, "columns": np.asfortranarray(kernel), "part": kernel[:, ::2]}
    tensors = store.read_weights(save(tmp_path, 1, weights=weights))
    for name, array in weights.items():
        np.testing.assert_array_equal(tensors[name].read(), array)


def test_config_and_vocabulary_come_back(tmp_path):
    path = save(tmp_path, 20)
    config = store.read_config(path)
    assert config["hidden_size"] == 3 and config["step"] == 20 and config["family"] == "ours"
    assert config["label_names"] == ["neg", "posé"]
    with open(config["vocab_file"], encoding="utf-8", newline="\n") as file:
        assert [line.removesuffix("\n") for line in file] == VOCAB


def test_a_checkpoint_and_a_model_dir_are_recognised_as_ours(tmp_path):
    save(tmp_path, 5, config={"step": 5})
    newest = save(tmp_path, 20)
    assert open_checkpoint(newest).format == "ours"
    checkpoint = open_checkpoint(tmp_path)  # the newest in it
    assert checkpoint.format == "ours" and checkpoint.config["step"] == 20
    assert not store.is_checkpoint(tmp_path / "absent")
    assert not store.is_checkpoint(tmp_path / "checkpoint-20" / store.VOCAB)


def test_whoever_may_read_the_config_may_read_the_weights(tmp_path):
    path = save(tmp_path, 1)
    modes = {stat.S_IMODE((path / name).stat().st_mode) for name in FILES}
    assert len(modes) == 1


# ---- Damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(tmp_path, name):
    path = save(tmp_path, 1)
    assert store.fault_in(path) is None
    (path / name).unlink()
    assert name in store.fault_in(path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_truncated_or_lengthened_file_is_found(tmp_path, name, share):
    path = save(tmp_path, 1)
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: int(share * (len(content) - 1))])
    assert name in store.fault_in(path)
    (path / name).write_bytes(content + b"}")
    assert name in store.fault_in(path)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_any_byte_is_found(tmp_path, name):
    path = save(tmp_path, 1)
    content = bytearray((path / name).read_bytes())
    # Every byte of the manifest, which nothing but its own form protects; some of the others.
    places = range(0, len(content), 1 if name == store.MANIFEST else 13)
    for place in places:
        bit = 1 << (place // 3 % 8)
        content[place] ^= bit
        (path / name).write_bytes(content)
        assert store.fault_in(path) is not None, f"byte {place}, bit {bit}"
        content[place] ^= bit
    (path / name).write_bytes(content)
    assert store.fault_in(path) is None


@pytest.mark.parametrize("outside", ["../x", "/etc/hostname", "a/b", "..", ""])
def test_a_manifest_cannot_name_what_lies_elsewhere(tmp_path, outside):
    path = save(tmp_path, 1)
    (tmp_path / "x").write_text("x")
    digest = store._sha256(tmp_path / "x")
    manifest = json.loads((path / store.MANIFEST).read_text())
    manifest["files"] = {outside: {"size": 1, "sha256": digest}} | manifest["files"]
    (path / store.MANIFEST).write_text(json.dumps(manifest))
    # ".." and "" have no folder before the name; what they lead to is no file.
    expected = f"{outside} is missing" if outside in ("..", "") else f"names {outside!r}"
    assert expected in store.fault_in(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "1", "null", '{"files": {}}', '{"files": 3}', "{}", "[" * 100_000, "\ud800"]
)
def test_a_manifest_that_says_something_else_is_damaged(tmp_path, text):
    path = save(tmp_path, 1)
    (path / store.MANIFEST).write_text(text, "utf-8", errors="surrogatepass")
    assert store.fault_in(path) == "manifest.json is damaged"


def test_a_later_version_is_refused_by_its_name(tmp_path):
    path = save(tmp_path, 1)
    manifest = json.loads((path / store.MANIFEST).read_text()) | {"version": 2}
    (path / store.MANIFEST).write_text(json.dumps(manifest))
    assert "version 1" in store.fault_in(path)


def test_a_damaged_checkpoint_is_not_read(tmp_path):
    path = save(tmp_path, 1)
    (path / store.VOCAB).write_text("[PAD]\n")
    with pytest.raises(UserError, match=r"checkpoint-1 is damaged: vocab\.txt has 6 bytes"):
        store.read_config(path)


def test_newest_checkpoint_walks_back_and_says_why(tmp_path):
    whole = save(tmp_path, 9)
    truncated, flipped = save(tmp_path, 10), save(tmp_path, 100)  # by number, not by letters
    (truncated / store.STATE).write_bytes(b"")
    content = bytearray((flipped / store.WEIGHTS).read_bytes())
    content[-1] ^= 1
    (flipped / store.WEIGHTS).write_bytes(content)
    skipped = []
    assert store.newest_checkpoint(tmp_path, on_skip=skipped.append) == whole
    assert [text.partition(": ")[0] for text in skipped] == [
        f"skipped {flipped}",
        f"skipped {truncated}",
    ]
    assert "weights.safetensors has other content" in skipped[0]
    assert "training_state.safetensors has 0 bytes, not " in skipped[1]
    shutil.rmtree(whole)
    assert store.newest_checkpoint(tmp_path, on_skip=skipped.append) is None


def test_an_absent_or_empty_folder_holds_no_checkpoint(tmp_path):
    assert store.newest_checkpoint(tmp_path) is None
    assert store.list_checkpoints(tmp_path / "absent") == []


def test_what_only_looks_like_a_checkpoint_is_not_listed(tmp_path):
    (tmp_path / "checkpoint-3").write_text("a file")
    for name in ("checkpoint-", "checkpoint-x", "checkpoint-4.bak", "xcheckpoint-4"):
        (tmp_path / name).mkdir()
    assert store.list_checkpoints(tmp_path) == []


# ---- Which are kept ------------------------------------------------------------------------------


def test_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 20):
        save(tmp_path, step, keep_max=3)
    assert [step for step, _ in store.list_checkpoints(tmp_path)] == [2, 10, 20]
    save(tmp_path, 30, keep_max=1)
    assert names_in(tmp_path) == ["checkpoint-30"]


def test_zero_keeps_all(tmp_path):
    for step in range(7):
        save(tmp_path, step, keep_max=0)
    assert len(store.list_checkpoints(tmp_path)) == 7


def test_a_later_damaged_one_does_not_cost_the_one_just_written(tmp_path):
    # Resumed at 10 because 30 is damaged: with 30 counted among the newest, 20 would be deleted.
    save(tmp_path, 10)
    (save(tmp_path, 30) / store.WEIGHTS).write_bytes(b"")
    save(tmp_path, 20, keep_max=1)
    assert store.newest_checkpoint(tmp_path, on_skip=str) == tmp_path / "checkpoint-20"


# ---- Failures ------------------------------------------------------------------------------------


def no_space(*arguments, **keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("broken", ["save_file", "_sha256", "_flush"])
@pytest.mark.parametrize("step", [10, 20])  # 10 is there already
def test_a_failure_while_writing_leaves_the_earlier_ones_and_nothing_else(
    tmp_path, monkeypatch, broken, step
):
    before = contents_of(save(tmp_path, 10))
    monkeypatch.setattr(store, broken, no_space)
    with pytest.raises(RunError, match="No space left on device"):
        save(tmp_path, step, config={"step": -1})
    monkeypatch.undo()
    assert names_in(tmp_path) == ["checkpoint-10"]
    assert contents_of(tmp_path / "checkpoint-10") == before
    assert store.fault_in(tmp_path / "checkpoint-10") is None


def test_a_full_disk_is_reported_by_what_really_writes(tmp_path):
    # A limit on the size of files stands for the full disk: the library raises an error of its own.
    save(tmp_path, 10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(RunError, match=r"checkpoint-20 could not be written: .*too large"):
            save(tmp_path, 20, weights={"pooler/kernel": np.zeros((100, 100), np.float32)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names_in(tmp_path) == ["checkpoint-10"]


def test_a_model_dir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "model_dir").write_text("")
    with pytest.raises(RunError, match="could not be written"):
        save(tmp_path / "model_dir", 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["weights", "state"])
def test_numbers_that_are_not_finite_are_not_saved(tmp_path, value, where):
    arrays = {"weights": dict(WEIGHTS), "state": dict(STATE)}
    arrays[where]["pooler/gain"] = np.array([1, value], np.float32)
    with pytest.raises(RunError, match="pooler/gain is not finite at step 7"):
        store.save_checkpoint(tmp_path, 7, **arrays, config=CONFIG, vocab=VOCAB)
    assert names_in(tmp_path) == []


def test_what_a_killed_run_left_disturbs_nothing_and_is_cleaned_up(tmp_path):
    # The process number of this very process too: in a container every run may be process 1.
    for name in (f".checkpoint-30.{os.getpid()}.tmp", ".checkpoint-20.1.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / store.WEIGHTS).write_bytes(b"half")
    whole = save(tmp_path, 10)
    assert names_in(tmp_path) == ["checkpoint-10"]
    (tmp_path / ".checkpoint-20.1.tmp").mkdir()
    assert store.newest_checkpoint(tmp_path) == whole
    assert [step for step, _ in store.list_checkpoints(tmp_path)] == [10]
    save(tmp_path, 30)
    assert names_in(tmp_path) == ["checkpoint-10", "checkpoint-30"]


def test_the_same_step_again_replaces_it(tmp_path):
    save(tmp_path, 10, config={"step": 1})
    path = save(tmp_path, 10, config={"step": 2})
    assert store.read_config(path)["step"] == 2
    assert names_in(tmp_path) == ["checkpoint-10"]


def test_a_kill_at_any_moment_of_replacing_leaves_one_that_verifies(tmp_path, monkeypatch):
    """Kills before each rename and each deletion; what is there then is what a kill leaves."""

    class Killed(BaseException):
        pass

    remaining = [0]  # calls until the kill; 0: none

    def killed_in_time(function):
        def run(*arguments, **keywords):
            remaining[0] -= 1
            if remaining[0] == 0:
                raise Killed
            return function(*arguments, **keywords)

        return run

    for owner, name in ((store.os, "replace"), (store.shutil, "rmtree"), (store, "_flush")):
        monkeypatch.setattr(owner, name, killed_in_time(getattr(owner, name)))
    for num_kills in range(1, 100):
        remaining[0] = 0
        save(tmp_path, 10, config={"step": 1})
        remaining[0] = num_kills
        with contextlib.suppress(Killed):
            save(tmp_path, 10, config={"step": 2})
        newest = store.newest_checkpoint(tmp_path, on_skip=pytest.fail)
        assert store.read_config(newest)["step"] in (1, 2)
        assert len(store.list_checkpoints(tmp_path)) == 1
        if remaining[0] > 0:
            break  # it was not killed any more
    assert num_kills > 10  # seven flushes, three renames, a deletion were each hit
    assert store.read_config(newest)["step"] == 2 and names_in(tmp_path) == ["checkpoint-10"]
