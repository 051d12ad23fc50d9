# SPDX-License-Identifier: Apache-2.0
"""`hf://owner/name` from a local cache laid out as huggingface_hub lays it out; no network."""

import sys

import numpy as np
import pytest

from common.checkpoints import hub
from common.checkpoints.load import open_checkpoint
from common.errors import UserError
from tests.reference.shards import save_shards
from tests.reference.tiny_bert import huggingface_tensors, save_huggingface

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cache_of(folder, source, repo="owner/tiny-bert", revision="main"):
    """Puts the files of a folder into a hub cache: blobs, and links to them in a snapshot."""
    root = folder / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    snapshot.mkdir(parents=True)
    (root / "refs" / revision).write_text(COMMIT)
    for number, file in enumerate(sorted(source.iterdir())):
        file.rename(root / "blobs" / f"{number:064x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:064x}")
    return snapshot


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Folder of the cache that the library uses, offline."""
    library = pytest.importorskip(
        "huggingface_hub", reason="the extra hub: pip install huggingface_hub"
    )
    import huggingface_hub.constants as constants

    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    original = library.snapshot_download
    monkeypatch.setattr(
        library,
        "snapshot_download",
        lambda repo, **kwargs: original(repo, cache_dir=folder, **kwargs),
    )
    return folder


@pytest.mark.parametrize("save", [save_huggingface, save_shards])
def test_a_model_in_the_cache_is_taken_without_a_network(tmp_path, cache, save):
    tensors = huggingface_tensors(num_labels=3)
    source = save(tmp_path / "source", tensors)
    (source / "vocab.txt").write_text("[PAD]\n")
    snapshot = cache_of(cache, source)
    checkpoint = open_checkpoint("hf://owner/tiny-bert")
    assert checkpoint.format == "huggingface" and checkpoint.path == str(snapshot)
    assert checkpoint.config["vocab_file"] == str(snapshot / "vocab.txt")
    np.testing.assert_array_equal(
        np.asarray(checkpoint.weights["classifier/kernel"]), tensors["classifier.weight"].T
    )


def test_a_revision_is_taken_by_its_name_or_commit(tmp_path, cache):
    source = save_huggingface(tmp_path / "source", huggingface_tensors())
    snapshot = cache_of(cache, source, revision="v1.0")
    assert hub.fetch("hf://owner/tiny-bert@v1.0") == str(snapshot)
    assert hub.fetch(f"hf://owner/tiny-bert@{COMMIT}") == str(snapshot)
    with pytest.raises(UserError, match="not in the cache"):
        hub.fetch("hf://owner/tiny-bert")


def assert_says_what_to_copy_where(error, cache):
    text = str(error.value)
    assert "not in the cache, and it could not be fetched" in text
    assert f"copy the folder models--owner--tiny-bert of its hub cache to {cache}" in text
    assert "config.json, vocab.txt and model.safetensors into any folder" in text
    assert "\n" not in text


def test_without_a_network_the_text_says_what_to_copy_where(cache):
    with pytest.raises(UserError) as error:
        open_checkpoint("hf://owner/tiny-bert")
    assert_says_what_to_copy_where(error, cache)


def test_half_a_download_is_not_taken_for_the_model(tmp_path, cache):
    source = save_shards(tmp_path / "source", huggingface_tensors())
    snapshot = cache_of(cache, source)
    (snapshot / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError) as error:
        open_checkpoint("hf://owner/tiny-bert")
    assert_says_what_to_copy_where(error, cache)


def test_a_model_is_fetched_once_and_no_more_of_it_than_is_needed(tmp_path, cache, monkeypatch):
    import huggingface_hub

    names = ["README.md", "config.json", "model.safetensors", "pytorch_model.bin", "vocab.txt"]
    calls = []
    cached = huggingface_hub.snapshot_download

    def download(repo, local_files_only=False, allow_patterns=None, **kwargs):
        if local_files_only:
            return cached(repo, local_files_only=True, **kwargs)
        calls.append(allow_patterns)
        cache_of(cache, save_huggingface(tmp_path / "source", huggingface_tensors()))
        return None

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *a, **k: names)
    folders = {hub.fetch("hf://owner/tiny-bert") for _ in range(2)}
    assert len(folders) == 1
    assert calls == [["config.json", "vocab.txt", "model.safetensors"]]


def test_a_model_without_weights_is_refused(cache, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *a, **k: ["README.md"])
    with pytest.raises(UserError, match=r"has none of model\.safetensors"):
        hub.fetch("hf://owner/tiny-bert")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["pytorch_model.bin", "config.json"], ["config.json", "pytorch_model.bin"]),
        (
            ["model.safetensors.index.json", "model-00001-of-00001.safetensors", "x.safetensors"],
            ["model.safetensors.index.json", "model-00001-of-00001.safetensors"],
        ),
        (["tf_model.h5"], []),
    ],
)
def test_files_to_fetch(names, expected):
    assert hub.files_to_fetch(names) == expected


@pytest.mark.parametrize(
    "name", ["hf://bert", "hf://a/b/c", "hf://", "hf://../x", "hf://a/..", "hf://a/b@../c"]
)
def test_other_names_are_refused(name):
    with pytest.raises(UserError, match="is written hf://owner/name"):
        open_checkpoint(name)


def test_without_the_library_the_text_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        open_checkpoint("hf://owner/tiny-bert")


def test_an_index_in_the_cache_may_not_point_out_of_it(tmp_path, cache):
    source = save_shards(tmp_path / "source", huggingface_tensors())
    snapshot = cache_of(cache, source)
    shard = snapshot / "model-00002-of-00002.safetensors"
    outside = tmp_path / "outside.safetensors"
    shard.resolve().rename(outside)
    shard.unlink()
    shard.symlink_to(outside)
    with pytest.raises(UserError, match="outside its folder"):
        open_checkpoint(snapshot)
