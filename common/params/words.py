# SPDX-License-Identifier: Apache-2.0
"""The keys that only tasks which answer for words have: token classification, question answering.

The sections take them as a base class. A data processor of PROCESSORS implies the task.
"""

from functools import partial
from typing import Literal

from common.params.values import Count, Key, Number, Path, Positive, Probability, Section, Switch

TAGGING = "token_classification"
TAGGED_FILES = "TaggedTextDataProcessor"
TAGGED_RECORDS = "NerDataProcessor"  # the original's
PROCESSORS = (TAGGED_FILES, TAGGED_RECORDS)
ANSWERING = "question_answering"
QUESTION_FILES = "QuestionAnsweringDataProcessor"
QUESTION_PROCESSORS = (QUESTION_FILES,)
TASKS = (TAGGING, ANSWERING)
TFDS = "TfdsDataProcessor"  # which both read, too; it implies no task
DEFAULT_STRIDE = 128  # of question answering, as in run_squad.py
MOST_SPECIAL = 4  # special tokens of a row of two texts: RoBERTa's

DataKey = partial(Key, compiled=False)  # programs depend on shapes of batches
WordKey = partial(DataKey, task=TAGGING)
QuestionKey = partial(DataKey, task=ANSWERING)
HeadKey = partial(Key, task=TAGGING, from_pretraining=False)
SpanKey = partial(Key, task=ANSWERING, from_pretraining=False)
# What is made of logits.
AnswerKey = partial(SpanKey, changes="where and how long", compiled=False)


class WordKeys(Section):
    """The keys of an input of words."""

    # Words (token classification)
    window_stride: Count | None = DataKey(
        None,
        "A text longer than max_sequence_length becomes windows, of which each begins that many "
        "tokens after the one before; each word is trained on, scored and predicted in the one "
        "where it is farthest from an edge. Not given: half of a row's tokens; with task: "
        f"question_answering, {DEFAULT_STRIDE}.",
        task=(TAGGING, ANSWERING),
    )
    labeled_pieces: Literal["first", "all"] = WordKey(
        "first",
        "The tokens of a word that are trained to have its label: the first, or all. The others "
        "have none.",
    )
    label_vocab_file: Path | None = WordKey(
        None,
        "The names and ids of the labels of NerDataProcessor's records, a JSON file. Not given, or "
        "the vocabulary: label2id.json beside the records.",
        only_with={"data_processor": (TAGGED_RECORDS,)},
        same_in_inputs="always",
    )
    tag_scheme: Literal["IOB1", "IOB2", "IOBES"] | None = WordKey(
        None,
        "The scheme of the labels, which is checked, and in which the labels of spans are written. "
        "Not given: IOBES where labels begin with E- or S-, else IOB2. Labels without O, such as "
        "parts of speech, are of no scheme.",
        same_in_inputs="always",
    )

    # Questions
    data_file: Path | None = QuestionKey(
        None,
        "The original's name of train_file in train_input, and of eval_file elsewhere.",
        names_data=True,
    )
    max_query_length: Count = QuestionKey(
        64,
        "Tokens of the longest question, at most half of a row; a longer one is cut, which is "
        "told, and its text never is.",
    )
    version_2_with_negative: Switch = QuestionKey(
        False,
        "There are questions without an answer in their text, as in SQuAD 2.0, and no answer is "
        "one.",
        same_in_inputs="always",
    )

    @property
    def longest_question(self):
        """Tokens of a question in a row: its text has at least as many, whatever the tokenizer."""
        return min(self.max_query_length, (self.max_sequence_length - MOST_SPECIAL) // 2)


def word_faults(section):
    """Yields (key, text) of what does not fit the task in an input of words."""
    wanted = {TAGGING: (1, "that of the words"), ANSWERING: (2, "[question, context]")}
    number, meaning = wanted.get(section.task, (None, ""))
    for key in ("text_keys", "text_columns"):
        names = getattr(section, key)
        if number is not None and names is not None and len(names) != number:
            yield key, f"has {len(names)} for task: {section.task}, which takes {number}: {meaning}"
    least = MOST_SPECIAL + 2  # a token of the question, and one of its text
    if section.task == ANSWERING and section.max_sequence_length < least:
        text = f"is {section.max_sequence_length}, which has no room for a question and its text"
        yield "max_sequence_length", f"{text}; write {least} or more"
    if section.data_file is not None:
        text = f"goes with {QUESTION_FILES}, where neither train_file nor eval_file is given"
        yield "data_file", f"{text}; leave it out"


def named_files(section, name):
    """Returns an input as the file has it, dict, with data_file under its name here.

    name: str, train_input or another one.
    """
    key = "train_file" if name == "train_input" else "eval_file"
    is_asked = section.get("data_processor", QUESTION_FILES) == QUESTION_FILES
    if not is_asked or section.get("data_file") is None or section.get(key) is not None:
        return section
    return section | {key: section["data_file"], "data_file": None}


class WordHeadKeys(Section):
    """The keys of the network's head for words."""

    # Token classification
    encoder_output_dropout_rate: Probability = HeadKey(
        0.1, "Dropout of the token vectors before the dense layer of token classification."
    )
    loss_weight: Positive | None = HeadKey(
        None,
        "If given, the loss of a batch is the sum over its labelled tokens, times this, divided by "
        "its rows, as in the original, where it is 1 / (labelled tokens in a row). Not given: "
        "the mean over the labelled tokens.",
    )
    word_aggregation: Literal["first", "average", "max"] = HeadKey(
        "first",
        "The label of a word of several tokens: the likeliest of its first token; of the mean of "
        "their probabilities; of its surest token.",
        changes="where and how long",
        compiled=False,
    )

    # Question answering
    qa_loss: Literal["mean", "sum"] = SpanKey(
        "mean",
        "The losses of start and end are averaged, or added, as in the original.",
    )
    span_softmax: Literal["tokens", "row"] = SpanKey(
        "tokens",
        "Whose probabilities sum to 1: the tokens of a row, or with its padding, as Google's and "
        "Hugging Face's programs have it.",
    )
    n_best_size: Count = AnswerKey(
        20, "Starts and ends that are tried in a window, and answers that are kept of a question."
    )
    max_answer_length: Count = AnswerKey(30, "Tokens of the longest answer.")
    null_score_diff_threshold: Number | None = AnswerKey(
        None,
        "With version_2_with_negative, a question has no answer where the score of none exceeds "
        "that of the best by more. null: what tune_thresholds found, or else 0.",
    )
