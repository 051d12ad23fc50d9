# SPDX-License-Identifier: Apache-2.0
"""`tokenizer.json` of the package tokenizers: the vocabulary where a folder has no `vocab.txt`.

transformers writes only this file from release 5 on. It can describe any tokenizer. Of BERT's
(WordPieces with `##` after BERT's normalization) the entries are all that is needed; byte-level BPE
and unigram vocabularies keep the whole content, from which the package makes ids of texts.
"""

from pathlib import Path

from common.checkpoints.small_files import read_json, read_small
from common.errors import UserError

NAME, VOCAB_JSON, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
PREFIX, UNKNOWN = "##", "[UNK]"
LIBRARY = ("BPE", "Unigram")  # types of model that need the package
MAX_BYTES = 60_000_000  # that of a multilingual vocabulary of 250,000 entries has 17,000,000
MAX_MERGES_BYTES = 20_000_000
# {key of tokenizer_config.json: the names that the token has}
ROLES = {
    "bos_token": ("<s>",),
    "eos_token": ("</s>",),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "mask_token": ("[MASK]", "<mask>"),
}


class LibraryVocab(list):
    """The entry of each id, and what the package tokenizers makes ids of texts from.

    Attributes:
        content: dict, of a tokenizer.json.
    """

    def __init__(self, entries, content):
        super().__init__(entries)
        self.content = content

    @property
    def kind(self):
        """str, the type of its model."""
        return self.content["model"]["type"]


def needs_library(path):
    """Whether there is a tokenizer.json, and it is not WordPiece's. path: Path."""
    return path.is_file() and _mapping(_read(path).get("model")).get("type") in LIBRARY


def read_vocab(path):
    """The entry of each id: list of str, or a LibraryVocab. Includes the added tokens.

    Raises:
        UserError: it cannot be read, describes another kind of tokenizer, or lacks ids.
    """
    return vocab_of(path, _read(path))


def vocab_of(path, content):
    """`read_vocab` of the content of a tokenizer.json. path: names it in an error."""
    model = _mapping(content.get("model"))
    if model.get("type") == "Unigram":
        rows = model.get("vocab")
        is_list = isinstance(rows, list) and all(isinstance(row, list) and row for row in rows)
        pairs = [(row[0], i) for i, row in enumerate(rows)] if is_list else []
        return LibraryVocab(_in_order(path, pairs, content), content)
    if model.get("type") == "BPE":
        pairs = list(_mapping(model.get("vocab")).items())
        return LibraryVocab(_in_order(path, pairs, content), content)
    kind = (model.get("type"), model.get("continuing_subword_prefix"), model.get("unk_token"))
    if kind != ("WordPiece", PREFIX, UNKNOWN):
        raise UserError(
            f"{path}: its model is {', '.join(f'{part!r:.40}' for part in kind)}; only BERT's "
            f"WordPiece with {PREFIX} and {UNKNOWN}, byte-level BPE and unigram can be read"
        )
    return _in_order(path, list(_mapping(model.get("vocab")).items()), content)


def read_byte_bpe(path):
    """The LibraryVocab of RoBERTa's `vocab.json` and `merges.txt`, in one folder. path: Path.

    Raises:
        UserError: one of the two is absent or cannot be read, or ids are missing.
    """
    vocab, merges_file = _read(path), path.with_name(MERGES)
    try:
        text = read_small(merges_file, MAX_MERGES_BYTES)
        lines = (text or b"").decode("utf-8").replace("\r\n", "\n").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{merges_file} cannot be read: {error}; copy it again") from None
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if text is None or any(len(pair) != 2 for pair in merges):
        raise UserError(
            f"{merges_file} has no pair of pieces in every line; copy it from where {path} is from"
        )
    missing = [token for token in BYTE_BPE_TOKENS if token not in vocab]
    if missing:
        raise UserError(
            f"{path} has no {', '.join(missing)}; give the tokenizer.json of this vocabulary"
        )
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": vocab[token],
                "content": token,
                "single_word": False,
                "lstrip": token == "<mask>",
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token in BYTE_BPE_TOKENS
        ],
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL,
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": ["</s>", vocab["</s>"]],
            "cls": ["<s>", vocab["<s>"]],
            "trim_offsets": True,
            "add_prefix_space": False,
        },
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": merges,
        },
    }
    return LibraryVocab(_in_order(path, list(vocab.items()), content), content)


BYTE_BPE_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}


def _in_order(path, pairs, content):
    """The entry of each id: list of str. pairs: list of (entry, id), to which added tokens come."""
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


def read_ids(path):
    """{entry: id} of its model, where that is WordPiece's: dict."""
    model = _mapping(_read(path).get("model"))
    return _mapping(model.get("vocab")) if model.get("type") == "WordPiece" else {}


def read_added(path):
    """The texts of its added tokens: list of str."""
    added = _read(path).get("added_tokens")
    texts = [_mapping(token).get("content") for token in (added if isinstance(added, list) else ())]
    return [text for text in texts if isinstance(text, str)]


def tokenizer_config(vocab, do_lower):
    """The contents of the tokenizer_config.json of a vocabulary, for transformers: dict."""
    if not isinstance(vocab, LibraryVocab):
        return bert_tokenizer_config(vocab, do_lower)
    found = {
        role: next((name for name in names if name in vocab), None) for role, names in ROLES.items()
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{role: name for role, name in found.items() if name is not None},
    }


def bert_tokenizer_config(vocab, do_lower):
    """The contents of the tokenizer_config.json of a WordPiece vocabulary, for transformers: dict.

    vocab: list of str.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *["[MASK]"] * ("[MASK]" in vocab)]
    return {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": do_lower,
        "strip_accents": None,  # as do_lower_case
        "tokenize_chinese_chars": True,
        **{f"{token[1:-1].lower()}_token": token for token in special},
    }


def _read(path):
    content = read_json(Path(path), MAX_BYTES)
    if content is None:
        raise UserError(f"{path}: there is no such file; correct the path")
    return content


def _mapping(value):
    return value if isinstance(value, dict) else {}
