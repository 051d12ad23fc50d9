# SPDX-License-Identifier: Apache-2.0
"""`vocabulary`: the texts, the algorithm and the entries of a vocabulary; a file of its own.

`--mode train_vocab` reads a file with this section and, if need be, `runconfig.model_dir`.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from common.params.values import (
    Character,
    Count,
    CourseKey,
    Name,
    Names,
    Path,
    PathList,
    Section,
    Switch,
    Whole,
    as_yaml,
    refusal,
    to_names,
)

WORDPIECE, BYTE_BPE = "wordpiece", "byte_bpe"
# BERT's and RoBERTa's, each in the order of its published vocabulary. The first is padding in
# BERT's.
SPECIAL_TOKENS = {
    WORDPIECE: ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    BYTE_BPE: ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
}
BERT_VOCAB_SIZE = 30_522
NUM_UNUSED = 99  # between [PAD] and [UNK], which then have the ids 0 and 100 as in BERT's


# Above any vocabulary: ten times the largest of published networks. The trainer takes memory for as
# many entries as it is told, and ends the process where there is none.
MAX_ENTRIES = 10_000_000
Entries = Annotated[Count, Field(le=MAX_ENTRIES)]


class TrainerParams(Section):
    """What a vocabulary is to be, whatever its texts."""

    algorithm: Literal["wordpiece", "byte_bpe"] = CourseKey(
        WORDPIECE,
        "`wordpiece`: BERT's pieces of words. `byte_bpe`: byte-level BPE, as RoBERTa has.",
    )
    vocab_size: Entries | None = CourseKey(
        None,
        f"Number of entries, with special tokens and unused ones. Not given: {BERT_VOCAB_SIZE:,}, "
        "as BERT's.",
    )
    min_frequency: Count = CourseKey(
        2,
        "Pairs of pieces that are rarer in the texts are not joined to a longer piece; with "
        "extend_vocab_file, words that are rarer are not added.",
    )
    limit_alphabet: Count = CourseKey(
        1000,
        "Characters at most, the most frequent ones; words with others are [UNK]. Chinese needs "
        "5,000 and more. Not for `byte_bpe`, which has bytes.",
    )
    do_lower: Switch | None = CourseKey(
        None,
        "Lower-case the texts; with `wordpiece`, strip accents, too. Not given: true for "
        "`wordpiece`.",
    )
    special_tokens: Annotated[tuple[Name, ...], BeforeValidator(to_names)] | None = CourseKey(
        None,
        "Entries that stand for no text, in the order of their ids; the algorithm's own, and "
        "further ones. Not given: its own, such as `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]`.",
    )
    num_unused: Annotated[Whole, Field(le=MAX_ENTRIES)] | None = CourseKey(
        None,
        "Number of entries [unusedN], in whose place words can be put later. The first 99 stand "
        f"between [PAD] and [UNK], as in BERT's. Not given: {NUM_UNUSED} for `wordpiece`.",
    )

    @model_validator(mode="after")
    def check_special_tokens(self):
        given, own = self.special_tokens, SPECIAL_TOKENS[self.algorithm]
        missing = [token for token in own if given is not None and token not in given]
        if missing:
            raise refusal(
                f"is {as_yaml(list(given))}, without {', '.join(missing)}, which "
                f"{self.algorithm} needs; add them",
                "special_tokens",
            )
        if given is not None and len(set(given)) < len(given):
            raise refusal(f"is {as_yaml(list(given))}, with a token twice", "special_tokens")
        if given is not None and self.algorithm == WORDPIECE and given[0] != own[0]:
            text = f"begins with {given[0]}; put {own[0]} first, as BERT has"
            raise refusal(text, "special_tokens")
        if self.algorithm == BYTE_BPE and self.num_unused:
            text = f"is {self.num_unused}, but byte_bpe has none; leave it out"
            raise refusal(text, "num_unused")
        return self

    @property
    def lowers(self):
        return self.algorithm == WORDPIECE if self.do_lower is None else self.do_lower

    @property
    def special(self):
        return self.special_tokens or SPECIAL_TOKENS[self.algorithm]

    @property
    def unused(self):
        default = NUM_UNUSED if self.algorithm == WORDPIECE else 0
        return default if self.num_unused is None else self.num_unused

    @property
    def size(self):
        return self.vocab_size or BERT_VOCAB_SIZE


class VocabularyParams(TrainerParams):
    """The section `vocabulary`."""

    # The texts
    train_files: PathList | None = CourseKey(
        None,
        "Texts to train on: files, folders, or patterns such as `corpus/*.txt`. Plain text, a text "
        "a line; JSON Lines, CSV and TSV by their endings.",
    )
    eval_files: PathList | None = CourseKey(
        None, "Texts that are held out, to report how well the vocabulary covers them."
    )
    text_columns: Names | None = CourseKey(
        None, "Keys of JSON Lines, and columns of CSV and TSV, that hold texts. Not given: `text`."
    )
    delimiter: Character | None = CourseKey(
        None, "Character between the columns of CSV and TSV. Not given: `,` and a tab."
    )
    dataset: str | None = CourseKey(
        None,
        "In place of train_files: name of a data set of TensorFlow Datasets, such as glue/sst2.",
        min_length=1,
    )
    data_dir: Path | None = CourseKey(None, "Folder of the data set.")
    text_keys: Names | None = CourseKey(
        None, "Features of the data set that hold texts. Not given: `text`."
    )
    train_split: Name = CourseKey("train", "Split of the data set to train on.")
    eval_split: Name | None = CourseKey(None, "Split of the data set that is held out.")

    # New words in an existing vocabulary
    extend_vocab_file: Path | None = CourseKey(
        None,
        "Vocabulary, such as BERT's vocab.txt, to which the words of the texts are added that it "
        "cuts into most pieces. Not given: a new vocabulary is trained.",
    )
    max_new_words: Count = CourseKey(1000, "Number of words to add at most.")
    new_words_at: Literal["unused", "end"] = CourseKey(
        "unused",
        "Where they are put: in place of the entries [unusedN], as many as there are, or behind "
        "all entries, which lengthens the table of embeddings.",
    )

    # The outcome
    output_dir: Path | None = CourseKey(
        None, "Folder for the vocabulary. Not given: vocab in model_dir."
    )
    compare_with: PathList | None = CourseKey(
        None, "Vocabulary files, such as BERT's, that are measured on the held-out texts, too."
    )

    @model_validator(mode="after")
    def check_texts(self):
        if (self.train_files is None) == (self.dataset is None):
            what = "neither is given" if self.dataset is None else "both are given"
            raise refusal(f"train_files, dataset: {what}; write one of the two")
        if self.dataset is not None and self.data_dir is None:
            raise refusal("not given; write the folder of the data set", "data_dir")
        if self.dataset is None and self.eval_split is not None:
            raise refusal("given without dataset; write eval_files", "eval_split")
        return self

    @model_validator(mode="after")
    def check_extension(self):
        if self.extend_vocab_file is None:
            return self
        given = {"vocab_size", "special_tokens", "num_unused", "limit_alphabet"}
        given &= self.model_fields_set
        if self.algorithm != WORDPIECE:
            raise refusal(
                f"is {self.algorithm}, but extend_vocab_file extends WordPiece; leave it out",
                "algorithm",
            )
        if given:
            text = "of a new vocabulary, but extend_vocab_file is given; leave out one or the other"
            raise refusal(text, *sorted(given))
        return self


class VocabularyRunParams(Section):
    """The section `runconfig` of such a file."""

    model_dir: Path | None = CourseKey(
        None, "Folder whose subfolder vocab is the default of output_dir. Usually --model_dir."
    )


class VocabularyFile(Section):
    """A whole file for `--mode train_vocab`."""

    vocabulary: VocabularyParams = CourseKey(..., "The vocabulary.")
    runconfig: VocabularyRunParams = CourseKey(VocabularyRunParams(), "Where it is written.")
