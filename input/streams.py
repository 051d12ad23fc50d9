# SPDX-License-Identifier: Apache-2.0
"""Rows of pre-training, which are read by position: from Params to their batches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from common.console import counted
from common.errors import UserError
from common.params.pretraining import RECORDS, REPLACED_TOKENS
from input.masking import GivenMasks, make_masking, mask_id_of, tokenize_with_masks
from input.prepare_data import prepare_data
from input.row_batches import every_row_once
from input.row_stores import TRAIN, VALIDATION, open_row_store
from input.rows import Origins, report_skipped
from input.stream_plan import PACKED, PADDED, StreamPlan
from input.streamed_batches import make_streamed_batches
from input.token_cache import tokenize_texts

NUM_LOOKED_AT = 1000  # rows, for what their tokens suggest


class StreamReader:
    """Reads a RowStore: documents, or records. Its methods are those of TextReader."""

    def __init__(self, targets, read):
        del targets  # masking makes them
        self._read = read

    def contents(self, params):
        inputs = {TRAIN: params.train_input}
        if params.runconfig.mode == "train_and_eval":
            inputs[VALIDATION] = params.eval_input
        read = self._read
        return {n: open_row_store(cfg, n, *read(cfg)).content for n, cfg in inputs.items()}

    def batches_per_epoch(self, params):
        return self._training_rows(params)[1] // params.train_input.batch_size

    def _training_rows(self, params):
        """Returns the RowStore to train on, and how many of its rows are used.

        Raises UserError where they fill no batch.
        """
        cfg, accumulation = params.train_input, params.optimizer.accumulation
        store = open_row_store(cfg, TRAIN, *self._read(cfg))
        num_rows = min(len(store), cfg.max_train_samples or len(store))
        needed = cfg.batch_size if cfg.repeat else cfg.batch_size * accumulation.at(0)
        if num_rows < needed:
            raise UserError(
                f"train_input.batch_size is {cfg.batch_size}, but the data gives only {num_rows} "
                "rows; choose a batch size of at most that"
            )
        return store, num_rows

    def train_batches(self, params, first_step, last_step):
        cfg, accumulation = params.train_input, params.optimizer.accumulation
        store, _ = self._training_rows(params)
        _report(store, TRAIN, params)
        tokenizer, layout = self._read(cfg)
        layout = _layout_of(store, layout)
        seed = params.shuffle_seed or 0
        of_plan = {"shuffle": cfg.shuffle, "seed": seed, "max_rows": cfg.max_train_samples}
        plan = _make_plan(params, cfg, store, layout, cfg.batch_size, **of_plan)
        if not cfg.repeat:
            last_step = min(last_step, accumulation.whole_steps(0, plan.steps_per_epoch))
        sample = store.read(np.arange(min(NUM_LOOKED_AT, len(store))))
        steps = map(accumulation.batches, (first_step, max(first_step, last_step)))
        mask, notes = _masks_of(store, tokenizer, cfg, seed), tokenizer.notes_on_case(sample.ids)
        return make_streamed_batches(plan, tokenizer, *steps, False, layout, mask, notes=notes)

    def eval_batches(self, params, cfg):
        tokenizer, layout = self._read(cfg)
        store = open_row_store(cfg, VALIDATION, tokenizer, layout)
        _report(store, VALIDATION, params)
        layout = _layout_of(store, layout)
        max_rows = min(cfg.max_eval_samples or len(store), len(store))
        batch_size = min(cfg.batch_size, max_rows)
        of_plan = {"shuffle": False, "has_every_row": True, "max_rows": max_rows}
        plan = _make_plan(params, cfg, store, layout, batch_size, **of_plan)
        mask = _masks_of(store, tokenizer, cfg, 0)  # the same masks in every evaluation
        steps = 0, plan.steps_per_epoch
        return {VALIDATION: make_streamed_batches(plan, tokenizer, *steps, True, layout, mask)}

    def predict_batches(self, params, texts):
        """Returns {"texts": Batches} of texts with [MASK]s, whose places the features have."""
        if not texts:
            raise UserError(
                "task: pretraining predicts the [MASK]s of texts, or with pretraining_objective: "
                "replaced_tokens which tokens were replaced; give some with --text or --input_file"
            )
        cfg = params.predict_input
        if cfg.packing != "none":  # a packed row would have the [MASK]s of several texts
            cfg = cfg.model_copy(update={"packing": "buckets"})
        tokenizer, layout = self._read(cfg)
        origins = Origins(texts)
        if params.model.pretraining_objective == REPLACED_TOKENS:
            cfg = cfg.model_copy(update={"packing": "none"})  # each row has an answer a token
            tokens = tokenize_texts(texts, tokenizer)
            plain = every_row_once(params, cfg, tokens, tokenizer, layout)
            return {"texts": replace(plain, origins=lambda: origins)}
        tokens = tokenize_with_masks(texts, tokenizer)
        mask = tokenizer.mask_token
        counts, notes = [sum(text.count(mask) for text in row) for row in texts], []
        if without := counts.count(0):
            rows = counted(len(texts), "row")
            notes = [f"{without:,} of {rows} without {mask}: nothing to fill in"]
        find = GivenMasks(mask_id_of(tokenizer), max(counts))
        plain = every_row_once(params, cfg, tokens, tokenizer, layout)

        def add_positions(features, targets, weights):
            return *find(features, targets, 0, None), weights

        with tf.device("/cpu:0"):
            dataset = plain.dataset.map(add_positions)
        return {"texts": replace(plain, dataset=dataset, origins=lambda: origins, notes=notes)}

    def summarize(self, params, batches_of_split):
        del params
        return [batches.summary(split) for split, batches in batches_of_split.items()]

    def texts_per_row(self, cfg):
        """Returns 1: a text with [MASK]s, for the model card. No export has its graph."""
        del cfg
        return 1

    def describe(self, cfg):
        if cfg.data_processor in RECORDS:
            folders = [cfg.data_dir] if isinstance(cfg.data_dir, str) else cfg.data_dir
            return f"records in {', '.join(Path(folder).name for folder in folders)}"
        paths = (cfg.train_documents or ()) + (cfg.eval_documents or ())
        names = [Path(path).name for path in paths] or ["prepared rows"]
        what = ", ".join(names) if cfg.dataset is None else cfg.dataset
        return f"documents in {what}, sentence pairs: {cfg.sentence_pairs}"

    def with_file(self, cfg, path):
        """Returns None: a file to predict has texts."""
        del cfg, path

    def data_report(self, params, sizes, folder, with_texts):
        """Refuses `--mode data_report`, with a UserError."""
        del sizes, folder, with_texts
        raise UserError(
            f"--mode data_report is for rows with labels, but task is {params.task}, whose "
            "documents --mode prepare_data describes, with their duplicates"
        )

    def prepare_data(self, params):
        """Makes what a training reads, ahead of it. Returns the Result."""
        return prepare_data(params, self._read)


def _report(store, split, params):
    if store.skipped:
        report_skipped(store.skipped, split, params.runconfig.model_dir)


def _masks_of(store, tokenizer, cfg, seed):
    """Returns what masks the rows of a store, or puts their own masks in place."""
    return make_masking(tokenizer, cfg, seed) if store.masks is None else store.masks


def _layout_of(store, layout):
    """The layout without special tokens, where the rows of a store have them already."""
    return replace(layout, add_special_tokens=False) if store.has_special_tokens else layout


def _make_plan(params, cfg, store, layout, batch_size, **of_plan):
    """Returns the StreamPlan that `packing` asks for."""
    num_special = layout.num_special_tokens(store.texts_per_row)
    run, size = params.runconfig, (store, batch_size, num_special)
    lengths = [cfg.max_sequence_length] if cfg.packing == "none" else cfg.bucket_lengths
    if cfg.packing == "auto" and not run.is_distributed:
        hidden_size = params.model.hidden_size
        packed = StreamPlan(*size, PACKED, None, cfg.num_buckets, **of_plan)
        padded = StreamPlan(*size, PADDED, lengths, cfg.num_buckets, **of_plan)
        return min(packed, padded, key=lambda plan: plan.num_products(hidden_size))
    if cfg.packing == "packed":
        return StreamPlan(*size, PACKED, None, cfg.num_buckets, **of_plan)
    return StreamPlan(*size, PADDED, lengths, cfg.num_buckets, **of_plan)
