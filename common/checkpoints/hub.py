# SPDX-License-Identifier: Apache-2.0
"""`hf://owner/name`: a model of the Hugging Face hub, downloaded once into the hub's cache.

A model in the cache is used as it is, so later runs need no network. `hf://owner/name@revision`
selects a branch, tag or commit instead of `main`.
"""

import logging
import re
from pathlib import Path

from common.checkpoints import tokenizer_json
from common.checkpoints.formats import huggingface
from common.checkpoints.small_files import brief
from common.errors import UserError
from common.platform.machine import check_reachable

NAME = re.compile(r"hf://(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w-][\w./-]*))?")
INSTALL = "pip install huggingface_hub"
TEXTS = (
    *("config.json", "tokenizer_config.json", "vocab.txt", tokenizer_json.NAME),
    *(tokenizer_json.VOCAB_JSON, tokenizer_json.MERGES, huggingface.SPIECE),
)


def fetch(name):
    """The folder of a model as str, from the cache or else from the network.

    name: str, `hf://owner/name` or `hf://owner/name@revision`.

    Raises:
        UserError: the name is malformed, huggingface_hub is not installed, or the model is not in
            the cache and cannot be downloaded; the message says what to copy where.
    """
    match = NAME.fullmatch(name)
    if match is None or ".." in name:
        raise UserError(
            f"checkpoint {name}: a model of the hub is written hf://owner/name, or "
            "hf://owner/name@revision"
        )
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"checkpoint {name}: the package huggingface_hub, which fetches it, is not installed; "
            f"{INSTALL}, or give the path of a folder that has the model"
        ) from None
    repo, revision = match["repo"], match["revision"] or "main"
    folder = cached(repo, revision)
    if folder is not None:
        return folder
    # The library logs each of its five attempts; the message below reports the failure once.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    # The library raises dozens of types, which change with each release.
    try:
        if not huggingface_hub.constants.HF_HUB_OFFLINE:
            check_reachable([huggingface_hub.constants.ENDPOINT])
        names = huggingface_hub.HfApi().list_repo_files(repo, revision=revision)
        wanted = files_to_fetch(names)
        if wanted:
            huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=wanted)
            folder = cached(repo, revision)
    except Exception as error:
        raise UserError(not_fetched(name, repo, error)) from None
    if folder is None:
        raise UserError(
            f"checkpoint {name}: the model has none of {', '.join(huggingface.WEIGHTS_FILES)}; "
            "choose one that has"
        )
    return folder


def cached(repo, revision):
    """The folder of a model in the cache as str; None if it is missing or incomplete."""
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=True)
        file = huggingface.find_weights_file(folder)
        if file.name.endswith(".index.json"):
            huggingface.shards_of(file)
    # LocalEntryNotFoundError is both; UserError: a shard is missing after an interrupted download.
    except (OSError, ValueError):
        return None
    return str(folder) if file.is_file() else None


def files_to_fetch(names):
    """The files of a model to download: the texts, and the first available kind of weights."""
    weights = next((name for name in huggingface.WEIGHTS_FILES if name in names), None)
    if weights is None:
        return []
    wanted = [*(name for name in TEXTS if name in names), weights]
    if weights.endswith(".index.json"):
        stem, suffix = weights.removesuffix(".index.json").split(".")
        shard = re.compile(rf"{stem}-\d+-of-\d+\.{suffix}")
        wanted += [name for name in names if shard.fullmatch(name)]
    return wanted


def not_fetched(name, repo, error):
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    return (
        f"checkpoint {name}: not in the cache, and it could not be fetched "
        f"({type(error).__name__}: {brief(error, 100)}); from a machine that has it, copy the "
        f"folder {folder.name} of its hub cache to {folder}, or copy the model's config.json, "
        f"vocab.txt and {huggingface.WEIGHTS_FILE} into any folder and give that as "
        "--checkpoint_path"
    )
