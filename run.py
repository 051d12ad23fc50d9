# SPDX-License-Identifier: Apache-2.0
"""The command line: reads the params, runs the mode, prints its Result.

    python run.py --mode train --params configs/X.yaml --model_dir D --checkpoint_path C
    python run.py --mode train --train_file X.csv --model_dir D --checkpoint_path C

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
from common.checkpoints.first_weights import check_origin
from common.console import closing_summary, escape_unencodable, log
from common.cs import target
from common.errors import RunError, UserError
from common.files import delete_leftovers
from common.flags import add_params, check_flags, check_only, make_parser
from common.params import flag_keys
from common.params.serving import OF_CHECKPOINT, ServingParams, serving_params
from common.platform.machine_code import compiled_for, set_xla_flags
from common.platform.quiet_imports import import_quietly
from common.platform.standard_streams import end_at_once, outlast_readers
from common.reports.metrics_file import to_json
from common.signals import Stopped, listening, poll
from common.training.cluster import read_cluster
from common.training.lock import check_written, locked
from common.training.run_record import exit_code_of, on_record, sentence_of
from utils import COMMAND_LINE, SAVED, get_params, get_vocabulary_file, parse_override

# Beside this file; as an installed package has no such place, in the working directory.
DEFAULT_MODEL_DIR = Path("model_dir") if __package__ else Path(__file__).parent / "model_dir"


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
    if params.runconfig.mode == "prepare_data":
        return prepare_data(params, args)
    params = params.with_runconfig(model_dir=params.runconfig.model_dir or DEFAULT_MODEL_DIR)
    if params.runconfig.mode == "data_report":
        return data_report(params, args)
    check_written(params.runconfig.model_dir)
    if args.params is None:
        check_origin(params.runconfig)
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

    path = args.params or COMMAND_LINE
    return session.open_session(params, path, args.text, args.input_file, **options)


def run(params, args, cluster, control):
    """Runs on this machine, on record. Returns the exit code."""
    if not cluster.is_chief:
        return run_session(params, args, cluster, control, None)
    with on_record(params, sys.argv) as record:
        exit_code = run_session(params, args, cluster, control, record)
        record.end(exit_code)
    return exit_code


def run_session(params, args, cluster, control, record):
    """Opens the Session and does its mode. record: RunRecord of the chief, or None."""
    is_alone = not params.runconfig.is_distributed
    if params.runconfig.compile_only and not is_alone:
        raise UserError(
            "--compile_only is for one device; leave out runconfig.enable_distributed and "
            "multiple_workers, or leave out the flag: the run compiles at its start"
        )
    set_xla_flags()
    compiled, is_cache = compiled_for(params.runconfig) if is_alone else (None, False)

    import_quietly()
    poll()
    import tensorflow as tf

    from api import carry_out, export_best
    from common.platform.kept_programs import open_programs
    from common.platform.streams import take_streams
    from common.reports.listener import Listeners
    from common.reports.listeners import standard_listeners
    from common.reports.tracking import trackers_of
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
    engine = None if args.engine in (None, *OF_CHECKPOINT) else args.engine
    if compiled is not None and session.mode != "export" and engine is None:
        tell = (lambda text: None) if session.texts else log
        programs = open_programs(compiled, session.params, is_cache, tell)
    listeners = Listeners()
    if record is not None and not session.texts:  # a text is answered by its line alone
        # What was evaluated is printed, even if the model_dir is read-only.
        outlasts = not session.is_training
        told = session.model_dir, session.run.log_steps, outlasts
        listeners = standard_listeners(*told, others=trackers_of(session.run))
    with (
        tf.device(session.run.device),
        distribution.chief_only_logging(),
        contextlib.closing(listeners),
    ):
        how = args.export_format, args.export_dir, args.quantize
        result = carry_out(session, control, listeners, programs, how, engine)
        if record is not None:
            record.keep(result)
            show(result, args.json)  # before an export, which can fail
            is_exported = session.mode == "train_and_eval" and session.run.export_best is not None
            if is_exported and result.stopped_by is None:
                show(export_best(session, listeners), args.json)
        return result.exit_code


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
        log(f"Stopped by {signal.Signals(result.stopped_by).name}; {next_step}")


def inspect(args):
    """Prints the description and content of a checkpoint. Returns the exit code."""
    if args.checkpoint_path is None:
        raise UserError("--mode inspect needs --checkpoint_path, the checkpoint to describe")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # some formats need TensorFlow
    from common.checkpoints.inspect import inspect_checkpoint

    print(inspect_checkpoint(args.checkpoint_path))
    return 0


def train_vocab(args):
    """Trains or extends a vocabulary. Returns the exit code."""
    overrides = overrides_of(args)
    allowed = ("runconfig.mode", "runconfig.model_dir")
    for key in overrides:
        if key not in allowed and not key.startswith("vocabulary."):
            raise UserError(
                f"{key} is not for --mode train_vocab; its flags are --params, --model_dir, --json "
                "and --override vocabulary.KEY=VALUE"
            )
    overrides.pop("runconfig.mode")
    check_flags(args.mode, args)
    file = get_vocabulary_file(args.params, overrides)
    from input.vocabulary import train_vocab

    result = train_vocab(file.vocabulary, file.runconfig.model_dir or DEFAULT_MODEL_DIR)
    show(result, args.json)
    return result.exit_code


def report(args):
    """Writes the report of a run. Returns the exit code."""
    check_flags(args.mode, args)
    given = set(overrides_of(args)) - {"runconfig.mode", "runconfig.model_dir"}
    if given or args.params is not None:
        raise UserError(
            f"{', '.join(sorted(given)) or '--params'} is not for --mode report, which reads the "
            "files of --model_dir; its flags are --compare, --report_dir, --no_texts and --json"
        )
    from common.training.reporter import write_report

    model_dir = os.path.expanduser(args.model_dir or DEFAULT_MODEL_DIR)
    num = 20 if args.explain is None else args.explain
    explain = functools.partial(explain_texts, model_dir) if num > 0 else None
    where = args.report_dir, args.compare
    result = write_report(model_dir, *where, not args.no_texts, explain, num)
    show(result, args.json)
    return result.exit_code


def explain_texts(model_dir, texts, answers):
    """Returns the words that moved the answers to texts, of the network of a model_dir."""
    import_quietly()
    from api import new_evaluator
    from common.training.moved_words import words_that_moved
    from session import open_session

    values = {"mode": "predict", "model_dir": str(model_dir), "num_streams": 1}
    values = {f"runconfig.{key}": value for key, value in values.items()}
    values |= {"model.mixed_precision": "float32", "*_input.packing": "none"}
    path = Path(model_dir) / SAVED
    session = open_session(get_params(path, values), str(path), ["\t".join(row) for row in texts])
    return words_that_moved(session, new_evaluator(session).inference, answers)


def make_experiment(args):
    """Makes the runs of an experiment. Returns the exit code."""
    check_flags(args.mode, args)
    if args.params is None:
        raise UserError("--mode experiment needs --params, such as configs/experiments/sample.yaml")
    if args.compile_only:
        raise UserError("--compile_only is for one run; give it with the experiment's base")
    from experiments.controller import check_combinations, plan_lines, run_experiment
    from experiments.experiment import read_experiment
    from experiments.temporal import check_installed
    from experiments.temporal.types import ADDRESS, NAMESPACE

    experiment = read_experiment(args.params)
    flags = overrides_of(args)
    for key in ("runconfig.mode", "runconfig.validate_only"):
        flags.pop(key, None)
    model_dir = flags.pop("runconfig.model_dir", None) or DEFAULT_MODEL_DIR
    if args.validate_only:
        check_combinations(experiment, flags)
        print("\n".join(plan_lines(experiment)))
        return 0
    server = ()
    if args.executor == "temporal":
        check_installed()
        from experiments.temporal.executor import run_experiment

        server = args.temporal_address or ADDRESS, args.temporal_namespace or NAMESPACE
    with listening() as control:
        result, failed = run_experiment(experiment, model_dir, flags, control, *server)
    show(result, args.json)
    if failed:
        raise RunError(
            f"{', '.join(failed)} failed; their logs are in {result.model_dir}/logs, and the same "
            "command tries them again"
        )
    return result.exit_code


def serve(args):
    """Serves models until a signal. Returns the exit code."""
    check_flags(args.mode, args)
    overrides = overrides_of(args)
    overrides.pop("runconfig.mode")
    model_dir = overrides.pop("runconfig.model_dir", None)
    if args.params or overrides:
        flag = "params" if args.params else next(iter(overrides)).rpartition(".")[2]
        raise UserError(f"--{flag} is not for --mode serve, whose models bring their params")
    given = {name: getattr(args, name) for name in ServingParams.model_fields}
    settings = serving_params({name: value for name, value in given.items() if value is not None})
    set_xla_flags()
    from serving.server import serve, sources_of

    sources = sources_of(args.model, model_dir or str(DEFAULT_MODEL_DIR), settings.engine)
    with listening() as control:
        return serve(sources, settings, control)


def prepare_data(params, args):
    """Makes what a training reads, ahead of it. Returns the exit code."""
    import_quietly()
    poll()
    import session

    result = session.prepare_data(params)
    show(result, args.json)
    return result.exit_code


def data_report(params, args):
    """Looks at the rows before any training. Returns the exit code."""
    import_quietly()
    poll()
    import session

    folder = Path(args.report_dir or params.runconfig.model_dir)
    result = session.data_report(params, folder, not args.no_texts)
    show(result, args.json)
    return result.exit_code


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
    uses_saved = args.mode in ("eval", "eval_all", "predict", "export")
    if args.mode == "data_report" and args.train_file is None:
        uses_saved = True
    if args.params is None and uses_saved:
        args.model_dir = args.model_dir or str(DEFAULT_MODEL_DIR)
        saved = Path(args.model_dir).expanduser() / SAVED
        args.params = [str(saved)] if saved.is_file() else None
        if args.params is None and args.train_file is None:
            lacks = f"holds no {SAVED}" if saved.parent.is_dir() else "is not there"
            parser.error(
                f"model_dir {args.model_dir} {lacks}; give the --model_dir of a training, or "
                "--params"
            )
    needs_params = args.mode not in ("inspect", "serve", "report")
    if args.params is None and args.train_file is None and needs_params:
        parser.error(
            "--params is missing: the YAML file, see configs/; or, for a training without one, "
            "--train_file, a .csv, .tsv or .jsonl file"
        )
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
        if args.mode == "train_vocab":
            return train_vocab(args)
        if args.mode == "report":
            return report(args)
        if args.mode == "experiment":
            return make_experiment(args)
        if args.mode == "serve":
            return serve(args)
        params = get_params(args.params, overrides_of(args), on_warning=log)
        run = params.runconfig
        check_flags(run.mode, args, run.validate_only or run.compile_only)
        check_only(run.mode, run.validate_only, run.compile_only)
        with listening() as control:
            return run_mode(params, args, control)
    except (UserError, RunError, OSError, Stopped, KeyboardInterrupt) as error:
        log(sentence_of(error))
        return exit_code_of(error)


if __name__ == "__main__":
    outlast_readers()
    code = main()
    if "temporalio" in sys.modules:  # whose threads may abort an interpreter that ends
        end_at_once(code)
    sys.exit(code)
