# SPDX-License-Identifier: Apache-2.0
"""How well a vocabulary covers texts that it was not trained on."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Coverage:
    """Figures of one vocabulary on the words of some texts, each as often as it stands there.

    Attributes:
        words: int, number of words as the tokenizer splits the texts, without white space.
        unknown_share: float, of the words, those that become [UNK].
        whole_share: float, of the words, those that are one piece and known.
        pieces_per_word, characters_per_piece: float; an unknown word is one piece.
    """

    words: int
    unknown_share: float
    whole_share: float
    pieces_per_word: float
    characters_per_piece: float


def measure(tokenizer, words):
    """Returns the Coverage of a Tokenizer. words: Counter of `Tokenizer.count`, not empty."""
    total = pieces = unknown = whole = characters = 0
    for word, count in words.items():
        ids, text = tokenizer.pieces_of(word), tokenizer.text_of(word).strip()
        is_unknown = tokenizer.unk_id in ids
        pieces += count * len(ids)
        unknown += count * is_unknown
        if text:  # no white space, of which byte-level BPE makes words, too
            total += count
            whole += count * (len(ids) == 1 and not is_unknown)
            characters += count * len(text)
    words = max(total, 1)
    return Coverage(total, unknown / words, whole / words, pieces / words, characters / pieces)


HEAD = ("vocabulary", "entries", "[UNK]", "whole words", "pieces a word", "characters a piece")


def table(rows):
    """Returns aligned lines: list of str. rows: {name: (number of entries, Coverage)}."""
    cells = [HEAD]
    for name, (entries, each) in rows.items():
        cells.append(
            (
                name,
                f"{entries:,}",
                f"{each.unknown_share:.3%}",
                f"{each.whole_share:.1%}",
                f"{each.pieces_per_word:.3f}",
                f"{each.characters_per_piece:.2f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in cells
    ]


def as_json(rows):
    """Returns the same figures for programs: dict."""
    return {name: {"entries": entries} | asdict(each) for name, (entries, each) in rows.items()}
