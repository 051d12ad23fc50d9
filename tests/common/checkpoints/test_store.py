# SPDX-License-Identifier: Apache-2.0
"""Our own checkpoints: what is written comes back, damage is found, a failure costs nothing."""

import contextlib
import errno
import hashlib
import json
import os
import resource
import shutil
import stat

import numpy as np
import pytest

from common.checkpoints import store
from common.checkpoints.formats import ours
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


def save(model_dir, step, keep_max=0, weights=WEIGHTS, config=CONFIG, keep=()):
    return ours.save_checkpoint(model_dir, step, weights, STATE, config, VOCAB, keep_max, keep)


def names_in(model_dir):
    return sorted(path.name for path in model_dir.iterdir())


def contents_of(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


# ---- Round trip ----------------------------------------------------------------------------------


def test_weights_and_state_come_back_with_dtype_shape_and_every_bit(tmp_path):
    path = save(tmp_path, 20)
    assert path == tmp_path / "checkpoint-20"
    for written, tensors in (
        (WEIGHTS, ours.read_weights(path)),
        (STATE, ours.read_state(path)),
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
    tensors = ours.read_weights(save(tmp_path, 1, weights=weights))
    for name, array in weights.items():
        np.testing.assert_array_equal(tensors[name].read(), array)


def test_config_and_vocabulary_come_back(tmp_path):
    path = save(tmp_path, 20)
    config = ours.read_config(path)
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
    assert not ours.is_checkpoint(tmp_path / "absent")
    assert not ours.is_checkpoint(tmp_path / "checkpoint-20" / store.VOCAB)


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
    digest = store.digest_of(tmp_path / "x", "blake2b")
    manifest = json.loads((path / store.MANIFEST).read_text())
    manifest["files"] = {outside: {"size": 1, "blake2b": digest}} | manifest["files"]
    (path / store.MANIFEST).write_text(json.dumps(manifest))
    # ".." and "" have no folder before the name; what they lead to is no file.
    expected = f"{outside} is missing" if outside in ("..", "") else f"names {outside!r}"
    assert expected in store.fault_in(path)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "1", "null", '{"files": {}}', '{"files": 3}', "{}", "[" * 100_000, "\ud800"),
        '{"format": "bert-classifier", "version": [], "files": {}}',
    ],
)
def test_a_manifest_that_says_something_else_is_damaged(tmp_path, text):
    path = save(tmp_path, 1)
    (path / store.MANIFEST).write_text(text, "utf-8", errors="surrogatepass")
    assert store.fault_in(path) == "manifest.json is damaged"


def test_a_later_version_is_refused_by_its_name(tmp_path):
    path = save(tmp_path, 1)
    manifest = json.loads((path / store.MANIFEST).read_text()) | {"version": 3}
    (path / store.MANIFEST).write_text(json.dumps(manifest))
    assert "version 1 to 2" in store.fault_in(path)


def test_thresholds_of_a_config_are_probabilities(tmp_path):
    path = save(tmp_path, 1)
    ours.update_config(path, thresholds=[0.25, 0.5])
    assert ours.read_config(path)["thresholds"] == [0.25, 0.5]
    ours.update_config(path, thresholds=[0.25, 1.5])
    with pytest.raises(UserError, match=r"thresholds is \[0.25, 1.5\], which no run writes"):
        ours.read_config(path)


def test_a_checkpoint_of_the_first_version_is_read(tmp_path):
    path = save(tmp_path, 1)
    manifest = json.loads((path / store.MANIFEST).read_text()) | {"version": 1}
    for name, facts in manifest["files"].items():
        digest = hashlib.sha256((path / name).read_bytes()).hexdigest()
        manifest["files"][name] = {"size": facts["size"], "sha256": digest}
    (path / store.MANIFEST).write_text(json.dumps(manifest))
    assert store.fault_in(path) is None
    ours.update_config(path, temperature=2.0)
    assert ours.read_config(path)["temperature"] == 2.0
    (path / store.VOCAB).write_bytes((path / store.VOCAB).read_bytes().swapcase())
    assert "vocab.txt has other content" in store.fault_in(path)


def test_a_damaged_checkpoint_is_not_read(tmp_path):
    path = save(tmp_path, 1)
    (path / store.VOCAB).write_text("[PAD]\n")
    with pytest.raises(UserError, match=r"checkpoint-1 is damaged: vocab\.txt has 6 bytes"):
        ours.read_config(path)


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


def test_the_best_is_kept_besides(tmp_path):
    for step in (1, 2, 10, 20):
        save(tmp_path, step, keep_max=1, keep={2, 99})
    assert [step for step, _ in store.list_checkpoints(tmp_path)] == [2, 20]


def test_a_later_damaged_one_does_not_cost_the_one_just_written(tmp_path):
    # Resumed at 10 because 30 is damaged: with 30 counted among the newest, 20 would be deleted.
    save(tmp_path, 10)
    (save(tmp_path, 30) / store.WEIGHTS).write_bytes(b"")
    save(tmp_path, 20, keep_max=1)
    assert store.newest_checkpoint(tmp_path, on_skip=str) == tmp_path / "checkpoint-20"


