# SPDX-License-Identifier: Apache-2.0
"""The keys of an input that say how `--mode prepare_data` writes pre-training records."""

from functools import partial

from common.params.pretraining import TASK, MaskingKeys
from common.params.values import Count, CourseKey, Section, Switch, Whole, as_yaml

WriterKey = partial(CourseKey, task=TASK)
# What google-research/bert draws in one way alone.
FIXED = ("max_ngram", "mask_replace_prob", "random_replace_prob", "random_tokens")


class WriterKeys(Section):
    """The keys of `data_processor: DocumentDataProcessor` about records."""

    # Records to write (pre-training)
    write_records: Switch = WriterKey(
        False,
        "With --mode prepare_data: write records into prepared_dir that Google's and the "
        "original's programs read, in place of rows for this one. With `sentence_pairs: next` they "
        "are Google's draw for draw; with none they hold one text each, as the original's.",
    )
    dupe_factor: Count | None = WriterKey(
        None,
        "How often each document is written, with other masks. Not given: 10; with "
        "disable_masking 1.",
    )
    random_seed: Whole = WriterKey(12345, "Seed of all that is drawn for the records.")
    min_short_seq_length: Count | None = WriterKey(
        None,
        "Tokens of the shortest texts of short_seq_prob. Not given: 2 more than overlap_size.",
    )
    buffer_size: Count = WriterKey(
        1_000_000,
        "With `sentence_pairs: none`, documents of so many tokens are shuffled together.",
    )
    disable_masking: Switch = WriterKey(
        False,
        "With `sentence_pairs: none`, write tokens without masks, for "
        "BertMlmOnlyTfRecordsDynamicMaskProcessor.",
    )
    num_output_files: Count = WriterKey(
        10, "Files among which the records are dealt, examples-1.tfrecords and so on."
    )


def writer_faults(section):
    """Yields (key, text) of the rules between WriterKeys and the other keys of an input."""
    if not section.write_records:
        return
    if section.prepared_dir is None:
        yield "prepared_dir", "not given; write_records needs the folder to write to"
    if section.sentence_pairs == "order":
        text = "is order, but records hold pairs of texts that follow, or single texts; write next"
        yield "sentence_pairs", f"{text} or none"
    if section.disable_masking and section.sentence_pairs != "none":
        text = f"goes with sentence_pairs: none, but that is {section.sentence_pairs}"
        yield "disable_masking", f"{text}; leave it out"
    for key in FIXED:
        value = getattr(section, key)
        if value != MaskingKeys.model_fields[key].default:
            text = f"is {as_yaml(value)}, but records are masked as by Google's program; leave it"
            yield key, f"{text} out"
