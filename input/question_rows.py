# SPDX-License-Identifier: Apache-2.0
"""Questions in rows: [CLS] question [SEP] window of the text [SEP], and what each row is of."""

import functools
from dataclasses import dataclass, replace

import numpy as np

from input.tokenizers.library import LibraryTokenizer
from input.tokenizers.offsets import split_text
from input.windows import Windows, best_windows, cut_windows
from input.word_rows import Words

NUM_SPECIAL = 3  # special tokens of a row; in the layout of RoBERTa 4


@dataclass(frozen=True)
class QuestionRows:
    """Where the texts of N questions stand in M rows.

    Attributes:
        windows: Windows, one for each row.
        words: Words of the texts.
        num_question: int64 [M], tokens of each row's question.
        ids, offsets: tokens of all texts, and where each begins: [T], [N + 1].
        do_lower: bool, as of the tokenizer.
        num_special: int, special tokens of a row.
        library: LibraryTokenizer, where the vocabulary is not WordPiece's; else None.
    """

    windows: Windows
    words: Words
    num_question: np.ndarray
    ids: np.ndarray
    offsets: np.ndarray
    do_lower: bool
    num_special: int = NUM_SPECIAL
    library: LibraryTokenizer | None = None

    @property
    def num_tokens(self):
        """Tokens of each row with its special tokens, int64 [M]."""
        return self.num_question + self.windows.count + self.num_special

    @functools.cached_property
    def best(self):
        """The row in which each token of the texts has the most context: int64 [T]."""
        return best_windows(self.windows, np.diff(self.offsets))

    def rows_of(self, text):
        """Returns the rows of a text, range."""
        return range(*np.searchsorted(self.windows.text, [text, text + 1]).tolist())

    def word_of_piece(self, text):
        """Returns the word that each token of a text is from, int64 [tokens]."""
        of_words = slice(*self.words.offsets[text : text + 2])
        num_pieces = self.words.num_pieces[of_words]
        return np.repeat(np.arange(len(num_pieces)), num_pieces)

    def pieces_of(self, text, vocab):
        """Returns the tokens of a text in the spelling of WordPiece: list of str. vocab: of str."""
        ids = self.ids[slice(*self.offsets[text : text + 2])].tolist()
        return [vocab[i] for i in ids] if self.library is None else self.library.word_pieces(ids)

    def normalize(self, text):
        """Returns the words of a text as the vocabulary has them, joined by one blank."""
        # By words, since the answers that are tried for a question share most of them.
        found = (self._normalized_word(word) for word in text.split(" "))
        return " ".join(word for word in found if word)

    @functools.cached_property
    def _normalized_word(self):
        def of_word(word):
            if self.library is not None:
                return self.library.normalized(word)
            return " ".join(split_text(word, self.do_lower).strings())

        return functools.lru_cache(maxsize=1 << 16)(of_word)


def rows_of_questions(
    tokens, max_length, max_question, stride, do_lower, num_special=NUM_SPECIAL, library=None
):
    """Cuts the texts of questions into rows.

    Args:
        tokens: Tokens of pairs with `words`, and the target "answer_tokens" <int32>[N, 2] or none.
        max_length: int, tokens of a row. max_question: int, tokens of a question; it is cut.
        stride: int, as of `cut_windows`.
        do_lower: bool, as of the tokenizer.
        num_special: int, special tokens of a row, of which one stands behind its text.
        library: as of QuestionRows.
    Returns:
        Tokens of the rows, with the targets "start_positions" and "end_positions" <int32>[M] if
        answers are known: places in the row, 0 and 0, which is [CLS], where it holds no whole
        answer; QuestionRows.
    """
    num_question = np.minimum(tokens.lengths[:, 0], max_question)
    lengths = tokens.lengths[:, 1]
    windows = cut_windows(lengths, max_length - num_question - num_special, stride)
    of_row = num_question[windows.text]
    starts = np.stack(
        [tokens.offsets[0:-1:2][windows.text], tokens.offsets[1::2][windows.text] + windows.start],
        axis=1,
    ).ravel()
    counts = np.stack([of_row, windows.count], axis=1).ravel()
    offsets = np.concatenate([[0], np.cumsum(counts)])
    ids = tokens.ids[np.repeat(starts - offsets[:-1], counts) + np.arange(offsets[-1])]
    targets = {}
    if "answer_tokens" in tokens.targets:
        first, last = tokens.targets["answer_tokens"][windows.text].T
        ends = windows.start + windows.count
        is_inside = (first >= windows.start) & (last < ends) & (first >= 0)
        for name, token in (("start_positions", first), ("end_positions", last)):
            place = token - windows.start + of_row + num_special - 1
            targets[name] = np.where(is_inside, place, 0).astype(np.int32)
    is_context = np.repeat(np.tile([False, True], len(tokens)), tokens.lengths.ravel())
    rows = QuestionRows(
        windows,
        tokens.words,
        of_row,
        tokens.ids[is_context],
        np.concatenate([[0], np.cumsum(lengths)]),
        do_lower,
        num_special,
        library,
    )
    return replace(tokens, ids=ids, offsets=offsets, targets=targets, words=None), rows
