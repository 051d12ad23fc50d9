# SPDX-License-Identifier: Apache-2.0
"""From the keys of an input to its RowStore: rows that pre-training reads by position."""

import os
from functools import partial
from pathlib import Path

from common.errors import UserError
from common.files import cache_dir
from common.params.pretraining import RECORDS
from input.prepared.prepare import MANIFEST, Job, check_meaning, open_blocks, prepare, read_manifest
from input.prepared.shard import RowSettings
from input.prepared.workers import map_unordered
from input.sources.documents import TextCorpus
from input.sources.pretraining_records import PretrainingRecords

TRAIN, VALIDATION = "train", "validation"
MAX_PROCESSES = 4  # by default: two take 1.0 GB with the run itself, and each further one 0.2
SHORT_SEQ_PROB = 0.1  # of pairs, as google-research/bert


def open_row_store(cfg, split, tokenizer, layout):
    """Returns the RowStore of a split, which is prepared if it is not.

    Args:
        cfg: Train- or EvalInputParams of pre-training.
        split: TRAIN or VALIDATION.
        tokenizer: tokenizer of `cfg`.
        layout: Layout, whose special tokens a row has besides its texts.
    """
    if cfg.data_processor in RECORDS:
        return PretrainingRecords(cfg, tokenizer)
    folder, manifest = prepared_documents(cfg, split, tokenizer, layout)
    return open_blocks(folder, manifest, tokenizer.vocab_size)


def prepared_documents(cfg, split, tokenizer, layout, map_shards=map_unordered):
    """Returns the folder of the prepared documents of a split, and its manifest.

    map_shards: as `workers.map_unordered`.
    """
    job = Job(
        open_corpus(cfg, split),
        # A process of its own makes it anew: TensorFlow's tables cannot be passed on.
        partial(type(tokenizer), tokenizer.vocab, tokenizer.do_lower, tokenizer.source),
        tokenizer.fingerprint,
        row_settings(cfg, split, tokenizer, layout),
        cfg.duplicates,
        None if cfg.prepared_dir is None else Path(cfg.prepared_dir, split),
    )
    if job.corpus is not None:
        job = job.placed(Path(cfg.cache_dir or cache_dir()) / "prepared")
        return job.folder, prepare(job, num_processes_of(cfg), split, map_shards)
    manifest = None if job.folder is None else read_manifest(job.folder, is_own=False)
    if manifest is None:
        raise UserError(_without_documents(split, job.folder))
    check_meaning(manifest, job)
    return job.folder, manifest


def row_settings(cfg, split, tokenizer, layout):
    """Returns the RowSettings of an input."""
    has_pairs, separator_id = cfg.sentence_pairs != "none", None
    if cfg.allow_cross_document_examples:
        token = cfg.document_separator_token
        if token not in tokenizer.vocab:
            raise UserError(
                f"document_separator_token is {token!r}, which {tokenizer.source} has not; write "
                "one of its entries, such as [SEP]"
            )
        separator_id = tokenizer.vocab.index(token)
    short_seq_prob = cfg.short_seq_prob
    if short_seq_prob is None:
        short_seq_prob = SHORT_SEQ_PROB if has_pairs else 0.0
    room = cfg.max_sequence_length - layout.num_special_tokens(2 if has_pairs else 1)
    if room < 2:
        raise UserError(
            f"max_sequence_length is {cfg.max_sequence_length}, which leaves a row {room} tokens "
            "besides the special ones; write more"
        )
    return RowSettings(
        sentence_pairs=cfg.sentence_pairs,
        room=room,
        short_seq_prob=short_seq_prob,
        overlap=cfg.overlap_size,
        separator_id=separator_id,
        sentence_boundary=cfg.sentence_boundary,
        seed=cfg.pairing_seed,
        held_out_fraction=cfg.eval_fraction if split == TRAIN or cfg.scores_held_out else None,
        is_held_out=split == VALIDATION,
        min_duplicate_line=cfg.duplicate_line_length,
        looks_for_duplicates=cfg.duplicates == "report",
    )


def open_corpus(cfg, split):
    """Returns the documents of a split, or None where only a folder of prepared rows is named."""
    reads_training = split == TRAIN or cfg.scores_held_out
    if cfg.dataset is not None:
        from input.sources.tfds_documents import TfdsCorpus  # imports TensorFlow

        text_key = (cfg.text_keys or ("text",))[0]
        return TfdsCorpus(cfg.dataset, cfg.data_dir, TRAIN if reads_training else split, text_key)
    paths = cfg.train_documents if reads_training else cfg.eval_documents
    if paths is None:
        return None
    text_key = (cfg.text_columns or ("text",))[0]
    skips_bad_lines = cfg.on_bad_row == "skip"
    return TextCorpus(list(paths), text_key, cfg.document_boundary, skips_bad_lines)


def names_documents(cfg, split):
    """Whether an input says what the rows of a split are made of, or where they lie."""
    if split == TRAIN or cfg.scores_held_out or cfg.dataset or cfg.eval_documents:
        return True
    return cfg.prepared_dir is not None and Path(cfg.prepared_dir, split, MANIFEST).exists()


def num_processes_of(cfg):
    return cfg.num_processes or min(MAX_PROCESSES, len(os.sched_getaffinity(0)))


def _without_documents(split, folder):
    """Returns the refusal of an input that names neither documents nor prepared rows: str."""
    key = "train_documents" if split == TRAIN else "eval_documents"
    where = "" if folder is None else f", and {folder / MANIFEST} is not there"
    instead = "" if split == TRAIN else "; or eval_fraction, the share of documents to hold out"
    return f"{key} is not given{where}; write the path of text files or of their folder{instead}"
