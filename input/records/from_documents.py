# SPDX-License-Identifier: Apache-2.0
"""From the keys of an input of documents to files of records."""

from pathlib import Path

from common.errors import RunError
from input.prepared.shard import documents_of
from input.records.write import GOOGLE, MLM_ONLY, RecordSettings, write_records
from input.row_stores import SHORT_SEQ_PROB, open_corpus, row_settings
from input.sources.documents import Found, split_sentences

DUPE_FACTOR = 10  # google-research/bert create_pretraining_data.py


def write_records_of(cfg, split, tokenizer, layout):
    """Writes the records of a split into its folder in prepared_dir. Returns Written.

    Raises:
        UserError: documents cannot be used.
        RunError: the folder cannot be written.
    """
    folder, corpus = Path(cfg.prepared_dir, split), open_corpus(cfg, split)
    settings = row_settings(cfg, split, tokenizer, layout)
    is_by_punctuation = cfg.sentence_boundary == "punctuation"

    def documents():
        for number in range(len(corpus.shards)):
            for document in documents_of(corpus, number, settings, Found(), with_places=False):
                lines = document.lines
                yield split_sentences(b" ".join(lines)) if is_by_punctuation else lines

    try:
        return write_records(documents(), tokenizer, record_settings(cfg), folder)
    except OSError as error:
        raise RunError(
            f"{folder}: records cannot be written: {error.strerror or error}; those that were "
            "there stay as they were"
        ) from error


def record_settings(cfg):
    """Returns the RecordSettings of an input."""
    is_unmasked = cfg.disable_masking
    return RecordSettings(
        max_sequence_length=cfg.max_sequence_length,
        max_predictions_per_seq=cfg.num_predictions,
        masked_lm_prob=cfg.masked_lm_prob,
        mask_whole_word=cfg.mask_whole_word,
        dupe_factor=cfg.dupe_factor or (1 if is_unmasked else DUPE_FACTOR),
        short_seq_prob=SHORT_SEQ_PROB if cfg.short_seq_prob is None else cfg.short_seq_prob,
        min_short_seq_length=cfg.min_short_seq_length,
        random_seed=cfg.random_seed,
        records=MLM_ONLY if cfg.sentence_pairs == "none" else GOOGLE,
        overlap_size=cfg.overlap_size,
        buffer_size=cfg.buffer_size,
        allow_cross_document_examples=cfg.allow_cross_document_examples,
        document_separator_token=cfg.document_separator_token,
        disable_masking=is_unmasked,
        num_output_files=cfg.num_output_files,
    )
