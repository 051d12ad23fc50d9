# SPDX-License-Identifier: Apache-2.0
"""The command line: reads the params, runs the mode, prints its Result.

    python run.py --mode train --params configs/X.yaml --model_dir D --checkpoint_path C

Exit codes: 0 done; 1 the run failed; 2 an error in usage or configuration; 75 another run has the
model_dir; 128 + n stopped by signal n, after training has saved everything (a second signal ends
the process at once). TensorFlow is imported only after the params have been accepted.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends the imports below without a traceback
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # see use_huge_pages

from common.platform.huge_pages import use_huge_pages
from common.platform.packages import check_packages

if __name__ == "__main__":
    use_huge_pages()  # before the imports, because it restarts the program
    check_packages()  # before the imports, which need them

import argparse
import contextlib
import functools
import os
import subprocess
import sys
from pathlib import Path

from common.checkpoints import store
from common.console import closing_summary, escape_unencodable, log
from common.cs import target
from common.errors import BusyError, RunError, UserError
from common.files import delete_leftovers
from common.flags import add_params, check_flags, check_only, make_parser
from common.params import flag_keys
from common.platform.machine_code import compiled_for, use_multi_output_fusion
from common.platform.quiet_imports import import_quietly
from common.platform.standard_streams import outlast_readers
from common.reports.metrics_file import to_json
from common.signals import Stopped, listening, poll
from common.training.cluster import read_cluster
from common.training.lock import check_written, locked
from common.training.run_record import RunRecord
from utils import SAVED, get_params, parse_override

DEFAULT_MODEL_DIR = Path(__file__).parent / "model_dir"


def overrides_of(args):
    """Returns {dotted key: value} of the flags on the command line."""
    overrides = dict(map(parse_override, args.override))
    for flag, key in flag_keys().items():
        value = getattr(args, flag)
        if value is not None:
            overrides[key] = value
    return overrides | target.overrides_of_launcher(args)


def run_mode(params, args, control):
    """Runs the mode. Returns the exit code."""
    params = params.with_runconfig(model_dir=params.runconfig.model_dir or DEFAULT_MODEL_DIR)
    check_written(params.runconfig.model_dir)
    is_for_cs = target.is_for_cs(args, params)
    if is_for_cs and args.json:
        raise UserError("--json is for runs on this machine; leave it out")
    if params.runconfig.validate_only and not is_for_cs:
        return validate(params, args)
    cluster = read_cluster(params.runconfig)
    is_writer = params.runconfig.is_training and cluster.is_chief
    with locked(params.runconfig.model_dir) if is_writer else contextlib.nullcontext():
        if is_writer:
            store.delete_leftovers(params.runconfig.model_dir)
        if cluster.is_chief:
            delete_leftovers(params.runconfig.model_dir)
        return run_on_cs(params, args) if is_for_cs else run(params, args, cluster, control)


def validate(params, args):
    """Checks whether a run on this machine would succeed. Returns the exit code."""
    import_quietly()
    poll()
    from common.validate.validate import Problems, open_distribution, validate

    problems = Problems()
    distribution = open_distribution(params.runconfig, problems)
    session = open_session(params, args, distribution=distribution, attempt=problems.collecting)
    return validate(session, problems)


def run_on_cs(params, args):
    """Runs on the CS target. Does not return: the SDK's process replaces this one."""
    python = target.check(params)
    import_quietly()
    from common.cs.prepare import adapted, prepare, tolerating_data
    from session import write_params

    params, notes = adapted(params)
    run = params.runconfig
    tolerating = functools.partial(tolerating_data, notes)
    attempt = tolerating if run.validate_only else contextlib.nullcontext
    is_needed = run.mode == "train" or not run.validate_only
    session = open_session(params, args, needs_checkpoint=is_needed, attempt=attempt)
    target.hand_over(python, prepare(session, notes, attempt, write_params))


