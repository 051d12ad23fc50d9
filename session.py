# SPDX-License-Identifier: Apache-2.0
"""open_session: checkpoint -> seed -> data -> complete Params -> checks, the same for every mode.

It sets no global state: generators, devices, signals and the environment are set by `run.py`.
"""

import contextlib
import dataclasses
import os
import secrets
from pathlib import Path

import data
from common.checkpoints import store
from common.checkpoints.extension import with_new_words
from common.checkpoints.layer_choice import with_layers
from common.checkpoints.load import open_checkpoint
from common.console import counted, log
from common.errors import UserError
from common.export.export import check_folder, check_format
from common.params import has_effect, may_change
from common.params.optimizer import default_epsilon
from common.reports.tracking import check_trackers
from common.tasks.targets import places_in
from common.training.checks import (
    check_batch_fits,
    check_network_size,
    check_plan_size,
    check_precision,
    check_vocab,
)
from common.training.distribution import ONE_DEVICE
from common.training.length import (
    check_end,
    depends_on_rows,
    notes_on_evaluations,
    resolve_length,
    with_former_budget,
)
from common.training.session import Session
from common.training.teacher import fingerprint_of, params_of
from model import make_model, model_fn, task_of
from utils import SAVED, changes_from, get_params, placed, save_params

BEST, NEWEST = "best", "newest"  # as --checkpoint_path
TEACHER = "teacher"  # among the contents that a checkpoint remembers
# {key: the split that is read from it}
SPLITS = {
    "train_file": "train",
    "eval_file": "validation",
    "train_documents": "train",
    "eval_documents": "validation",
}


def open_session(
    params,
    params_path="the params file",
    texts=(),
    input_file=None,
    distribution=ONE_DEVICE,
    needs_checkpoint=True,
    attempt=contextlib.nullcontext,
):
    """Returns the Session, with everything that a mode needs.

    Args:
        params: Params as read, with model_dir.
        params_path: str, for messages.
        texts, input_file: as of `data.read_texts`, in a prediction.
        needs_checkpoint: bool. False if only the shapes are needed.
        attempt: part -> context manager, entered around each part: "checkpoint", "texts", "data",
            "params". One that suppresses UserError collects faults; the parts after a fault are
            then resolved as far as possible.
    Raises:
        UserError: the mode cannot run with these params, checkpoint or data.
    """
    run, mode = params.runconfig, params.runconfig.mode
    resumed, chosen = None, run.origin if run.is_training else None
    if needs_checkpoint:
        with attempt("checkpoint"):
            resumed, chosen = choose_checkpoint(run)
    checkpoint, teacher = None, None
    if run.is_training and params.distillation is not None:
        with attempt("checkpoint"):
            path = params.distillation.teacher
            with placed(params_path, "distillation.teacher", path):
                teacher = open_checkpoint(path)
            if chosen is None and params.distillation.student_layers is not None:
                checkpoint = with_layers(teacher, params.distillation.student_layers)
    if chosen is not None:
        with attempt("checkpoint"):
            with placed(params_path, "runconfig.checkpoint_path", chosen):
                checkpoint = open_checkpoint(chosen) if run.is_training else open_used(run, chosen)
            if run.is_training and not resumed:
                checkpoint = with_new_words(checkpoint, params.predict_input.vocab_file)
    resumed = None if checkpoint is None else resumed
    config = {} if checkpoint is None else checkpoint.config
    if teacher is not None:  # which brings what a network from elsewhere would
        named_there = {key: teacher.config.get(key) for key in ("vocab_file", "do_lower_case")}
        config = {key: each for key, each in named_there.items() if each is not None} | config
    with attempt("params"):
        check_batch_fits(params, config, distribution.num_replicas)
    if run.tf_random_seed is None:
        # Drawn once and saved with the checkpoint, so that a resumed run has the same seed.
        seed = config.get("tf_random_seed") if resumed else None
        seed = secrets.randbelow(2**31) if seed is None else seed
        params = params.with_runconfig(tf_random_seed=distribution.broadcast(seed))
    if resumed and params.optimizer.epsilon is None:
        params = with_former_epsilon(params)
    budget = None
    if resumed:
        with attempt("params"):
            params, budget = with_former_budget(params, checkpoint)
    params = params.with_case(config.get("do_lower_case"))
    rows, as_rows = [], None  # texts, or else params that read the rows of a file
    if mode == "predict":
        with attempt("texts"):
            as_rows = data.with_input_file(params, input_file) if input_file else None
            if as_rows and texts:
                raise UserError(f"--text and --input_file {input_file}: give one of the two")
            params = as_rows or params
            rows = [] if as_rows else data.read_texts(texts, input_file)
    given_params, completed, contents, num_batches = params, None, {}, None
    # If several workers share a data_dir, the chief prepares it.
    with attempt("data"), distribution.chief_first():
        completed = data.complete_params(
            params, config, params_path, labels_from_checkpoint=bool(rows) or mode == "export"
        )
    with attempt("params"):  # before documents are prepared, for hours, with the wrong tokens
        if completed is not None:
            check_vocab_unchanged(run, checkpoint, resumed, completed[-1])
    with attempt("data"), distribution.chief_first():
        if completed is not None and params.runconfig.is_training:
            contents = data.contents(completed[0])
            if depends_on_rows(completed[0]):
                num_batches = data.batches_per_epoch(completed[0])
            if teacher is not None:
                contents = contents | {TEACHER: fingerprint_of(teacher)}
                of_teacher = params_of(completed[0], teacher, completed[1], completed[2])
                completed = completed[0].with_teacher(of_teacher), *completed[1:]
    if completed is None:  # its fault was collected
        with attempt("params"):
            completed = without_data(params, config, params_path)
    is_complete = False
    if completed is not None:
        with attempt("params"):
            check_network_size(completed[0])
            is_complete = True
    params, label_names, vocab = completed or (params, (), [])
    if params.runconfig.is_training and params.teacher is None:  # or its fault was collected
        params = params.with_teacher(None)
    if params.runconfig.is_training:
        with attempt("params"):
            check_end(params)
    before_length = params
    if params.runconfig.is_training:
        params = resolve_length(params, num_batches)
        if params.runconfig.mode == "train_and_eval":
            for note in notes_on_evaluations(before_length, params, num_batches):
                log(note)
    if mode == "export":  # an exported model always computes in float32
        params = params.with_precision("float32")
    session = Session(
        params,
        make_model,
        model_fn,
        data,
        given_params,
        params_path,
        checkpoint,
        teacher,
        resumed,
        tuple(label_names),
        vocab,
        rows,
        distribution,
        is_complete,
        input_file if as_rows else None,
        contents,
        before_length,
        budget,
    )
    checks = (
        check_machine,
        check_export,
        check_tracking,
        check_batch_size,
        check_vocab_size,
        check_unchanged_meaning,
    )
    for check in checks:
        with attempt("params"):
            check(session)
    return session


