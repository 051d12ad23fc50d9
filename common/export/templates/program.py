# SPDX-License-Identifier: Apache-2.0
"""From texts to answers, in Python alone; the network is `keras_network.py` or another template."""

import argparse
import json
import math

from tokenizers import Tokenizer

from common.export.templates.geometry import HERE, Geometry
from common.export.templates.keras_network import load, sigmoid, softmax, tensor, to_list

NUM_BEST = 5  # words for each mask
NO_SCORE = -1e30


def load_tokenizer():
    """Returns the tokenizer of tokenizer.json."""
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    if Geometry.reads != "masks":
        tokenizer.encode_special_tokens = True  # a special token's name in a text is text
    if Geometry.reads == "words":
        overlap = Geometry.window_overlap  # a longer text becomes several rows
        tokenizer.enable_truncation(Geometry.max_sequence_length, stride=overlap)
    else:
        tokenizer.enable_truncation(Geometry.max_sequence_length)
    tokenizer.enable_padding(pad_id=Geometry.pad_id, pad_token=Geometry.pad_token)
    return tokenizer


def encode(tokenizer, texts):
    """Returns the features of texts, cut to a row each. texts: list of str, or of (str, str)."""
    return features_of(tokenizer.encode_batch(texts))


def features_of(rows):
    """Returns the features of encodings of one length: {name: [B, T]}."""
    if not Geometry.adds_special_tokens:
        for row in rows:
            row.pad(1, pad_id=Geometry.pad_id, pad_token=Geometry.pad_token)  # empty texts
    features = {
        "input_ids": [row.ids for row in rows],
        "padding_mask": [row.attention_mask for row in rows],
    }
    if Geometry.num_segments == 2:
        features["segment_ids"] = [row.type_ids for row in rows]
    return {name: tensor(each) for name, each in features.items()}


def read_labels():
    """Returns the names of the outputs."""
    return json.loads((HERE / "labels.json").read_text("utf-8"))


def print_classes(network, tokenizer, texts):
    """Prints the likeliest label of each text and its probability."""
    labels = read_labels()
    for probabilities in softmax(network(encode(tokenizer, texts))):
        probability, label = max(zip(probabilities, labels, strict=True))
        print(f"{label}\t{probability:.4f}")


def print_label_sets(network, tokenizer, texts):
    """Prints the labels of each text, a line for each text, with their probabilities."""
    thresholds = read_labels()  # {label: the least probability of those that have it}
    for probabilities in sigmoid(network(encode(tokenizer, texts))):
        pairs = zip(thresholds.items(), probabilities, strict=True)
        found = [f"{label}\t{p:.4f}" for (label, threshold), p in pairs if p >= threshold]
        print("\t".join(found) or "-")


def print_values(network, tokenizer, texts):
    """Prints the value of each text."""
    for (value,) in to_list(network(encode(tokenizer, texts))):
        print(f"{value:.4f}")


def places_of(row, segment):
    """Returns where the tokens of the first (0) or second (1) text stand in a row."""
    return [place for place, of_token in enumerate(row.sequence_ids) if of_token == segment]


def best_rows(rows, segment):
    """Returns {a token's characters: number of the row in which it is farthest from an edge}."""
    found = {}
    for number, row in enumerate(rows):
        places = places_of(row, segment)
        for place in places:
            distance = min(place - places[0], places[-1] - place)
            if distance > found.get(row.offsets[place], (-1, 0))[0]:
                found[row.offsets[place]] = distance, number
    return {characters: number for characters, (_, number) in found.items()}


def print_words(network, tokenizer, texts):
    """Prints each word of each text with its label and its probability, a blank line after a text.

    A long text is several rows; of these that one counts in which a word has the most context.
    """
    labels = read_labels()
    for text in texts:
        encoding = tokenizer.encode(text)
        rows = [encoding, *encoding.overflowing]
        row_of, first_tokens, words = best_rows(rows, 0), {}, {}
        for n, of_row in enumerate(softmax(network(features_of(rows)))):
            row, places = rows[n], places_of(rows[n], 0)
            for word in dict.fromkeys(row.word_ids[place] for place in places):
                tokens = [place for place in places if row.word_ids[place] == word]
                begin, end = row.offsets[tokens[0]][0], row.offsets[tokens[-1]][1]
                first = first_tokens.setdefault(word, row.offsets[tokens[0]])
                if row.offsets[tokens[0]] == first and row_of[first] == n:
                    words[word] = begin, end, [of_row[place] for place in tokens]
        for begin, end, of_tokens in words.values():
            if Geometry.word_aggregation == "first":
                probabilities = of_tokens[0]
            elif Geometry.word_aggregation == "average":
                means = (sum(each) / len(of_tokens) for each in zip(*of_tokens, strict=True))
                probabilities = list(means)
            else:
                probabilities = max(of_tokens, key=max)
            probability, label = max(zip(probabilities, labels, strict=True))
            print(f"{text[begin:end]}\t{label}\t{probability:.4f}")
        print()


