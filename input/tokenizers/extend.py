# SPDX-License-Identifier: Apache-2.0
"""New words of a domain for an existing WordPiece vocabulary, which keeps all its other ids."""

from dataclasses import dataclass
from pathlib import Path

from common.checkpoints.extension import Extension, hash_of_entries
from common.console import counted
from common.errors import UserError
from input.tokenizers.entries import UNUSED
from input.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class NewWord:
    """A word that is added: how often it stands in the texts, and the pieces that it was."""

    word: str
    count: int
    pieces: list  # of str


def extend(base, words, max_new_words, min_frequency, at):
    """Adds the words that a vocabulary cuts worst: those that save the most pieces in the texts.

    A word is rated by its count times the pieces that it saves, an unknown one by its count times
    its characters. Words without a letter, such as years, are not added.

    Args:
        base: Tokenizer, WordPiece.
        words: Counter of `base.count`.
        max_new_words, min_frequency: int.
        at: "unused", in place of the entries [unusedN], or "end".
    Returns:
        Tokenizer; Extension, whose vocab_file is vocab.txt; list of NewWord, the best first.
    Raises:
        UserError: no word is to be added, or there are no unused entries.
    """
    slots = [i for i, entry in enumerate(base.entries) if UNUSED.fullmatch(entry)]
    if at == "end":
        slots = range(base.vocab_size, base.vocab_size + max_new_words)
    if not slots:
        raise UserError(
            "the vocabulary has no entries [unusedN] to put words in; write new_words_at: end"
        )
    rated = []
    for word, count in words.items():
        if count >= min_frequency and any(map(str.isalpha, word)):
            pieces = base.pieces_of(word)
            saved = len(word) if pieces == [base.unk_id] else len(pieces) - 1
            if saved:
                rated.append((-count * saved, word, pieces))
    chosen = sorted(rated)[: min(max_new_words, len(slots))]
    if not chosen:
        raise UserError(
            f"the vocabulary has every word that stands {min_frequency} times in the texts; give "
            "other texts, or write a smaller min_frequency"
        )
    entries, ids = list(base.entries), {}
    for slot, (_, word, pieces) in zip(slots, chosen, strict=False):
        entries[slot : slot + 1] = [word]
        ids[slot] = pieces
    tokenizer = Tokenizer(entries, base.algorithm, base.do_lower, base.special)
    if len(chosen) < max_new_words:
        why = "unused entries" if len(slots) == len(chosen) else f"of {min_frequency} times or more"
        tokenizer.notes.append(
            f"{counted(len(chosen), 'word')}, not {max_new_words:,}: no more {why}"
        )
    extension = Extension(Path("vocab.txt"), base.vocab_size, hash_of_entries(base.entries), ids)
    added = [
        NewWord(word, words[word], [base.entries[i] for i in pieces]) for _, word, pieces in chosen
    ]
    return tokenizer, extension, added