def open_session(params, args, **options):
    """`open_session` of `session.py`, with the texts of the command line."""
    import session

    return session.open_session(params, args.params, args.text, args.input_file, **options)


def run(params, args, cluster, control):
    """Runs on this machine, on record. Returns the exit code."""
    if not cluster.is_chief:
        return run_session(params, args, cluster, control, None)
    record = RunRecord(params, sys.argv)
    try:
        exit_code = run_session(params, args, cluster, control, record)
    except BaseException as error:
        record.end(exit_code_of(error), sentence_of(error))
        raise
    record.end(exit_code)
    return exit_code


def run_session(params, args, cluster, control, record):
    """Opens the Session and does its mode. record: RunRecord of the chief, or None."""
    is_alone = not (params.runconfig.enable_distributed or params.runconfig.multiple_workers)
    if params.runconfig.compile_only and not is_alone:
        raise UserError(
            "--compile_only is for one device; leave out runconfig.enable_distributed and "
            "multiple_workers, or leave out the flag: the run compiles at its start"
        )
    use_multi_output_fusion()
    compiled, is_cache = compiled_for(params.runconfig) if is_alone else (None, False)

    import_quietly()
    poll()
    import tensorflow as tf

    from common.platform.kept_programs import open_programs
    from common.platform.streams import take_streams
    from common.reports.listener import Listeners
    from common.reports.listeners import standard_listeners
    from common.training.checks import set_up
    from common.training.distribution import make_distribution

    distribution = make_distribution(params.runconfig, cluster)
    params = params.with_runconfig(num_streams=take_streams(params.runconfig))
    session = open_session(params, args, distribution=distribution)
    set_up(session.run)
    if record is not None:
        record.accept()
    if session.run.compile_only:
        from common.validate.compile_ahead import compile_ahead

        with tf.device(session.run.device):
            return compile_ahead(session)
    programs = None
    if compiled is not None and session.mode != "export":
        tell = (lambda text: None) if session.texts else log
        programs = open_programs(compiled, session.params, is_cache, tell)
    listeners = Listeners()
    if record is not None and not session.texts:  # a text is answered by its line alone
        # What was evaluated is printed, even if the model_dir is read-only.
        outlasts = not session.is_training
        listeners = standard_listeners(session.model_dir, session.run.log_steps, outlasts)
    with (
        tf.device(session.run.device),
        distribution.chief_only_logging(),
        contextlib.closing(listeners),
    ):
        result = do(session, args, control, programs, listeners)
        if record is not None:
            record.keep(result)
            show(result, args.json)  # before an export, which can fail
            is_exported = session.mode == "train_and_eval" and session.run.export_best is not None
            if is_exported and result.stopped_by is None:
                show(export_best(session, listeners), args.json)
        return result.exit_code


def do(session, args, control, programs, listeners):
    """Runs the Session's mode. Returns its Result."""
    from common.training.exporter import export_checkpoint
    from common.training.predictor import predict
    from common.training.trainer import Trainer
    from session import write_params

    if session.is_training:
        if session.distribution.is_chief:
            write_params(session)
        return Trainer(session, new_model(session), listeners, control, programs).train()
    evaluator = new_evaluator(session, listeners, programs)
    if session.mode == "predict":
        return predict(session, evaluator.inference)
    if session.mode == "eval":
        return evaluator.evaluate_checkpoint()
    if session.mode == "eval_all":
        return evaluator.evaluate_all()
    return export_checkpoint(evaluator, args.export_format, args.export_dir, args.quantize)


def export_best(session, listeners):
    """Exports the best checkpoint of a training Session as its params say. Returns Result."""
    from common.training.exporter import export_checkpoint
    from session import best_session

    evaluator = new_evaluator(best_session(session), listeners)
    return export_checkpoint(evaluator, session.run.export_best)


def new_evaluator(session, listeners, programs=None):
    from common.training.evaluator import Evaluator
    from common.training.inference import Inference

    return Evaluator(session, Inference(session, new_model(session), listeners, programs))


