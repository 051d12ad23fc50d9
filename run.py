# SPDX-License-Identifier: Apache-2.0
"""The command line: reads the params, chooses the mode, prints what was done and where it is.

    python run.py --mode train --params configs/X.yaml --model_dir D --checkpoint_path C

Exit codes: 0 done; 1 the run failed; 2 wrong usage or configuration; 128 + n stopped by signal n,
in training with everything saved (a second signal ends the process at once). TensorFlow is
imported only once the params have been accepted.
"""

from common.platform.huge_pages import use_huge_pages

if __name__ == "__main__":
    use_huge_pages()  # before the imports, as it makes them again

import argparse
import contextlib
import gc
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

from common.cs import target
from common.errors import RunError, UserError
from common.export.formats import EXPORT_FORMATS
from common.files import delete_leftovers
from common.params import flag_keys
from common.platform.lazy_imports import imported_lazily
from common.platform.machine_code import use_multi_output_fusion
from common.platform.program_cache import compiled_for
from common.platform.tf_private import UNUSED_MODULES
from common.signals import Stopped, listening, poll
from common.training.cluster import read_cluster
from common.training.lock import locked
from common.training.resume import refuse_changes_of_meaning
from utils import changes_from, get_params, parse_override, save_params

TRAINING_MODES = ("train", "train_and_eval")
MODES = ("train", "eval", "train_and_eval", "eval_all", "predict", "export", "inspect")
BEST = "best"  # as --checkpoint_path
DEFAULT_MODEL_DIR = Path(__file__).parent / "model_dir"


def make_parser():
    parser = argparse.ArgumentParser(
        prog="run.py",
        usage="run.py --mode MODE --params YAML [--model_dir DIR] [--checkpoint_path PATH] ...\n"
        "       run.py --help",
        description="Fine-tunes, evaluates and runs a BERT classifier from one YAML file.",
        epilog="Flags override the YAML file. Example: python run.py --mode train_and_eval "
        "--params configs/params_bert_minilm_sst2.yaml --model_dir runs/sst2 "
        "--checkpoint_path path/to/huggingface_folder",
    )
    add = parser.add_argument
    add_params(parser)
    add("-m", "--mode", choices=MODES, help="what to do (or runconfig.mode in the file)")
    add(
        "-o",
        "--model_dir",
        metavar="DIR",
        help="where checkpoints, metrics and plots go; a checkpoint there is resumed "
        "(default: model_dir beside run.py)",
    )
    add(
        "--checkpoint_path",
        metavar="PATH",
        help="train: pre-trained weights to start from; other modes: the checkpoint to use, or "
        "`best`, the one of model_dir that runconfig.best_metric chose. Of Hugging Face, Google, "
        "Cerebras, Keras or ours: see docs/checkpoints.md",
    )
    add(
        "--allow_changed_params",
        action="store_true",
        default=None,
        help="resume although the data, the network, the optimizer or the seed is not the one the "
        "checkpoint was made with",
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--validate_only",
        action="store_true",
        default=None,
        help="check everything that could make the run fail later; train nothing",
    )
    only.add_argument(
        "--compile_only",
        action="store_true",
        default=None,
        help="compile the programs of the run ahead; train nothing",
    )
    add("--steps", type=int, metavar="N", help="train this many more steps, at most to max_steps")
    add("--max_steps", type=int, metavar="N", help="train until this global step")
    add("--eval_steps", type=int, metavar="N", help="batches to evaluate (default: every row)")
    add("--device", metavar="DEVICE", help="device to run on, such as /cpu:0 or /gpu:0")
    add("--data_dir", metavar="DIR", help="folder of the TFDS data, for every input")
    add(
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set any key of the file, as optimizer.learning_rate=1e-4; repeatable",
    )
    add("--text", action="append", default=[], help="predict: classify this text; repeatable")
    add(
        "--input_file",
        metavar="FILE",
        help="predict: classify each line; a tab separates the two texts of a pair",
    )
    add("--export_format", choices=EXPORT_FORMATS, help="export: what to write")
    add(
        "--export_dir",
        metavar="DIR",
        help="export: where to (default: export/<format> in model_dir)",
    )
    add("--quantize", choices=("int8",), help="export to onnx: weights in int8 as well")
    target.add_flags(parser)
    return parser


