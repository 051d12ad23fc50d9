# SPDX-License-Identifier: Apache-2.0
"""The first half of a run on the CS target, in the main environment: Params, data, first weights.

What needs TensorFlow (reading TFDS, tokenising, the initialisers) happens here, with the functions
that every other run uses, and is left in `model_dir/cs/job` for the environment of the SDK.
"""

import secrets
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import data
from common.checkpoints.load import load_weights, open_checkpoint
from common.cs import target
from common.cs.job import INITIAL, VOCAB, Job, rows_path
from common.cs.rows import collect_rows
from common.errors import UserError
from common.losses import balanced_weights
from common.params import INPUTS
from common.training.checks import last_step_of, set_up
from model import make_model

FOLDER = Path("cs", "job")


def prepare(params, args, resumed, chosen, keep_params):
    """Writes the job of a run.

    Args:
        params: Params as given, with model_dir; `target.check_rules` passed.
        args: of run.py: params, text, input_file.
        resumed: path of the checkpoint to go on from, or None.
        chosen: path of the weights to load, or None.
        keep_params: function of complete Params and the given ones, called where training is sure
            to begin; writes params.yaml.
    Returns:
        Path of the job's folder.
    Raises:
        UserError: as in any run; where only shapes are wanted, missing data is a note instead.
    """
    run = params.runconfig
    action = "validate" if run.validate_only else "compile" if run.compile_only else "run"
    needs_shapes_only = action == "validate"
    checkpoint = None if chosen is None else open_checkpoint(chosen)
    config = {} if checkpoint is None else checkpoint.config
    if run.tf_random_seed is None:
        seed = config.get("tf_random_seed") if resumed else None
        seed = secrets.randbelow(2**31) if seed is None else seed
        params = params.with_runconfig(tf_random_seed=seed)
    params, notes = with_one_length(params)
    if params.model.mixed_precision == "auto":  # what a CS system has, not this machine
        params = params.with_precision("mixed_bfloat16")
    as_given = params
    texts = data.read_texts(args.text, args.input_file) if run.mode == "predict" else []
    try:
        params, label_names, vocab = data.complete_params(
            params, config, args.params, labels_from_checkpoint=bool(texts)
        )
    except UserError as error:
        if not needs_shapes_only:
            raise
        params, label_names, vocab = params.complete(config, {}, args.params), [], []
        notes.append(f"data not read, shapes from the params alone: {error}")
    first_step = int(config.get("step", 0)) if resumed else 0
    last_step = last_step_of(params.runconfig, first_step) if action == "run" else first_step + 1

    folder = Path(params.runconfig.model_dir) / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    splits, batches_of_split, split_texts = [], {}, {}
    if vocab:
        try:
            batches_of_split, split_texts = batches_of(params, texts, first_step, last_step)
        except UserError as error:
            if not needs_shapes_only:
                raise
            notes.append(f"data not read, shapes from the params alone: {error}")
    for split, batches in batches_of_split.items():
        section = section_of(params)
        pad_id = data.get_tokenizer(section).pad_id if section.pad_id is None else section.pad_id
        rows = collect_rows(batches, section.max_sequence_length, pad_id, section.invert_mask)
        rows.write(rows_path(folder, split))
        splits.append(split)

    class_weights = params.model.class_weights
    if class_weights == "auto" and "train" in batches_of_split:
        labels = batches_of_split["train"].targets["labels"]
        class_weights = balanced_weights(labels, params.model.num_cls_classes).tolist()
    elif class_weights == "auto":
        class_weights = [1.0] * params.model.num_cls_classes
    if params.runconfig.mode == "train" and action == "run" and not resumed:
        write_initial_weights(params, checkpoint, folder / INITIAL)
    (folder / VOCAB).write_text("".join(f"{token}\n" for token in vocab), "utf-8", newline="\n")
    if params.runconfig.mode == "train" and action == "run":
        keep_params(params, as_given)
    Job(
        params=params.model_dump(mode="json"),
        action=action,
        first_step=first_step,
        last_step=last_step,
        resumed=None if resumed is None else str(resumed),
        checkpoint=None if chosen is None else str(chosen),
        address=target.address_of(params),
        label_names=list(label_names),
        config={
            "do_lower_case": params.predict_input.do_lower,
            "tf_random_seed": params.runconfig.tf_random_seed,
            # Which metric its best step is of, in case it is resumed in TensorFlow.
            "best_metric": config.get("best_metric") if resumed else None,
        },
        class_weights=None if class_weights is None else list(class_weights),
        splits=splits,
        texts={split: list(rows) for split, rows in split_texts.items()},
        notes=notes,
    ).write(folder)
    return folder


def with_one_length(params):
    """The same params with every row padded to max_sequence_length: shapes are static.

    Returns:
        Params; list of str that says so where they asked for something else.
    """
    changed, notes = {}, []
    for name in INPUTS:
        section = getattr(params, name)
        if section is not None and section.packing != "none":
            changed[name] = section.model_copy(update={"packing": "none"})
    section = section_of(params)
    if section.packing != "none":
        notes.append(
            f"packing: none instead of {section.packing}; a program of a CS system has one length, "
            f"{section.max_sequence_length} tokens"
        )
    return params.model_copy(update=changed), notes


def section_of(params):
    """The InputParams of the run's mode."""
    return getattr(params, f"{params.runconfig.mode}_input")


def batches_of(params, texts, first_step, last_step):
    """Returns {split: Batches} of the run's mode, and {split: texts} of a prediction."""
    run = params.runconfig
    if run.mode == "train":
        if last_step <= first_step:
            raise UserError(
                f"training has reached step {first_step} already; give a larger --max_steps"
            )
        return {"train": data.train_input_fn(params, first_step, last_step)}, {}
    if run.mode == "predict":
        return data.predict_input_fn(params, texts)
    return data.eval_input_fn(params), {}


def write_initial_weights(params, checkpoint, path):
    """The weights that a run in TensorFlow would begin with: a checkpoint's or the seed's."""
    set_up(params.runconfig)
    model = make_model(params)
    if checkpoint is not None:
        print(load_weights(model, checkpoint, params.model.disable_nsp).table())
    weights = {name: np.asarray(weight) for name, weight in model.weights_by_name().items()}
    save_file(weights, path)