def prepare_data(params):
    """Makes what a training reads, ahead of it. Returns the Result."""
    path = params.runconfig.checkpoint_path
    config = {} if path is None else open_checkpoint(path).config
    return data.prepare_data(params.with_vocab_file(config.get("vocab_file"), config.get("path")))


def data_report(params, folder, with_texts):
    """Looks at the rows that a training would read. Returns the Result.

    The vocabulary and the sizes of the network are those of the params, or else of the checkpoint
    that a training would begin from. params: Params with model_dir; others: as of
    `data.data_report`.
    """
    run = params.runconfig
    path = choose_checkpoint(run)[1] if run.checkpoint_path in (BEST, NEWEST) else run.origin
    path = path or store.newest_checkpoint(run.model_dir)
    config = {} if path is None else open_checkpoint(path).config
    params = params.with_case(config.get("do_lower_case"))
    params = params.with_vocab_file(config.get("vocab_file"), config.get("path"))
    names = ("hidden_size", "num_hidden_layers", "filter_size", "max_position_embeddings")
    sizes = {name: getattr(params.model, name) or config.get(name) for name in names}
    return data.data_report(params, sizes, folder, with_texts)


def choose_checkpoint(run):
    """Returns (path to resume or None, path to load or None) for the mode.

    Training resumes the newest checkpoint of model_dir, else it starts from --checkpoint_path, else
    from what the saved params were started from.
    Evaluation, prediction and export use --checkpoint_path, else the `best`, which best.json of
    model_dir names, else the `newest`. Raises UserError where a checkpoint is needed and there is
    none, or none of those in model_dir verifies.
    """
    if not (run.is_training or run.mode == "eval_all"):
        if run.checkpoint_path not in (None, BEST, NEWEST):
            return None, run.checkpoint_path
        is_chosen = run.checkpoint_path is None and store.read_best(run.model_dir) is not None
        if is_chosen or run.checkpoint_path == BEST:
            return None, store.best_checkpoint(run.model_dir)
    skipped = []
    newest = store.newest_checkpoint(run.model_dir, on_skip=skipped.append)
    if newest is None and skipped:  # a new training would eventually replace them
        listed = "\n".join(f"  {text.removeprefix('skipped ')}" for text in skipped)
        raise UserError(
            f"no checkpoint of {run.model_dir} is intact:\n{listed}\nRestore one from a copy; "
            "or, to start without them, move them away or choose another --model_dir"
        )
    for text in skipped:
        log(text)
    if run.is_training:
        if newest is not None and run.checkpoint_path is not None:
            log(f"--checkpoint_path is not used: {newest} is resumed")
        return newest, newest or run.origin
    if newest is None:
        raise UserError(
            f"{run.model_dir} holds no checkpoint to use; train first"
            + ("" if run.mode == "eval_all" else ", or give --checkpoint_path")
        )
    return None, newest