def add_params(parser):
    parser.add_argument(
        "-p",
        "--params",
        action="append",
        metavar="YAML",
        help="the params file, see configs/ (not for inspect); repeatable with --compile_only",
    )


def overrides_of(args):
    """Returns {dotted key: value} of the flags that were given."""
    overrides = dict(map(parse_override, args.override))
    for flag, key in flag_keys().items():
        value = getattr(args, flag)
        if value is not None:
            overrides[key] = value
    return overrides | target.overrides_of_launcher(args)


def import_quietly():
    """Imports TensorFlow without the lines its libraries write before they can be told not to.

    What is imported stays: to look through it for garbage took a quarter of the time, and is left
    out from then on as well.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    sys.stderr.flush()
    stderr = os.dup(2)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)
    gc.disable()
    try:
        with imported_lazily(UNUSED_MODULES):
            import absl.logging
            import tensorflow

        tensorflow.config.list_physical_devices()  # the search for GPUs speaks too
        absl.logging.set_verbosity(absl.logging.ERROR)
    finally:
        gc.freeze()
        gc.enable()
        os.dup2(stderr, 2)
        os.close(silent)
        os.close(stderr)


def choose_checkpoint(run):
    """Returns (path to resume or None, path to load or None) for the mode.

    Training resumes what is in model_dir, and only else starts from --checkpoint_path; evaluation
    and prediction take --checkpoint_path, else the newest in model_dir. `best` is the one that
    best.json of model_dir names.

    Raises:
        UserError: none is there where one is needed, or none of those in model_dir verifies.
    """
    from common.checkpoints import store

    if run.checkpoint_path is not None and run.mode not in (*TRAINING_MODES, "eval_all"):
        is_best = run.checkpoint_path == BEST
        return None, store.best_checkpoint(run.model_dir) if is_best else run.checkpoint_path
    skipped = []
    newest = store.newest_checkpoint(run.model_dir, on_skip=skipped.append)
    if newest is None and skipped:  # training anew would in the end take their place
        listed = "\n".join(f"  {text.removeprefix('skipped ')}" for text in skipped)
        raise UserError(
            f"no checkpoint of {run.model_dir} is whole:\n{listed}\nBring one back from a copy; "
            "or, to do without them, move them away or choose another --model_dir"
        )
    for text in skipped:
        print(text, file=sys.stderr)
    if run.mode in TRAINING_MODES:
        if newest is not None and run.checkpoint_path is not None:
            print(f"--checkpoint_path is not used: {newest} is resumed", file=sys.stderr)
        return newest, newest or run.checkpoint_path
    if newest is None:
        raise UserError(
            f"{run.model_dir} holds no checkpoint to use; train first"
            + ("" if run.mode == "eval_all" else ", or give --checkpoint_path")
        )
    return None, newest


def run_mode(params, args):
    """Does what the mode says. Returns the exit code."""
    params = params.with_runconfig(model_dir=params.runconfig.model_dir or DEFAULT_MODEL_DIR)
    if params.runconfig.validate_only and not target.is_for_cs(args, params):
        return validate_alone(params, args)
    is_training = params.runconfig.mode in TRAINING_MODES
    cluster = read_cluster(params.runconfig)
    is_writer = is_training and cluster.is_chief
    with locked(params.runconfig.model_dir) if is_writer else contextlib.nullcontext():
        if is_writer:
            delete_leftovers(params.runconfig.model_dir)
        if target.is_for_cs(args, params):
            from common.cs.launch import run_on_cs

            return run_on_cs(params, args, choose_checkpoint, import_quietly, keep_params)
        return run_alone(params, args, cluster)


def validate_alone(params, args):
    """`run_mode` where this machine is asked whether a run would succeed. Returns the exit code."""
    import_quietly()
    poll()
    from common.validate.validate import validate
    from model import make_model, model_fn

    return validate(
        params,
        args.params,
        choose_checkpoint,
        (make_model, model_fn),
        refuse_another_run,
        (args.text, args.input_file),
    )


def run_alone(params, args, cluster):
    """`run_mode` where no other run writes to model_dir."""
    resumed, chosen = choose_checkpoint(params.runconfig)
    run = params.runconfig
    is_alone = not (run.enable_distributed or run.multiple_workers)
    if run.compile_only and not is_alone:
        raise UserError(
            "--compile_only is for one device; leave out runconfig.enable_distributed and "
            "multiple_workers, or the flag: the run compiles by itself"
        )
    use_multi_output_fusion()
    compiled, is_cache = compiled_for(run) if is_alone else (None, False)

    import_quietly()
    poll()
    import tensorflow as tf

    import data
    from common.backbones.initializers import backbone_is_loaded
    from common.checkpoints.load import open_checkpoint
    from common.export.export import check_format
    from common.platform.kept_programs import open_programs
    from common.platform.streams import take_streams
    from common.training.checks import set_up
    from common.training.distribution import make_distribution
    from common.training.estimator import Estimator
    from model import make_model, model_fn

    mode = params.runconfig.mode
    distribution = make_distribution(params.runconfig, cluster)
    params = params.with_runconfig(num_streams=take_streams(params.runconfig))
    if not cluster.is_chief:  # its lock is held by now: no former chief is still saving
        resumed, chosen = choose_checkpoint(params.runconfig)
    if mode in TRAINING_MODES:
        distribution.check_batch_size(params.train_input.batch_size)
    checkpoint = None if chosen is None else open_checkpoint(chosen)
    config = {} if checkpoint is None else checkpoint.config
    if params.runconfig.tf_random_seed is None:
        # Drawn once, and kept with the checkpoint, so that a resumed run has it again.
        seed = config.get("tf_random_seed") if resumed else None
        seed = secrets.randbelow(2**31) if seed is None else seed
        seed = distribution.of_chief(seed)
        params = params.with_runconfig(tf_random_seed=seed)
    texts = data.read_texts(args.text, args.input_file) if mode == "predict" else []
    as_given = params
    with distribution.chief_first():  # where several see one data_dir, one prepares it
        params, label_names, vocab = data.complete_params(
            params, config, args.params, labels_from_checkpoint=bool(texts) or mode == "export"
        )
    if mode == "export":  # an exported model computes in float32, whatever it was trained in
        params = params.with_precision("float32")
    if mode == "train_and_eval" and run.export_best is not None:
        check_format(run.export_best, params)  # now, not after hours of training
    set_up(params.runconfig)
    if run.compile_only:
        from common.validate.compile_ahead import compile_ahead

        with tf.device(run.device):
            return compile_ahead(params, make_model, model_fn, texts)
    programs = None
    if compiled is not None and mode != "export":
        programs = open_programs(compiled, params, is_cache)
    with tf.device(params.runconfig.device), distribution.chief_only_logging():
        with contextlib.nullcontext() if checkpoint is None else backbone_is_loaded():
            estimator = Estimator(
                params, model_fn, make_model, label_names, vocab, distribution, programs
            )
        if mode in TRAINING_MODES:
            if cluster.is_chief:
                keep_params(params, as_given, resumed)
            pretrained = None if resumed else checkpoint
            code = estimator.train(data.train_input_fn, pretrained, resumed, data.eval_input_fn)
            is_exported = params.runconfig.export_best is not None and cluster.is_chief
            if code == 0 and mode == "train_and_eval" and is_exported:
                export_best(params, label_names, vocab)
            return code
        if mode == "eval":
            return estimator.evaluate(data.eval_input_fn, checkpoint)
        if mode == "eval_all":
            return estimator.evaluate_all(data.eval_input_fn)
        if mode == "export":
            text_features = data.get_text_features(params)
            return estimator.export(
                checkpoint,
                text_features,
                args.export_format,
                args.export_dir,
                args.quantize,
                data.eval_input_fn,
                data.describe(params.predict_input),
            )
        batches, texts_of_split = data.predict_input_fn(params, texts)
        logits = estimator.predict(batches, texts_of_split, checkpoint)
        if texts:
            logits = next(iter(logits.values())) / estimator.temperature
            print_predictions(texts, logits, label_names)
        return 0


def keep_params(params, as_given, resumed):
    """Writes params.yaml, and tells what changed; refuses to resume what would be another run."""
    # The vocabulary's path stays as given: one in a checkpoint's folder would not last.
    saved = params.with_inputs_of(as_given)
    if resumed:
        refuse_another_run(saved, resumed)
    for key, old, new in save_params(saved, params.runconfig.model_dir):
        print(f"params.yaml: {key} was {old}, is now {new}", file=sys.stderr)


def refuse_another_run(params, resumed):
    """Raises UserError where params differ in meaning from those of the checkpoint `resumed`."""
    former = Path(params.runconfig.model_dir) / "params.yaml"
    if former.exists():
        is_allowed = params.runconfig.allow_changed_params
        refuse_changes_of_meaning(changes_from(former, params), resumed, is_allowed)


def export_best(params, label_names, vocab):
    """Exports the best checkpoint of model_dir as runconfig.export_best says."""
    import data
    from common.checkpoints.load import open_checkpoint
    from common.checkpoints.store import best_checkpoint
    from common.training.estimator import Estimator
    from model import make_model, model_fn

    params = params.with_precision("float32")
    checkpoint = open_checkpoint(best_checkpoint(params.runconfig.model_dir))
    estimator = Estimator(params, model_fn, make_model, label_names, vocab)
    text_features = data.get_text_features(params)
    about_data = data.describe(params.predict_input)
    estimator.export(checkpoint, text_features, params.runconfig.export_best, data=about_data)


def print_predictions(texts, logits, label_names):
    """Prints a line for each text: label, probability, text; or value, text."""
    from common.metrics.classification import softmax

    if len(label_names) == 1:  # a regression
        for row, (value,) in zip(texts, logits, strict=True):
            print(f"{value:.4f}\t{' | '.join(row)}")
        return
    for row, probabilities in zip(texts, softmax(logits), strict=True):
        best = int(probabilities.argmax())
        print(f"{label_names[best]}\t{probabilities[best]:.4f}\t{' | '.join(row)}")


def inspect(args):
    """Prints what a checkpoint is and holds. Returns the exit code."""
    if args.checkpoint_path is None:
        raise UserError("--mode inspect needs --checkpoint_path, the checkpoint to describe")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # some formats need TensorFlow, most do not
    from common.checkpoints.inspect import inspect_checkpoint

    print(inspect_checkpoint(args.checkpoint_path))
    return 0


def check_flags(mode, args):
    """Refuses flags that belong to another mode."""
    if mode is None:
        raise UserError(f"--mode is missing; one of {', '.join(MODES)}")
    if (args.text or args.input_file) and mode != "predict":
        raise UserError("--text and --input_file classify text: use them with --mode predict")
    if mode == "export" and args.export_format is None:
        raise UserError(f"--mode export needs --export_format: {', '.join(EXPORT_FORMATS)}")
    if mode != "export" and (args.export_format or args.export_dir or args.quantize):
        raise UserError("--export_format, --export_dir and --quantize are for --mode export")


def compile_each(paths, argv):
    """--compile_only of several params files. Returns the first exit code that is not 0, or 0.

    Each in a process of its own: TensorFlow reads once where to keep machine code, and every file
    can name another model_dir.
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


def check_only(mode, validate_only, compile_only):
    """Refuses --validate_only and --compile_only together, and where they have nothing to do."""
    if validate_only and compile_only:
        raise UserError(
            "runconfig.validate_only and runconfig.compile_only are both true; validate first, "
            "then compile"
        )
    flag = "--validate_only" if validate_only else "--compile_only"
    if (validate_only or compile_only) and mode in ("export", "inspect"):
        raise UserError(
            f"{flag} is for training, evaluation and prediction; --mode {mode} takes seconds by "
            "itself, so leave the flag out"
        )


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
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
            return inspect(args)
        params = get_params(
            args.params, overrides_of(args), on_warning=lambda text: print(text, file=sys.stderr)
        )
        check_flags(params.runconfig.mode, args)
        run = params.runconfig
        check_only(run.mode, run.validate_only, run.compile_only)
        with listening():
            return run_mode(params, args)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except (RunError, OSError) as error:  # OSError: a full disk, a folder that was taken away
        print(f"The run failed: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:  # with nothing new to save
        print(f"The run was {stopped}", file=sys.stderr)
        return 128 + stopped.signal_number
    except KeyboardInterrupt:  # before anything listens
        print("Interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
