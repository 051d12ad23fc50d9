# SPDX-License-Identifier: Apache-2.0
"""Tokens of rows -> their Batches, by the plan that `packing` asks for."""

from dataclasses import replace

import numpy as np

from input.batches import make_batches, make_packed_batches, row_lengths
from input.epoch_plan import EpochPlan, choose_bucket_lengths
from input.packing import PackedPlan, choose_lengths, num_products, pack_every_row


def steps_of_training(params, tokens, tokenizer, layout, first_step, last_step):
    """Returns the Batches of the training steps first_step <= step < last_step."""
    cfg, accumulation = params.train_input, params.optimizer.accumulation
    plan = _plan(cfg, tokens, layout, cfg.shuffle, params.shuffle_seed or 0)
    num_per_epoch = plan.steps_per_epoch
    if not cfg.repeat:
        last_step = min(last_step, accumulation.whole_steps(0, num_per_epoch))
    steps = accumulation.batches(first_step), accumulation.batches(last_step)
    packed = _packed_plan(params, plan)
    make, plan = (make_batches, plan) if packed is None else (make_packed_batches, packed)
    plan, size = plan.steps(*steps), cfg.max_sequence_length
    batches = make(tokens, tokenizer, *plan, size, with_weights=False, layout=layout)
    return replace(batches, num_per_epoch=num_per_epoch)


def shapes_of_epoch(params, tokens, layout):
    """Returns the shapes of the batches of the first epoch of training: int [steps, 2]."""
    cfg = params.train_input
    plan = _plan(cfg, tokens, layout, cfg.shuffle, params.shuffle_seed or 0)
    packed = _packed_plan(params, plan)
    if packed is not None:
        return packed.steps(0, plan.steps_per_epoch)[-1]
    rows, lengths = plan.epoch(0)
    return np.stack([np.full_like(lengths, rows.shape[1]), lengths], axis=1)


def every_row_once(params, cfg, tokens, tokenizer, layout):
    """Returns the Batches of all rows, to score or predict. cfg: InputParams."""
    plan = _plan(cfg, tokens, layout, shuffle=False, seed=0)
    rows, lengths = plan.epoch(0, drop_remainder=False)
    # The longest first, so that of several streams none is left with a long batch at the end.
    make, arrays = make_batches, (rows[::-1], lengths[::-1])
    if cfg.packing in ("packed", "auto"):
        packed = pack_every_row(plan.row_lengths, plan.batch_size)
        if cfg.packing == "packed" or _computes_less(params, packed[-1], rows, lengths):
            make, arrays = make_packed_batches, packed
    size = cfg.max_sequence_length
    return make(tokens, tokenizer, *arrays, size, with_weights=True, layout=layout)


def _plan(cfg, tokens, layout, shuffle, seed):
    lengths = row_lengths(tokens, cfg.max_sequence_length, layout)
    batch_size = min(cfg.batch_size, len(tokens))  # no filler rows for a few texts to predict
    if cfg.packing == "none":
        buckets = [cfg.max_sequence_length]
    elif cfg.packing == "auto":
        buckets = choose_lengths(lengths, cfg.num_buckets, batch_size)
    else:
        buckets = choose_bucket_lengths(lengths, cfg.num_buckets)
    return EpochPlan(lengths, batch_size, buckets, shuffle, seed)


def _packed_plan(params, plan):
    """Returns the PackedPlan of the same rows if `packing` asks for one, else None."""
    cfg, run = params.train_input, params.runconfig
    if cfg.packing not in ("packed", "auto") or (cfg.packing == "auto" and run.is_distributed):
        return None
    packed = PackedPlan(plan, cfg.num_buckets)
    if cfg.packing == "packed":
        return packed
    *_, packed_shapes = packed.steps(0, plan.steps_per_epoch)
    return packed if _computes_less(params, packed_shapes, *plan.epoch(0)) else None


def _computes_less(params, packed_shapes, rows, lengths):
    """Whether packed batches cost less than padded ones, of `rows` with `lengths`."""
    shapes = np.stack([np.full_like(lengths, rows.shape[1]), lengths], axis=1)
    width = params.model.hidden_size
    return num_products(packed_shapes, width) < num_products(shapes, width)
