# SPDX-License-Identifier: Apache-2.0
"""From texts to entities with the token classifier of this folder, in any program that runs it.

    decoder = Decoder(".")
    rows = decoder.rows(["Ada Lovelace wrote it."])
    logits = ...  # of the network for rows.features, <float32>[rows, tokens, labels]
    print(decoder.decode(rows, {"logits": logits}))

NumPy and the package tokenizers alone. `rows.features` may be given to the network in parts.
"""

import itertools

import numpy as np

from common.export.decoders.windows import Reader, Rows, Window, best_windows, cut_windows

OUTSIDE = "O"


class Decoder(Reader):
    """Texts to rows, and logits of rows to the entities of texts."""

    def rows(self, texts):
        """Returns Rows. texts: list of str; one that is longer than a row becomes windows."""
        room = self.room()
        stride = self.settings["window_stride"] or -(-room // 2)
        num_before = int(self.settings["add_special_tokens"])
        rows, windows, words, word_of_piece = [], [], [], []
        for number, text in enumerate(texts):
            words.append(self.vocab.split(text))
            ids, word_of_id = self.vocab.ids_of_words([text[a:b] for a, b in words[-1]])
            word_of_piece.append(word_of_id)
            for start, count in cut_windows(len(ids), room, stride, _begins(word_of_id)):
                rows.append(self.row(ids[start : start + count]))
                windows.append(Window(number, start, count, num_before))
        parts = windows, words, [], word_of_piece, rows
        return Rows(list(texts), self.features(rows), *parts)

    def decode(self, rows, outputs):
        """Returns for each text {"text", "tokens", "tags"} and, where the labels are those of
        entities, "entities": {"start", "end", "label", "text", "score"}, places in characters.

        outputs: {"logits": <float32>[M, T, C]} of rows.features.
        """
        return [self._decode(rows, number, outputs["logits"]) for number in range(len(rows.texts))]

    def _decode(self, rows, number, logits):
        text, words = rows.texts[number], rows.words[number]
        windows = rows.windows_of(number)
        cut = [(window.start, window.count) for _, window in windows]
        names = self.settings["label_names"]
        best, probabilities = best_windows(cut), []
        begins = np.searchsorted(rows.word_of_piece[number], np.arange(len(words) + 1)).tolist()
        for begin, end in itertools.pairwise(begins):
            if begin == end:  # of a word that no entry spells: it is outside
                probabilities.append(np.eye(len(names))[_outside(names)])
                continue
            row, window = windows[best[begin]]
            places = np.arange(begin, min(end, window.start + window.count))
            places += window.first - window.start
            probabilities.append(self._aggregate(softmax(logits[row][places])))
        tags = [names[int(each.argmax())] for each in probabilities]
        result = {"text": text, "tokens": [text[a:b] for a, b in words], "tags": tags}
        if self.settings["has_entities"]:
            best = [float(each.max()) for each in probabilities]
            result["entities"] = [
                {
                    "start": words[first][0],
                    "end": words[end - 1][1],
                    "label": kind,
                    "text": text[words[first][0] : words[end - 1][1]],
                    "score": round(float(np.mean(best[first:end])), 6),
                }
                for first, end, kind in entities_of(tags)
            ]
        return result

    def _aggregate(self, probabilities):
        """Returns the probabilities of a word, [C], of those of its tokens, [K, C]."""
        how = self.settings["word_aggregation"]
        if how == "average":
            return probabilities.mean(axis=0)
        return probabilities[probabilities.max(axis=1).argmax() if how == "max" else 0]


def softmax(logits):
    """Returns the probabilities of logits, over the last axis, in float64."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def entities_of(tags):
    """Returns [(first word, the one after the last, type)], as conlleval reads labels: an I-
    without a B- of its type before begins an entity, too."""
    found, before = [], (OUTSIDE, "")
    for word, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        if prefix in ("I", "E") and before[0] in ("B", "I") and before[1] == kind:
            found[-1] = found[-1][0], word + 1, kind
        elif prefix != OUTSIDE:
            found.append((word, word + 1, kind))
        before = prefix, kind
    return found


def _begins(words):
    """Returns the tokens that begin a word. words: of each token, the number of its word."""
    return [token for token, word in enumerate(words) if token == 0 or words[token - 1] != word]


def _outside(names):
    """Returns the label of a word without a token."""
    return names.index(OUTSIDE) if OUTSIDE in names else 0