def open_used(run, chosen):
    """Opens a Checkpoint to use, which a run that trains may delete: its open files stay readable.

    chosen: path of `choose_checkpoint`, which chooses again where that one has been deleted.
    """
    try:
        checkpoint = open_checkpoint(chosen)
        checkpoint.weights  # noqa: B018  (opens the files)
        return checkpoint
    except (UserError, OSError):
        if os.path.exists(chosen) or run.checkpoint_path not in (None, BEST, NEWEST):
            raise
    return open_used(run, choose_checkpoint(run)[1])


def former_params(model_dir):
    """The Params that the runs of a model_dir keep there; None where they cannot be read."""
    with contextlib.suppress(UserError):
        return get_params(model_dir / SAVED)
    return None


def with_former_epsilon(params):
    """The same params with the epsilon of the run to resume, if an earlier version began it.

    Those began `mixed_precision: auto` with the epsilon of float32, whatever it stood for.
    """
    former = former_params(Path(params.runconfig.model_dir))
    epsilon = default_epsilon(params.optimizer.optimizer_type, "float32")
    if former is None or former.optimizer.epsilon != epsilon:
        return params
    if former.model.dtype_policy != "float32":
        log(f"optimizer.epsilon stays {epsilon}, with which {params.runconfig.model_dir} began")
    return params.with_epsilon(epsilon)


def without_data(params, config, params_path):
    """`data.complete_params` for data that cannot be read: from params and checkpoint only.

    The number of outputs is that of the params, of the checkpoint, or of the task.
    """
    known = {}
    with contextlib.suppress(UserError):  # the shapes may not need a vocabulary
        params = params.with_vocab_file(config.get("vocab_file"), config.get("path"))
        known["vocab_size"] = len(data.get_tokenizer(params.predict_input).vocab)
    params = data.resolve_precision(params)
    targets = data.get_targets(params.predict_input)
    outputs = params.model.num_cls_classes or targets.num_outputs(config.get("label_names"))
    known["num_cls_classes"] = outputs
    return params.complete(config, known, params_path), (), []


def check_machine(session):
    """Raises UserError if this machine has no memory for the plan, or lacks instructions."""
    check_plan_size(session.params)
    check_precision(session.params)


def check_export(session):
    """Raises UserError if the best checkpoint could not be exported after the training."""
    if session.mode == "train_and_eval" and session.run.export_best is not None:
        check_format(session.run.export_best, session.params, task_of(session.params))
        check_folder(session.model_dir / "export" / session.run.export_best)


def check_tracking(session):
    """Raises UserError if a tracker of the training is not installed."""
    if session.is_training:
        check_trackers(session.run)


def check_batch_size(session):
    if session.is_training and session.params.train_input is not None:
        session.distribution.check_batch_size(session.params.train_input.batch_size)


def check_vocab_size(session):
    """Raises UserError if the vocabulary has ids beyond the embedding table."""
    rows = session.params.model.vocab_size
    if session.is_complete and len(session.vocab) > rows:
        raise UserError(
            f"{session.params.predict_input.vocab_file} has the ids 0 to "
            f"{len(session.vocab) - 1}, but the embedding table has model.vocab_size {rows} rows; "
            "leave out model.vocab_size, or give the vocabulary that the weights were trained with"
        )


