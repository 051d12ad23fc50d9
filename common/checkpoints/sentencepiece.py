# SPDX-License-Identifier: Apache-2.0
"""A SentencePiece model of ALBERT, `spiece.model` or `30k-clean.model`, as a tokenizer.json.

The file is a protocol buffer, ModelProto of sentencepiece_model.proto: read here by hand, as the
package sentencepiece is not needed for anything else. What google-research/albert's tokenization.py
does to a text before (quotes, accents, case, and a comma after digits) is what transformers'
AlbertConverter writes into a tokenizer.json.
"""

import base64
import struct

from common.checkpoints.small_files import read_small, reading
from common.errors import UserError

MAX_BYTES = 20_000_000  # ALBERT's has 760,000
# Fields of ModelProto, of its SentencePiece and of its NormalizerSpec.
PIECES, NORMALIZER, PIECE, SCORE, TYPE, CHARSMAP = 1, 3, 1, 2, 3, 2
UNKNOWN = 2  # type of a piece
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
# AlbertConverter: a piece of digits and a comma is cut before the comma.
COMMA_SCORE = 100.0
SPECIAL = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"}


def read_content(path):
    """The content of a tokenizer.json: dict. path: Path.

    Raises:
        UserError: it cannot be read, or is no unigram model with ALBERT's special tokens.
    """
    with reading(path, "it is no SentencePiece model"):
        content = read_small(path, MAX_BYTES)
        if not content:
            raise ValueError("it is empty or missing")
        rows, unknown, charsmap = _parse(content)
    ids = {row[0]: i for i, row in enumerate(rows)}
    missing = [token for token in SPECIAL if token not in ids]
    if missing or unknown is None:
        raise UserError(
            f"{path} has no {', '.join(missing) or 'unknown piece'} among its {len(rows):,} "
            "pieces; take that of an ALBERT, or give the tokenizer.json of the model"
        )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(token, ids[token]) for token in SPECIAL],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(charsmap)},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE | {"split": True}],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_special("[CLS]", 0), _sequence("A", 0), _special("[SEP]", 0)],
            "pair": [
                *(_special("[CLS]", 0), _sequence("A", 0), _special("[SEP]", 0)),
                *(_sequence("B", 1), _special("[SEP]", 1)),
            ],
            "special_tokens": {
                token: {"id": token, "ids": [ids[token]], "tokens": [token]}
                for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": METASPACE | {"split": True},
        "model": {"type": "Unigram", "unk_id": unknown, "vocab": rows, "byte_fallback": False},
    }


def _added(token, i):
    return {
        "id": i,
        "content": token,
        "single_word": False,
        "lstrip": token == "[MASK]",
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _special(token, segment):
    return {"SpecialToken": {"id": token, "type_id": segment}}


def _sequence(name, segment):
    return {"Sequence": {"id": name, "type_id": segment}}


def _normalizers(charsmap):
    quotes = [
        {"type": "Replace", "pattern": {"String": each}, "content": '"'} for each in ("``", "''")
    ]
    folding = [{"type": name} for name in ("NFKD", "StripAccents", "Lowercase")]
    own = []
    if charsmap:
        text = base64.b64encode(charsmap).decode()
        own = [{"type": "Precompiled", "precompiled_charsmap": text}]
    return [
        *(*quotes, *folding, *own),
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    ]


# ---- The protocol buffer -------------------------------------------------------------------------


def _parse(content):
    """[piece, score] of each id; id of the unknown piece, or None; bytes of the character map."""
    rows, unknown, charsmap = [], None, b""
    for field, value in _fields(content):
        if field == PIECES:
            of_piece = dict(_fields(value))
            piece = of_piece[PIECE].decode("utf-8")
            (score,) = struct.unpack("<f", of_piece.get(SCORE, bytes(4)))
            if of_piece.get(TYPE) == UNKNOWN:
                unknown = len(rows)
            ends_in_comma = len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()
            rows.append([piece, score - COMMA_SCORE if ends_in_comma else score])
        elif field == NORMALIZER:
            charsmap = dict(_fields(value)).get(CHARSMAP, b"")
    return rows, unknown, charsmap


def _fields(content):
    """Yields (number, value) of a message: int of a varint, else bytes."""
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        wire = key & 7
        if wire == VARINT:
            value, place = _varint(content, place)
        elif wire in (FIXED32, FIXED64, BYTES):
            size = {FIXED32: 4, FIXED64: 8}.get(wire)
            if size is None:
                size, place = _varint(content, place)
            value, place = content[place : place + size], place + size
        else:
            raise ValueError(f"a field of wire type {wire}")
        if place > len(content):
            raise ValueError("it ends within a field")
        yield key >> 3, value


def _varint(content, place):
    value = 0
    for shift in range(0, 70, 7):
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if not byte & 0x80:
            return value, place
    raise ValueError("a number of more than 70 bits")
