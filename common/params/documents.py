# SPDX-License-Identifier: Apache-2.0
"""The keys of an input that say which documents pre-training reads, and which rows they become."""

from typing import Literal

from common.params.pretraining import PretrainingKey
from common.params.values import (
    Count,
    CourseKey,
    Path,
    PathList,
    Probability,
    Section,
    Switch,
    Whole,
)

DOCUMENTS = "DocumentDataProcessor"


class DocumentKeys(Section):
    """The keys of `data_processor: DocumentDataProcessor`."""

    # Documents (pre-training)
    train_documents: PathList | None = PretrainingKey(
        None,
        "Documents to train on: files, globs or folders. In .jsonl files each line holds a "
        "document, a text or a list of paragraphs, under the key that text_columns names (not "
        "given: text); other files are running text.",
        names_data=True,
    )
    eval_documents: PathList | None = PretrainingKey(
        None,
        "Documents to score. Not given: those that eval_fraction holds out of train_documents.",
        names_data=True,
    )
    document_boundary: Literal["blank_line", "file"] = PretrainingKey(
        "blank_line",
        "What ends a document of running text. blank_line: a blank line or the end of the file. "
        "file: only that.",
    )
    sentence_boundary: Literal["line", "punctuation"] = PretrainingKey(
        "line",
        "What ends a sentence. line: the end of a line; the only line of a document is cut as by "
        "punctuation. punctuation: . ! or ? before a blank and a capital or digit; lines are "
        "joined first.",
    )
    sentence_pairs: Literal["next", "order", "none"] = PretrainingKey(
        "next",
        "What a row holds. next: two texts, of which the second follows the first or comes from "
        "another document, as in BERT. order: two texts that follow one another, or are swapped, "
        "as in ALBERT. none: one text, which needs model.disable_nsp.",
    )
    pairing_seed: Whole = PretrainingKey(
        0, "Seed of what is drawn for the rows. Each has other masks in every epoch all the same."
    )
    short_seq_prob: Probability | None = PretrainingKey(
        None,
        "How often the texts of a document, or a single text, are shorter than fits, of a random "
        "length. Not given: 0.1 with pairs, 0 without.",
    )
    overlap_size: Whole = PretrainingKey(
        0,
        "With `sentence_pairs: none`, how many tokens of a row the next one of the document has, "
        "too.",
    )
    allow_cross_document_examples: Switch = PretrainingKey(
        False,
        "With `sentence_pairs: none`, fill each row up with the next document, after "
        "document_separator_token.",
    )
    duplicates: Literal["keep", "report", "remove"] = PretrainingKey(
        "report",
        "What happens to documents and long lines that are the same as earlier ones. report: they "
        "are counted. remove: they are left out, which reads the documents twice. keep: they are "
        "not looked for.",
    )
    duplicate_line_length: Count = PretrainingKey(
        100, "Characters from which on a line is long enough to be looked for as a duplicate."
    )
    prepared_dir: Path | None = CourseKey(
        None,
        "Folder of the prepared rows, with a folder for training and one for evaluation in it; "
        "where they are, train_documents may be left out. Not given: in cache_dir.",
        task="pretraining",
    )
    num_processes: Count | None = CourseKey(
        None,
        "Processes that prepare rows. Not given: one for each processor core, up to 4, and for "
        "each 32 MB of text.",
        task="pretraining",
    )


def document_faults(section, is_training):
    """Yields (key, text) of the rules between DocumentKeys of an input with that data_processor.

    is_training: bool. Whether it is train_input.
    """
    given = section.train_documents or section.dataset or section.prepared_dir
    if is_training and not given:
        text = f"not given; {DOCUMENTS} needs it, or dataset, or prepared_dir"
        yield "train_documents", text
    if section.train_documents and section.dataset:
        yield "dataset", "given with train_documents; leave one of the two out"
    if section.dataset and not section.data_dir:
        yield "data_dir", "not given; dataset needs it"
    if section.text_columns and len(section.text_columns) > 1:
        yield "text_columns", f"has {len(section.text_columns)} names; a document has one text"
    if section.text_keys and len(section.text_keys) > 1:
        yield "text_keys", f"has {len(section.text_keys)} names; a document has one text"
    if section.sentence_pairs == "none":
        room = section.max_sequence_length - 2
        if section.overlap_size >= room:
            text = f"{section.overlap_size} is as much as a row of {room} tokens holds"
            yield "overlap_size", f"{text}; write less"
        return
    for key in ("overlap_size", "allow_cross_document_examples"):
        if getattr(section, key):
            text = f"goes with sentence_pairs: none, but that is {section.sentence_pairs}"
            yield key, f"{text}; leave it out"