def check_vocab_unchanged(run, checkpoint, resumed, vocab):
    """Raises UserError if weights are used with another vocabulary than they were trained with.

    Where a training that is resumed may change its params, this is told. run: RunParams.
    checkpoint: Checkpoint or None. resumed: its path in model_dir, or None. vocab: list of str.
    """
    former = None if checkpoint is None else checkpoint.config.get("vocab_file")
    is_new = run.is_training and (resumed is None or run.compile_only)  # which begins with its own
    if former is None or is_new:
        return
    try:
        check_vocab(vocab, former, checkpoint.path)
    except UserError as error:
        if not (run.is_training and run.allow_changed_params):
            raise
        log(f"Changed: {error}")


def check_unchanged_meaning(session):
    """Raises UserError if params or data have changed the meaning of the resumed run."""
    former = session.model_dir / SAVED
    if session.run.compile_only:  # resumes nothing; programs of other params lie beside the former
        return
    if session.resumed and session.is_complete:
        changes = changes_of_data(session)
        if former.exists():
            changes += [
                change
                for change in changes_from(former, session.saved_params)
                if not is_moved(session, *change) and has_effect(change[0], session.params)
            ]
        refuse_changes_of_meaning(changes, session.resumed, session.run.allow_changed_params)


def refuse_changes_of_meaning(changes, checkpoint, is_allowed):
    """Raises UserError where the params would train other weights than the checkpoint's run.

    changes: of `utils.changes_from`. is_allowed: bool, `runconfig.allow_changed_params`.
    """
    changed = [change for change in changes if not may_change(change[0])]
    if not changed or is_allowed:
        return
    listed = "\n".join(
        f"  {key} was {rate_in_words(old)}, is now {rate_in_words(new)}"
        for key, old, new in changed
    )
    raise UserError(
        f"{checkpoint} cannot be resumed with params of another meaning:\n{listed}\n"
        "Give back the former values (params.yaml beside it has them), choose another --model_dir, "
        "or go on with the new ones: --allow_changed_params"
    )


# Of a schedule that num_epochs, warmup_ratio and decay: linear make.
LINE = {"scheduler", "initial_learning_rate", "end_learning_rate", "steps", "cycle"}


def rate_in_words(value):
    """Straight lines of a learning rate, as people say them; any other value as it is."""
    stages = value if isinstance(value, list) else [None]
    for stage in stages:
        is_line = isinstance(stage, dict) and stage.keys() == LINE and not stage["cycle"]
        if not is_line or stage["scheduler"] != "Linear" or not isinstance(stage["steps"], int):
            return value
    return ", then ".join(
        f"{stage['initial_learning_rate']} to {stage['end_learning_rate']} in "
        f"{counted(stage['steps'], 'step')}"
        for stage in stages
    )


def is_moved(session, dotted, old, new):
    """Whether a change of params is that of a file's place, its content being compared instead."""
    split = SPLITS.get(dotted.rpartition(".")[2])
    former = session.checkpoint.config.get("contents")
    is_compared = former is not None and (split in former or split not in session.contents)
    return bool(split and old and new) and is_compared


def changes_of_data(session):
    """The changes of rows and label names since the resumed checkpoint, as `changes_from`."""
    config, changes = session.checkpoint.config, []
    former, names = config.get("contents"), config.get("label_names")
    if former is None:
        log(f"{session.resumed} is of an earlier version: whether its rows changed is not known")
    for split, rows in session.contents.items():
        if former and former.get(split, rows) != rows:
            what = "the teacher" if split == TEACHER else f"the content of split {split}"
            changes.append((what, former[split], rows))
    known = names and session.label_names
    if known and places_in(names, session.label_names) != list(range(len(names))):
        changes.append(("the label names", ", ".join(names), ", ".join(session.label_names)))
    return changes


def write_params(session):
    """Writes params.yaml into model_dir, and prints the changes.

    What the run was started from is kept apart from checkpoint_path, which would say what to use.
    """
    origin = session.run.origin
    if session.resumed:
        # As it was started, whatever is given now.
        former = former_params(session.model_dir)
        origin = False if former is None else former.runconfig.started_from
    values = {"checkpoint_path": None, "started_from": origin or False}
    params = session.saved_params.with_runconfig(**values)
    for key, old, new in save_params(params, session.model_dir):
        log(f"params.yaml: {key} was {old}, is now {new}")


def best_session(session):
    """Returns the Session that exports the best checkpoint of a training Session's model_dir."""
    return dataclasses.replace(
        session,
        params=session.params.with_precision("float32").with_teacher(None),
        checkpoint=open_checkpoint(store.best_checkpoint(session.model_dir)),
        resumed=None,
    )
