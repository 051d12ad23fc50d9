# SPDX-License-Identifier: Apache-2.0
"""Checks of machine, checkpoint and data before anything is trained.

The trainer runs them on real weights, `--validate_only` on shapes alone, and the CS target those
that need no TensorFlow, which its environment does not have.
"""

import itertools
import os
from pathlib import Path

from common.checkpoints.vocab import read_vocab
from common.errors import UserError
from common.metrics.row_metrics import names_of_figures
from common.optimizers.schedules import notes_on_schedule
from common.platform.machine import ONEDNN_LIMIT, available_bytes, gpus_of, onednn_has_bfloat16


def check_metric(metric, model, splits):
    """Raises UserError where an evaluation of the splits does not give the BestMetric."""
    names = names_of_figures(model.build_eval_metric_ops(), splits)
    metric.value_in(dict.fromkeys(names, 0.0))


def check_calibration(model):
    """Raises UserError where a task has no probabilities to calibrate, before hours of training."""
    if model.build_eval_metric_ops().fits is None:
        raise UserError(
            f"runconfig.calibrate_temperature is true, but {type(model).__name__} gives no "
            "probabilities; leave the key out"
        )


def check_network_size(params):
    """Raises UserError where tables and kernels alone do not fit into memory, before any is made.

    In training their gradients count, too. `--validate_only` estimates what a step needs besides.

    params: complete Params.
    """
    cfg, run = params.model, params.runconfig
    width, outer = cfg.hidden_size, cfg.embedding_size or cfg.hidden_size
    num_weights = (
        cfg.vocab_size * outer
        + cfg.max_position_embeddings * width
        + cfg.num_hidden_layers * (4 * width**2 + 2 * width * cfg.filter_size)
        + width * (width + cfg.num_cls_classes)
    )
    keys = ("num_hidden_layers", "hidden_size", "filter_size", "vocab_size")
    keys += ("max_position_embeddings", "num_cls_classes")
    sizes = ", ".join(f"{key} {getattr(cfg, key):,}" for key in keys)
    num_bytes = 4 * num_weights * (2 if run.is_training else 1)
    _check_fits_memory(f"model with {sizes} has {num_weights:,} weights", num_bytes, run.device)


def check_precision(params):
    """Raises UserError where a product in bfloat16 would end the process. params: complete."""
    is_on_cpu = not gpus_of(params.runconfig.device)
    if params.model.dtype_policy == "mixed_bfloat16" and is_on_cpu and not onednn_has_bfloat16():
        raise UserError(
            f"model.mixed_precision is mixed_bfloat16, but {ONEDNN_LIMIT} is "
            f"{os.environ[ONEDNN_LIMIT]}, without the instructions that it needs; unset the "
            "variable, set it to AVX512_CORE or above, or write mixed_precision: float32"
        )


def check_plan_size(params):
    """Raises UserError where the numbers of the rows of all batches do not fit into memory.

    params: complete Params.
    """
    run = params.runconfig
    if run.is_training and run.max_steps is not None and params.train_input is not None:
        rows = run.max_steps * params.optimizer.grad_accum_steps * params.train_input.batch_size
        what = f"runconfig.max_steps {run.max_steps:,} takes {rows:,} rows, planned in advance"
        _check_fits_memory(what, 4 * rows, run.device)


def _check_fits_memory(what, num_bytes, device):
    available = available_bytes("GPU" if gpus_of(device) else "CPU")
    if available is not None and num_bytes > available:
        raise UserError(
            f"{what}: at least {num_bytes / 1e9:,.1f} GB of memory, where this machine has "
            f"{available / 1e9:,.1f} GB free; correct the number that is too large"
        )


def check_fits(path, variables, tensors):
    """Raises UserError where a checkpoint to resume has other names or shapes than the network.

    variables, tensors: {name: anything with a `shape`}, of the params and of the checkpoint.
    """
    wanted, given = (
        {(name, tuple(each.shape)) for name, each in arrays.items()}
        for arrays in (variables, tensors)
    )
    differing = sorted({name for name, _ in wanted ^ given})
    if differing:
        raise UserError(
            f"{path} cannot be resumed: {', '.join(differing[:5])} ({len(differing)} in all) "
            "differ from what the params ask for. Use the params it was made with, or another "
            "--model_dir"
        )


def check_vocab(vocab, vocab_file, path):
    """Raises UserError where ids stand for other tokens than in a checkpoint.

    vocab: list of str; vocab_file: path of the checkpoint's; path: of the checkpoint.
    """
    former = read_vocab(vocab_file)
    if former == vocab:
        return
    pairs = itertools.zip_longest(vocab, former)
    place, (ours, theirs) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
    raise UserError(
        f"{ours!r} is token {place} of the vocabulary, where {Path(path).name} has {theirs!r}; "
        "leave vocab_file out, or give the vocabulary it was trained with"
    )


def check_trained(report, num_labels):
    """Raises UserError where a LoadReport has fresh weights, which cannot score or predict."""
    if report.fresh:
        raise UserError(
            f"checkpoint {report.path} has no trained weights for "
            f"{', '.join(sorted(report.fresh))}; train first, or give the checkpoint of a "
            f"classifier with {num_labels} labels"
        )


def last_step_of(run, first_step):
    """Returns the step to train to. Raises UserError where RunParams `run` do not say."""
    goals = []
    if run.steps is not None and run.mode != "train_and_eval":
        goals.append(first_step + run.steps)
    if run.max_steps is not None:
        goals.append(run.max_steps)
    if not goals:
        or_steps = "" if run.mode == "train_and_eval" else ", or --steps (how many more)"
        raise UserError(
            "the length of training is missing: give --max_steps (the step to reach), or "
            f"runconfig.max_steps in the params file{or_steps}"
        )
    return min(goals)


def notes_on_length(params, last_step):
    """`notes_on_schedule` of a training to last_step, or to max_steps if it goes there in parts."""
    is_part = params.runconfig.max_steps is not None and params.train_input.repeat
    end = params.runconfig.max_steps if is_part else last_step
    return notes_on_schedule(params.optimizer, end)


def set_up(run):
    """Makes a run repeatable, before anything is built. Refuses a `device` that is not here."""
    import keras
    import tensorflow as tf

    if run.device is not None:
        check_device(run.device)
    keras.utils.set_random_seed(run.tf_random_seed)
    if run.deterministic:
        tf.config.experimental.enable_op_determinism()


def check_device(device):
    """Raises UserError where a device is not here: TensorFlow would take the CPU without a word."""
    import tensorflow as tf

    # A name ends in its type and number: /device:CPU:0
    names = [d.name.lower().split(":")[-2:] for d in tf.config.list_logical_devices()]
    present = [f"/{kind}:{number}" for kind, number in names]
    try:
        spec = tf.DeviceSpec.from_string(device)
        wanted = f"/{spec.device_type.lower()}:{spec.device_index or 0}"
    except (ValueError, AttributeError):
        wanted = None
    if wanted not in present:
        raise UserError(f"--device {device} is not here; this machine has {', '.join(present)}")