# ---- Failures ------------------------------------------------------------------------------------


def no_space(*arguments, **keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("module", "broken"), [(ours, "save_file"), (store, "digest_of"), (store, "flush")]
)
@pytest.mark.parametrize("step", [10, 20])  # 10 is there already
def test_a_failure_while_writing_leaves_the_earlier_ones_and_nothing_else(
    tmp_path, monkeypatch, module, broken, step
):
    before = contents_of(save(tmp_path, 10))
    monkeypatch.setattr(module, broken, no_space)
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


def test_a_model_dir_that_has_vanished_is_told_and_not_made_anew(tmp_path):
    with pytest.raises(RunError, match=r"No such file or directory\. .*model_dir is gone: put it"):
        save(tmp_path / "model_dir", 1)
    assert not (tmp_path / "model_dir").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["weights", "state"])
def test_numbers_that_are_not_finite_are_not_saved(tmp_path, value, where):
    arrays = {"weights": dict(WEIGHTS), "state": dict(STATE)}
    arrays[where]["pooler/gain"] = np.array([1, value], np.float32)
    with pytest.raises(RunError, match="pooler/gain is not finite at step 7"):
        ours.save_checkpoint(tmp_path, 7, **arrays, config=CONFIG, vocab=VOCAB)
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
    assert ours.read_config(path)["step"] == 2
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

    for owner, name in ((store.os, "replace"), (store.shutil, "rmtree"), (store, "flush")):
        monkeypatch.setattr(owner, name, killed_in_time(getattr(owner, name)))
    for num_kills in range(1, 100):
        remaining[0] = 0
        save(tmp_path, 10, config={"step": 1})
        remaining[0] = num_kills
        with contextlib.suppress(Killed):
            save(tmp_path, 10, config={"step": 2})
        newest = store.newest_checkpoint(tmp_path, on_skip=pytest.fail)
        assert ours.read_config(newest)["step"] in (1, 2)
        assert len(store.list_checkpoints(tmp_path)) == 1
        if remaining[0] > 0:
            break  # it was not killed any more
    assert num_kills > 10  # seven flushes, three renames, a deletion were each hit
    assert ours.read_config(newest)["step"] == 2 and names_in(tmp_path) == ["checkpoint-10"]


def killed_while_replacing(model_dir, monkeypatch, num_renames):
    """Leaves what a kill after some renames of the rewrite of checkpoint 10 leaves."""
    path = save(model_dir, 10)
    renames = iter(range(num_renames))

    def rename(*paths):
        if next(renames, None) is None:
            raise KeyboardInterrupt
        os.rename(*paths)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store.os, "replace", rename)
        patch.setattr(store.shutil, "rmtree", no_space)
        ours.update_config(path, temperature=1.5)
    return path


@pytest.mark.parametrize("num_renames", [1, 2])
def test_the_next_start_finishes_a_rewrite_that_was_killed(tmp_path, monkeypatch, num_renames):
    path = killed_while_replacing(tmp_path, monkeypatch, num_renames)
    assert len(names_in(tmp_path)) == 2
    store.delete_leftovers(tmp_path)
    assert names_in(tmp_path) == ["checkpoint-10"]
    assert ours.read_config(path)["temperature"] == 1.5


def test_the_next_start_undoes_a_rewrite_whose_new_checkpoint_is_damaged(tmp_path, monkeypatch):
    path = killed_while_replacing(tmp_path, monkeypatch, 1)
    (new,) = tmp_path.glob(".checkpoint-10.*.tmp")
    (new / store.CONFIG).write_text("{}")
    store.delete_leftovers(tmp_path)
    assert names_in(tmp_path) == ["checkpoint-10"]
    assert store.fault_in(path) is None and "temperature" not in ours.read_config(path)


def test_until_then_the_best_is_the_former_one(tmp_path, monkeypatch):
    store.write_best(tmp_path, 10)
    killed_while_replacing(tmp_path, monkeypatch, 1)
    best = store.best_checkpoint(tmp_path)
    assert best.name == "checkpoint-10.replaced" and store.checkpoint_at(tmp_path, 10) == best
    assert store.newest_checkpoint(tmp_path) == best


def test_a_link_in_the_place_of_a_checkpoint_is_deleted_and_not_what_it_leads_to(tmp_path):
    for name in ("elsewhere", "model_dir"):
        (tmp_path / name).mkdir()
    elsewhere, model_dir = save(tmp_path / "elsewhere", 5), tmp_path / "model_dir"
    save(model_dir, 6)
    (model_dir / "checkpoint-5").symlink_to(elsewhere)
    (model_dir / ".checkpoint-4.1.tmp").symlink_to(elsewhere)
    store.delete_old(model_dir, 6, keep_max=1)
    store.delete_leftovers(model_dir)
    assert names_in(model_dir) == ["checkpoint-6"] and store.fault_in(elsewhere) is None


