# SPDX-License-Identifier: Apache-2.0
"""Files of a few texts to train on, for the tasks of rows, of words and of questions."""

import json
import random

WORDS = ("a", "an", "and", "dull", "fine", "film", "good", "bad", "plot", "joy", "dread", "warm")
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
VOCAB_SIZE = 32  # with entries that no text has
NUM_ROWS = {"train": 38, "eval": 10}

PROCESSORS = {
    "classification": "TextFileDataProcessor",
    "token_classification": "TaggedTextDataProcessor",
    "question_answering": "QuestionAnsweringDataProcessor",
}


def texts_of(count, generator):
    return [generator.choices(WORDS, k=generator.randrange(1, 10)) for _ in range(count)]


def rows(texts):
    """A table of texts that are good where they have joy."""
    lines = ["sentence\tlabel"]
    lines += [f"{' '.join(words)}\t{'good' if 'joy' in words else 'bad'}" for words in texts]
    return "\n".join(lines) + "\n"


def tagged(texts):
    """A CoNLL file: a film and what follows it is an entity, so is joy."""
    lines = []
    for words in texts:
        for before, word in zip([None, *words], words, strict=False):
            label = {"film": "B-work", "joy": "B-mood"}.get(word, "O")
            lines.append(f"{word}\t{'I-work' if before == 'film' and label == 'O' else label}")
        lines.append("")
    return "\n".join(lines)


def questions(texts):
    """SQuAD's JSON: each text is asked for its longest word, and is three texts long."""
    paragraphs = []
    for number, words in enumerate(texts):
        context = " ".join(words * 3)
        answer = max(words, key=len)
        answers = [{"text": answer, "answer_start": context.index(answer)}]
        asked = {"id": f"q{number}", "question": "a fine plot", "answers": answers}
        paragraphs.append({"context": context, "qas": [asked]})
    return json.dumps({"version": "1.1", "data": [{"title": "T", "paragraphs": paragraphs}]})


FILES = {
    "classification": (rows, "tsv"),
    "token_classification": (tagged, "conll"),
    "question_answering": (questions, "json"),
}


def make_task_data(folder, task):
    """Writes train and evaluation files and vocab.txt. Returns {key of *_input: value}."""
    write, suffix = FILES[task]
    generator = random.Random(0)
    keys = {"data_processor": PROCESSORS[task], "vocab_file": folder / "vocab.txt"}
    for name, count in NUM_ROWS.items():
        path = folder / f"{name}.{suffix}"
        path.write_text(write(texts_of(count, generator)), "utf-8")
        keys[f"{name}_file"] = path
    unused = [f"[unused{i}]" for i in range(VOCAB_SIZE - len(VOCAB))]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in [*VOCAB, *unused]), "utf-8")
    if task == "classification":
        keys["text_columns"] = "sentence"
    return keys
