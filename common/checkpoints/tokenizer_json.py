# SPDX-License-Identifier: Apache-2.0
"""`tokenizer.json` of the package tokenizers: the vocabulary where a folder has no `vocab.txt`.

transformers writes only this file from release 5 on. It can describe any tokenizer; this module
reads BERT's: WordPieces with `##` after BERT's normalization.
"""

from pathlib import Path

from common.checkpoints.small_files import read_json
from common.errors import UserError

NAME = "tokenizer.json"
PREFIX, UNKNOWN = "##", "[UNK]"


def read_vocab(path):
    """The entry of each id: list of str. Includes the added tokens.

    Raises:
        UserError: it cannot be read, describes another kind of tokenizer, or lacks ids.
    """
    content = _read(path)
    model = _mapping(content.get("model"))
    kind = (model.get("type"), model.get("continuing_subword_prefix"), model.get("unk_token"))
    if kind != ("WordPiece", PREFIX, UNKNOWN):
        raise UserError(
            f"{path}: its model is {', '.join(f'{part!r:.40}' for part in kind)}; only BERT's "
            f"WordPiece with {PREFIX} and {UNKNOWN} can be read"
        )
    pairs = list(_mapping(model.get("vocab")).items())
    added = content.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        pairs.append((_mapping(token).get("content"), _mapping(token).get("id")))
    entries = {}  # id -> entry
    for entry, i in pairs:
        is_right = isinstance(entry, str) and type(i) is int
        if not is_right or entries.setdefault(i, entry) != entry:
            raise UserError(
                f"{path}: {entry!r:.40} has the id {i!r:.40}; copy or download it again"
            )
    if sorted(entries) != list(range(len(entries))):
        raise UserError(
            f"{path}: its {len(entries):,} ids are not those from 0 on; copy or download it again"
        )
    return [entries[i] for i in range(len(entries))]


def read_normalization(path):
    """dict of "lowercase", "strip_accents", "handle_chinese_chars", where the file has them."""
    normalizer = _mapping(_read(path).get("normalizer"))
    steps = normalizer.get("normalizers")  # of a Sequence
    found = {}
    for step in map(_mapping, steps if isinstance(steps, list) else [normalizer]):
        found |= {"lowercase": True} if step.get("type") == "Lowercase" else step
    return found


def read_added(path):
    """The texts of its added tokens: list of str."""
    added = _read(path).get("added_tokens")
    texts = [_mapping(token).get("content") for token in (added if isinstance(added, list) else ())]
    return [text for text in texts if isinstance(text, str)]


def _read(path):
    content = read_json(Path(path))
    if content is None:
        raise UserError(f"{path}: there is no such file; correct the path")
    return content


def _mapping(value):
    return value if isinstance(value, dict) else {}