def windows_of(tokenizer, question, text):
    """Returns the rows of a question and a text: one, or several where the text is longer."""
    tokenizer.no_truncation()
    ends = [end for _, end in tokenizer.encode(question, add_special_tokens=False).offsets]
    ends = ends[: Geometry.max_query_length]
    question = question[: ends[-1]] if ends else question
    room = Geometry.max_sequence_length - len(ends) - tokenizer.num_special_tokens_to_add(True)
    overlap = max(room - Geometry.window_stride, 0)
    length = Geometry.max_sequence_length
    tokenizer.enable_truncation(length, stride=overlap, strategy="only_second")
    encoding = tokenizer.encode(question, text)
    return [encoding, *encoding.overflowing]


def print_answers(network, tokenizer, pairs):
    """Prints the answer to each question in its text, and its probability among all spans."""
    for question, text in pairs:
        rows = windows_of(tokenizer, question, text)
        outputs = network(features_of(rows))
        starts, ends = to_list(outputs["start_logits"]), to_list(outputs["end_logits"])
        # (first character, the one after the last) -> start logit + end logit; (0, 0): no answer
        scores, row_of = {(0, 0): NO_SCORE}, best_rows(rows, 1)
        for n, row in enumerate(rows):
            places = places_of(row, 1)
            for place, first in enumerate(places):
                if row_of[row.offsets[first]] != n:
                    continue
                for last in places[place : place + Geometry.max_answer_length]:
                    span = row.offsets[first][0], row.offsets[last][1]
                    score = starts[n][first] + ends[n][last]
                    scores[span] = max(scores.get(span, NO_SCORE), score)
        if Geometry.may_be_unanswerable:  # the first token stands for no answer
            none = min(start[0] + end[0] for start, end in zip(starts, ends, strict=True))
            scores[0, 0] = none - Geometry.null_score_diff_threshold
        (begin, end), best = max(scores.items(), key=lambda item: item[1])
        probability = 1.0 / sum(math.exp(score - best) for score in scores.values())
        print(f"{text[begin:end] or '-'}\t{probability:.4f}")


def print_masked_words(network, tokenizer, texts):
    """Prints the likeliest words for each mask of each text, with their probabilities."""
    mask_id = tokenizer.token_to_id(Geometry.mask_token)
    for text in texts:
        row = tokenizer.encode(*text) if Geometry.texts_per_row == 2 else tokenizer.encode(text)
        outputs = network(features_of([row]))
        logits = outputs["mlm_logits"] if Geometry.has_next_sentence else outputs
        for token, of_token in zip(row.ids, softmax(logits)[0], strict=True):
            if token == mask_id:
                named = range(min(len(of_token), tokenizer.get_vocab_size()))
                best = sorted(named, key=of_token.__getitem__)[: -NUM_BEST - 1 : -1]
                words = [tokenizer.decode([n], skip_special_tokens=False).strip() for n in best]
                pairs = zip(words, best, strict=True)
                print("\t".join(f"{word} {of_token[n]:.4f}" for word, n in pairs))
        if Geometry.has_next_sentence and Geometry.texts_per_row == 2:
            follows, _ = softmax(outputs["nsp_logits"])[0]
            print(f"the second text follows\t{follows:.4f}")


ANSWERS = {
    "classes": print_classes,
    "label_sets": print_label_sets,
    "values": print_values,
    "words": print_words,
    "spans": print_answers,
    "masks": print_masked_words,
}


def main():
    parser = argparse.ArgumentParser(description="Prints what the network says of texts.")
    if Geometry.texts_per_row == 2:
        parser.add_argument("texts", nargs=2, metavar="TEXT", help="the two texts of a row")
        texts = [tuple(parser.parse_args().texts)]
    else:
        parser.add_argument("texts", nargs="+", metavar="TEXT", help="a text, for example '...'")
        texts = parser.parse_args().texts
    ANSWERS[Geometry.prints](load(), load_tokenizer(), texts)


if __name__ == "__main__":
    main()
