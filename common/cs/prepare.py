# SPDX-License-Identifier: Apache-2.0
"""The first half of a run on the CS target, in the main environment: data and initial weights.

Work that needs TensorFlow (reading TFDS, tokenising, the initialisers) is done here, with the
Session that every run opens. The results are written to `model_dir/cs/job` for the SDK's
environment.
"""

import contextlib
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from common.checkpoints.load import load_weights
from common.console import log
from common.cs import target
from common.cs.job import INITIAL, STREAMED, Job, rows_path
from common.cs.rows import collect_rows, rows_of_zeros
from common.cs.streamed_rows import write_batches, write_zeros
from common.errors import UserError
from common.params import INPUTS
from common.training.checks import check_trained, set_up
from common.training.evaluator import facts_of
from common.training.length import last_step_of
from common.training.saver import config_of

FOLDER = Path("cs", "job")
ZEROS = "zeros"  # the split of a validation without data


@contextlib.contextmanager
def tolerating_data(notes, part):
    """For `attempt` of `open_session`: a fault of the data becomes a note for the report, as a
    validation only needs shapes."""
    try:
        yield
    except UserError as error:
        if part != "data":
            raise
        notes.append(f"data not read, shapes from the params alone: {error}")


def adapted(params):
    """Returns the Params that a CS system runs, and a list of str: notes on the changes.

    Every row is padded to max_sequence_length, because shapes are static.
    """
    changed, notes = {}, []
    for name in INPUTS:
        section = getattr(params, name)
        if section is not None and section.packing != "none":
            changed[name] = section.model_copy(update={"packing": "none", "buckets": None})
    section = section_of(params)
    if section.packing != "none":
        notes.append(
            f"packing: none instead of {section.packing}; a program of a CS system has one length, "
            f"{section.max_sequence_length} tokens"
        )
    params = params.model_copy(update=changed)
    if target.compiles_here(params):
        params = params.with_runconfig(compile_only=False, validate_only=True)
        notes.append(
            "--compile_only lowered the step, as --validate_only does; the rest is compiled on "
            "the cluster: give --cs_ip, or --mgmt_address HOST:PORT"
        )
    if params.model.mixed_precision == "auto":  # for the CS system, not for this machine
        params = params.with_precision("mixed_bfloat16")
    return params, notes


def prepare(session, notes, attempt, write_params):
    """Writes the job of a run. Returns the Path of its folder.

    Args:
        session: Session of `adapted` params that passed `target.check_rules`.
        notes: list of str, for the report.
        attempt: with which the Session was opened.
        write_params: called with the Session before training, once all checks have passed; writes
            params.yaml.
    """
    params, run, checkpoint = session.params, session.run, session.checkpoint
    for fault in target.family_faults(params.model):
        raise UserError(fault)
    config = {} if checkpoint is None else checkpoint.config
    action = "validate" if run.validate_only else "compile" if run.compile_only else "run"
    first_step = session.first_step
    is_trained = session.is_training and action == "run"
    last_step = last_step_of(run, first_step) if is_trained else first_step + 1

    folder = session.model_dir / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    batches_of_split, split_texts = {}, {}
    if session.vocab:
        with attempt("data"):
            found, split_texts = batches_of(session, first_step, last_step)
            write_rows(session, found, folder)
            batches_of_split = found
    splits = list(batches_of_split)
    if not splits:
        splits = [ZEROS]
        write_zero_rows(session, folder)

    needs_initial = (is_trained or checkpoint is not None) and not session.resumed
    loss_variables, saved, baselines = {}, {}, {}
    if needs_initial or session.is_training:
        set_up(session.run)
        model = session.new_model()
        if "train" in batches_of_split:
            batches = batches_of_split["train"]
            for line in model.prepare_training(batches.targets, batches.token_counts):
                log(line)
        variables = model.loss_variables().items()
        loss_variables = {name: np.asarray(each).tolist() for name, each in variables}
        # The metric of the best step, which a later run in TensorFlow needs.
        saved = config_of(session, model, config.get("best_metric") if session.resumed else None)
        baselines = model.baselines
        if needs_initial:
            write_initial_weights(session, model, folder / INITIAL)
    if is_trained:
        write_params(session)
    evaluation = {}
    if run.mode == "eval" and checkpoint is not None:
        step = config.get("step", 0)
        evaluation = facts_of(session, batches_of_split, step, checkpoint.path)
    Job(
        params=params.model_dump(mode="json"),
        action=action,
        first_step=first_step,
        last_step=last_step,
        resumed=None if session.resumed is None else str(session.resumed),
        checkpoint=None if checkpoint is None else str(checkpoint.path),
        address=target.address_of(params),
        label_names=list(session.label_names),
        vocab=list(session.vocab),
        config=saved,
        class_weights=loss_variables.get("class_weights"),
        splits=splits,
        texts={split: list(rows) for split, rows in split_texts.items()},
        notes=notes,
        evaluation=evaluation,
        baselines=baselines,
    ).write(folder)
    return folder


def is_streamed(session):
    """Whether the rows of the task are masked anew in every epoch, and read by position."""
    return session.data.get_targets(section_of(session.params)).rows == "streams"


def write_rows(session, batches_of_split, folder):
    """Writes the rows of {split: Batches}."""
    section = section_of(session.params)
    for split, batches in batches_of_split.items():
        if is_streamed(session):
            path = rows_path(folder, split, STREAMED)
            write_batches(batches, path, len(session.vocab), section.invert_mask)
            continue
        pad_id = session.vocab.index("[PAD]") if section.pad_id is None else section.pad_id
        layout = section.max_sequence_length, pad_id, section.invert_mask
        collect_rows(batches, *layout).write(rows_path(folder, split))


def write_zero_rows(session, folder):
    """Writes rows of the shapes that the data, which could not be read, would have."""
    section = section_of(session.params)
    shape = section.batch_size, section.max_sequence_length
    if is_streamed(session):
        path, num_ids = rows_path(folder, ZEROS, STREAMED), session.params.model.vocab_size
        write_zeros(path, *shape, section.num_predictions, num_ids)
    else:
        rows_of_zeros(*shape).write(rows_path(folder, ZEROS))


def section_of(params):
    """Returns the InputParams of the run's mode."""
    return getattr(params, f"{params.runconfig.mode}_input")


def batches_of(session, first_step, last_step):
    """Returns {split: Batches} for the run's mode, and {split: texts} for a prediction."""
    params, data = session.params, session.data
    if session.mode == "train":
        if last_step <= first_step:
            raise UserError(
                f"training has already reached step {first_step}; give a larger --max_steps"
            )
        return {"train": data.train_input_fn(params, first_step, last_step)}, {}
    if session.mode == "predict":
        return data.predict_input_fn(params, session.texts)
    return data.eval_input_fn(params), {}


def write_initial_weights(session, model, path):
    """Writes the weights that a run in TensorFlow starts from: a checkpoint's, or fresh ones.

    model: BaseModel of the session, new. Raises:
        UserError: they are to be scored, and the checkpoint has no trained head.
    """
    if session.checkpoint is not None:
        is_fresh = session.is_training and model.ignores_head
        report = load_weights(model, session.checkpoint, is_fresh)
        if session.is_training:
            print(report.table())
        else:
            check_trained(report, model)
    weights = {name: np.asarray(weight) for name, weight in model.weights_by_name().items()}
    save_file(weights, path)