# ---- The disk ------------------------------------------------------------------------------------


def with_free_bytes(monkeypatch, free):
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda folder: usage)


def test_space_is_looked_for_before_anything_is_written(tmp_path, monkeypatch):
    store.check_space(tmp_path / "absent" / "deeper", 1000)
    with_free_bytes(monkeypatch, 5_000_000)
    store.check_space(tmp_path, 1_000_000)
    with pytest.raises(RunError, match=r"needs 4,\d{3} MB.* has 5 MB free\. Earlier .* intact"):
        store.check_space(tmp_path, 4_300_000_000)
    assert names_in(tmp_path) == []


# ---- A config that grows -------------------------------------------------------------------------


def test_a_config_is_replaced_and_everything_else_has_its_bytes(tmp_path):
    path = save(tmp_path, 20)
    before = contents_of(path)
    ours.update_config(path, temperature=1.5)
    assert store.fault_in(path) is None
    assert ours.read_config(path)["temperature"] == 1.5
    assert ours.read_config(path)["label_names"] == ["neg", "posé"]
    after = contents_of(path)
    assert {name for name in before if before[name] != after[name]} == {
        store.CONFIG,
        store.MANIFEST,
    }
    assert names_in(tmp_path) == ["checkpoint-20"]


def test_a_config_is_replaced_where_the_file_system_has_no_links(tmp_path, monkeypatch):
    path = save(tmp_path, 20)
    monkeypatch.setattr(store.os, "link", no_space)
    ours.update_config(path, temperature=1.5)
    assert store.fault_in(path) is None and ours.read_config(path)["temperature"] == 1.5


@pytest.mark.parametrize("broken", ["digest_of", "flush"])
def test_a_failure_while_a_config_is_replaced_leaves_the_former(tmp_path, monkeypatch, broken):
    path = save(tmp_path, 20)
    before = contents_of(path)
    monkeypatch.setattr(store, "fault_in", lambda path: None)
    monkeypatch.setattr(store, broken, no_space)
    with pytest.raises(RunError, match="No space left"):
        ours.update_config(path, temperature=1.5)
    assert contents_of(path) == before and names_in(tmp_path) == ["checkpoint-20"]


# ---- Verified once -------------------------------------------------------------------------------


def test_files_that_have_not_changed_are_read_once_and_changed_ones_again(tmp_path, monkeypatch):
    path = save(tmp_path, 1)
    read = []
    digest = store.digest_of
    monkeypatch.setattr(store, "digest_of", lambda *a: read.append(a) or digest(*a))
    written = max(file.stat().st_ctime for file in path.iterdir())
    monkeypatch.setattr(store.time, "time", lambda: written + 1)
    assert store.fault_in(path) is None and store.fault_in(path) is None
    assert len(read) == 2 * 4  # too new to be told from what a change in the same moment leaves
    monkeypatch.setattr(store.time, "time", lambda: written + 60)
    assert store.fault_in(path) is None and store.fault_in(path) is None
    assert len(read) == 3 * 4
    content = (path / store.VOCAB).read_bytes()
    (path / store.VOCAB).write_bytes(content[::-1])
    os.utime(path / store.VOCAB, (written + 1, written + 1))  # a write may be in the same moment
    assert "vocab.txt has other content" in store.fault_in(path)


# ---- The best ------------------------------------------------------------------------------------


def test_the_best_is_the_one_that_the_file_names(tmp_path):
    paths = [save(tmp_path, step) for step in (5, 7, 9)]
    store.write_best(tmp_path, 7, metric="eval/loss", value=0.25)
    assert store.best_checkpoint(tmp_path) == paths[1]
    facts = json.loads((tmp_path / store.BEST).read_text())
    assert facts == {"step": 7, "checkpoint": "checkpoint-7", "metric": "eval/loss", "value": 0.25}
    assert [path for _, path in store.list_checkpoints(tmp_path)] == paths
    store.delete_best(tmp_path)
    with pytest.raises(UserError, match=r"has no best\.json, .*best_metric"):
        store.best_checkpoint(tmp_path)
    store.delete_best(tmp_path)


def test_a_best_that_is_damaged_or_not_there_is_refused(tmp_path):
    path = save(tmp_path, 7)
    store.write_best(tmp_path, 7)
    (path / store.WEIGHTS).write_bytes(b"")
    with pytest.raises(UserError, match=r"checkpoint-7, the best, is damaged: weights"):
        store.best_checkpoint(tmp_path)
    store.write_best(tmp_path, 8)
    with pytest.raises(UserError, match="checkpoint-8, the best, is damaged"):
        store.best_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"step": "../.."}', '{"step": null}', "[" * 9999]
)
def test_a_file_of_the_best_that_says_nothing_is_refused(tmp_path, text):
    (tmp_path / store.BEST).write_text(text)
    with pytest.raises(UserError, match=r"best\.json cannot be read"):
        store.best_checkpoint(tmp_path)
