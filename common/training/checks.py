# SPDX-License-Identifier: Apache-2.0
"""Checks of machine, checkpoint and data before anything is trained.

The trainer runs them on real weights, `--validate_only` on shapes alone, and the CS target those
that need no TensorFlow, which its environment does not have.
"""

import itertools
import os
from pathlib import Path

from common.checkpoints.vocab import read_vocab
from common.console import counted
from common.errors import UserError
from common.metrics.row_metrics import names_of_figures
from common.platform.machine import ONEDNN_LIMIT, available_bytes, gpus_of, onednn_has_bfloat16

MAX_WIDTH = 2**16  # of a network that this check knows; `check_network_size` refuses absurd ones


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
        + width * (width + (cfg.num_cls_classes or 0))
    )
    keys = ("num_hidden_layers", "hidden_size", "filter_size", "vocab_size")
    keys += ("max_position_embeddings", *["num_cls_classes"] * (cfg.num_cls_classes is not None))
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
        batches = params.optimizer.accumulation.batches(run.max_steps)
        rows = batches * params.train_input.batch_size
        what = f"a training of {counted(run.max_steps, 'step')} takes {counted(rows, 'row')}"
        _check_fits_memory(f"{what}, planned in advance", 4 * rows, run.device)


def check_batch_fits(params, config, num_replicas):
    """Raises UserError where one vector for each row of a training batch does not fit into memory.

    It needs no data, whose reading may take long. params: Params as read; config: dict of the
    checkpoint; num_replicas: int, devices that share a batch.
    """
    width = min(params.model.hidden_size or config.get("hidden_size") or 1, MAX_WIDTH)
    if not params.runconfig.is_training or params.train_input is None:
        return
    size = params.train_input.batch_size
    num_bytes = 4 * width * (size // num_replicas)
    what = f"train_input.batch_size {size:,} takes {counted(width, 'number')} for each row"
    _check_fits_memory(what, num_bytes, params.runconfig.device)


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


def check_trained(report, model):
    """Raises UserError where a LoadReport has fresh weights, so that a BaseModel cannot answer."""
    if report.fresh:
        raise UserError(
            f"checkpoint {report.path} has no trained weights for "
            f"{', '.join(sorted(report.fresh))}; train first, or give the checkpoint of a "
            f"{model.described}"
        )


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