def new_model(session):
    """Returns the Session's network, whose backbone is not drawn where a checkpoint brings it."""
    from common.backbones.initializers import backbone_is_loaded

    with contextlib.nullcontext() if session.checkpoint is None else backbone_is_loaded():
        return session.new_model()


def show(result, is_json):
    """Prints a Result to stdout: as a line of JSON, or what there is to read.

    Where it has lines of output, the summary goes to stderr, so that programs can read the lines.
    """
    if is_json:
        print(to_json(result.model_dump(mode="json")))
    elif not result.output:
        print(closing_summary(result.lines))
    else:
        print("\n".join(result.output))
        if result.lines:
            log(closing_summary(result.lines))
    sys.stdout.flush()
    for sentence in result.not_written:
        log(f"Not written: {sentence}")
    if result.stopped_by is not None:
        next_step = f"the same command continues at step {result.step}"
        log(f"Stopped by signal {result.stopped_by}; {next_step}")


def inspect(args):
    """Prints the description and content of a checkpoint. Returns the exit code."""
    if args.checkpoint_path is None:
        raise UserError("--mode inspect needs --checkpoint_path, the checkpoint to describe")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # some formats need TensorFlow
    from common.checkpoints.inspect import inspect_checkpoint

    print(inspect_checkpoint(args.checkpoint_path))
    return 0


def compile_each(paths, argv):
    """Runs --compile_only for several params files. Returns the first exit code other than 0, or 0.

    Each file has its own process, because TensorFlow reads the folder for machine code only once,
    and every file can name another model_dir.
    """
    params_alone = argparse.ArgumentParser(add_help=False)
    add_params(params_alone)
    _, others = params_alone.parse_known_args(argv)
    codes = []
    for path in paths:
        print(f"Compiling for {path}", file=sys.stderr, flush=True)
        codes.append(
            subprocess.run([sys.executable, __file__, *others, "--params", path]).returncode
        )
    return next((code for code in codes if code), 0)


def main(argv=None):
    escape_unencodable()
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.params is None and args.mode in ("eval", "eval_all", "predict", "export"):
        args.model_dir = args.model_dir or str(DEFAULT_MODEL_DIR)
        saved = Path(args.model_dir).expanduser() / SAVED
        args.params = [str(saved)] if saved.is_file() else None
    if args.params is None and args.mode != "inspect":
        parser.error("--params is missing: the YAML file, see configs/")
    if args.params is not None and len(args.params) > 1:
        if not args.compile_only:
            parser.error("--params is given twice; only --compile_only takes several files")
        return compile_each(args.params, argv)
    args.params = args.params and args.params[0]
    try:
        if args.mode == "inspect":
            check_only(args.mode, args.validate_only, args.compile_only)
            check_flags(args.mode, args)
            return inspect(args)
        params = get_params(args.params, overrides_of(args), on_warning=log)
        check_flags(params.runconfig.mode, args)
        run = params.runconfig
        check_only(run.mode, run.validate_only, run.compile_only)
        with listening() as control:
            return run_mode(params, args, control)
    except (UserError, RunError, OSError, Stopped, KeyboardInterrupt) as error:
        log(sentence_of(error))
        return exit_code_of(error)


def exit_code_of(error):
    """Returns the exit code of a run that ended with an exception; see the head of this file."""
    if isinstance(error, Stopped):
        return 128 + error.signal_number
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, BusyError):
        return os.EX_TEMPFAIL
    return 2 if isinstance(error, UserError) else 1


def sentence_of(error):
    """Returns the message of an exception for the user."""
    if isinstance(error, Stopped):  # with nothing new to save
        return f"The run was {error}"
    if isinstance(error, KeyboardInterrupt):  # before signals are handled
        return "Interrupted"
    # OSError: such as a full disk or a deleted folder.
    return str(error) if isinstance(error, UserError) else f"The run failed: {error}"


if __name__ == "__main__":
    outlast_readers()
    sys.exit(main())
