# SPDX-License-Identifier: Apache-2.0
"""From questions and texts to answers with the network of this folder, in any program that runs it.

    decoder = Decoder(".")
    rows = decoder.rows([("Who wrote it?", "Ada Lovelace wrote it.")])
    start, end = ...  # logits of the network for rows.features, <float32>[rows, tokens]
    print(decoder.decode(rows, {"start_logits": start, "end_logits": end}))

NumPy and the package tokenizers alone. `rows.features` may be given to the network in parts.
"""

import numpy as np

from common.export.decoders.windows import Reader, Rows, Window, best_windows, cut_windows
from common.tasks.span_answers import Context, Scored, answer

BLANKS = " \t\r\n\u202f"  # what parts words in run_squad.py


class Decoder(Reader):
    """Questions to rows, and logits of rows to answers."""

    def rows(self, texts):
        """Returns Rows. texts: list of (question, text); a question is cut at max_query_length
        tokens, a text that is longer than a row becomes windows."""
        settings = self.settings
        rows, windows, words, pieces, word_of_piece = [], [], [], [], []
        for number, (question, text) in enumerate(texts):
            asked = self.vocab.ids_of(question)[: settings["max_query_length"]]
            spans = split_at_blanks(text)
            ids, word_of_id = self.vocab.ids_of_words([text[a:b] for a, b in spans], True)
            words.append(np.array(spans, np.int64).reshape(-1, 2))
            pieces.append(self.vocab.word_pieces(ids))
            word_of_piece.append(np.array(word_of_id, np.int64))
            room = self.room(2) - len(asked)
            for start, count in cut_windows(len(ids), room, settings["window_stride"]):
                row, num_first = self.row(asked, ids[start : start + count])
                rows.append((row, num_first))
                windows.append(Window(number, start, count, num_first))
        parts = windows, words, pieces, word_of_piece, rows
        return Rows(list(texts), self.features(rows), *parts)

    def decode(self, rows, outputs):
        """Returns for each question {"answer", "score", "margin", "start", "end"}: the text, ""
        where there is none; its probability among the candidates; how far its score is above that
        of no answer, which texts can be compared by; its characters in the text, or None.

        outputs: {"start_logits", "end_logits": <float32>[M, T]} of rows.features.
        """
        return [self._decode(rows, number, outputs) for number in range(len(rows.texts))]

    def _decode(self, rows, number, outputs):
        settings = self.settings
        windows = rows.windows_of(number)
        cut = [(window.start, window.count) for _, window in windows]
        best = best_windows(cut)
        scored = []
        for place, (row, window) in enumerate(windows):
            tokens = range(window.start, window.start + window.count)
            has_most = np.array([best[token] == place for token in tokens], bool)
            of_row = slice(0, window.first + window.count + 1)
            sides = (
                np.asarray(outputs[f"{side}_logits"][row])[of_row] for side in ("start", "end")
            )
            scored.append(Scored(window.start, window.first, has_most, *sides))
        context = Context(
            rows.texts[number][1],
            rows.words[number],
            rows.pieces[number],
            rows.word_of_piece[number],
        )
        answered = answer(
            context,
            scored,
            self.vocab.normalized,
            settings["n_best_size"],
            settings["max_answer_length"],
            settings["version_2_with_negative"],
        )
        chosen = answered.told(settings["null_score_diff_threshold"])
        text = "" if chosen is None else chosen.text
        texts = [candidate.text for candidate in answered.candidates]
        score = answered.probabilities[texts.index(text)] if text in texts else 0.0
        start, end = (None, None) if chosen is None else chosen.span
        found = {"answer": text, "score": score, "margin": answered.margin}
        return found | {"start": start, "end": end}


def split_at_blanks(text):
    """Returns where the words of a text stand: [(first character, the one after the last)]."""
    spans, begin = [], None
    for place, character in enumerate(text + BLANKS[0]):
        if character in BLANKS:
            if begin is not None:
                spans.append((begin, place))
            begin = None
        elif begin is None:
            begin = place
    return spans
