# SPDX-License-Identifier: Apache-2.0
"""The command line: reads the params, chooses the mode, prints what was done and where it is.

    python run.py --mode train --params configs/X.yaml --model_dir D --checkpoint_path C

Exit codes: 0 done; 1 the run failed; 2 wrong usage or configuration; 128 + n stopped by signal n,
in training with everything saved. TensorFlow is imported only once the params have been accepted.
"""

import argparse
import os
import secrets
import signal
import sys
from pathlib import Path

from common.errors import RunError, UserError
from utils import get_params, parse_override, save_params

MODES = ("train", "eval", "train_and_eval", "eval_all", "predict", "export", "inspect")
EXPORT_FORMATS = ("saved_model", "huggingface", "keras", "onnx", "tf1")
DEFAULT_MODEL_DIR = Path(__file__).parent / "model_dir"


def make_parser():
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Fine-tunes, evaluates and runs a BERT classifier from one YAML file.",
        epilog="Flags override the YAML file. Example: python run.py --mode train_and_eval "
        "--params configs/params_bert_minilm_sst2.yaml --model_dir runs/sst2 "
        "--checkpoint_path path/to/huggingface_folder",
    )
    add = parser.add_argument
    add("-p", "--params", metavar="YAML", help="the params file, see configs/ (not for inspect)")
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
        help="train: pre-trained weights to start from; other modes: the checkpoint to use. Of "
        "Hugging Face, Google, Cerebras, Keras or ours: see docs/checkpoints.md",
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
    return parser


def overrides_of(args):
    """Returns {dotted key: value} of the flags that were given."""
    overrides = {}
    for text in args.override:
        key, value = parse_override(text)
        overrides[key] = value
    runconfig_flags = (
        "mode", "model_dir", "checkpoint_path", "steps", "max_steps", "eval_steps", "device",
    )  # fmt: skip
    for flag in runconfig_flags:
        value = getattr(args, flag)
        if value is not None:
            overrides[f"runconfig.{flag}"] = value
    if args.data_dir is not None:
        overrides["*_input.data_dir"] = args.data_dir
    return overrides


def import_quietly():
    """Imports TensorFlow without the lines its libraries write before they can be told not to."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    sys.stderr.flush()
    stderr = os.dup(2)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)
    try:
        import absl.logging
        import tensorflow

        tensorflow.config.list_physical_devices()  # the search for GPUs speaks too
        absl.logging.set_verbosity(absl.logging.ERROR)
    finally:
        os.dup2(stderr, 2)
        os.close(silent)
        os.close(stderr)


def choose_checkpoint(run):
    """Returns (path to resume or None, path to load or None) for the mode.

    Training resumes what is in model_dir, and only else starts from --checkpoint_path; evaluation
    and prediction take --checkpoint_path, else the newest in model_dir.
    """
    from common.checkpoints import store

    newest = store.newest_checkpoint(
        run.model_dir, on_skip=lambda text: print(text, file=sys.stderr)
    )
    if run.mode in ("train", "train_and_eval"):
        if newest is not None and run.checkpoint_path is not None:
            print(f"--checkpoint_path is not used: {newest} is resumed", file=sys.stderr)
        return newest, newest or run.checkpoint_path
    chosen = newest if run.mode == "eval_all" else run.checkpoint_path or newest
    if chosen is None:
        raise UserError(
            f"{run.model_dir} holds no checkpoint to use; train first"
            + ("" if run.mode == "eval_all" else ", or give --checkpoint_path")
        )
    return None, chosen


def run_mode(params, args):
    """Does what the mode says. Returns the exit code."""
    params = params.with_runconfig(model_dir=params.runconfig.model_dir or DEFAULT_MODEL_DIR)
    resumed, chosen = choose_checkpoint(params.runconfig)

    import_quietly()
    import tensorflow as tf

    import data
    from common.checkpoints.load import open_checkpoint
    from common.training.estimator import Estimator, set_up
    from model import make_model, model_fn

    mode = params.runconfig.mode
    checkpoint = None if chosen is None else open_checkpoint(chosen)
    config = {} if checkpoint is None else checkpoint.config
    if params.runconfig.tf_random_seed is None:
        # Drawn once, and kept with the checkpoint, so that a resumed run has it again.
        seed = config.get("tf_random_seed") if resumed else None
        seed = secrets.randbelow(2**31) if seed is None else seed
        params = params.with_runconfig(tf_random_seed=seed)
    texts = data.read_texts(args.text, args.input_file) if mode == "predict" else []
    as_given = params
    params, label_names, vocab = data.complete_params(
        params, config, args.params, labels_from_checkpoint=bool(texts) or mode == "export"
    )
    if mode == "export":  # an exported model computes in float32, whatever it was trained in
        params = params.with_float32()
    set_up(params.runconfig)
    with tf.device(params.runconfig.device):
        estimator = Estimator(params, model_fn, make_model, label_names, vocab)
        if mode in ("train", "train_and_eval"):
            # The vocabulary's path stays as given: one in a checkpoint's folder would not last.
            saved = params.with_inputs_of(as_given)
            for key, old, new in save_params(saved, params.runconfig.model_dir):
                print(f"params.yaml: {key} was {old}, is now {new}", file=sys.stderr)
            eval_input_fn = data.eval_input_fn if mode == "train_and_eval" else None
            pretrained = None if resumed else checkpoint
            return estimator.train(data.train_input_fn, pretrained, resumed, eval_input_fn)
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
            )
        batches, texts_of_split = data.predict_input_fn(params, texts)
        logits = estimator.predict(batches, texts_of_split, checkpoint)
        if texts:
            print_predictions(texts, next(iter(logits.values())), label_names)
        return 0


def print_predictions(texts, logits, label_names):
    """Prints a line for each text: label, probability, text."""
    from common.metrics.classification import softmax

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


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.params is None and args.mode != "inspect":
        parser.error("--params is missing: the YAML file, see configs/")
    try:
        if args.mode == "inspect":
            return inspect(args)
        params = get_params(args.params, overrides_of(args))
        check_flags(params.runconfig.mode, args)
        return run_mode(params, args)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except (RunError, OSError) as error:  # OSError: a full disk, a folder that was taken away
        print(f"The run failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # outside of training, which saves first
        print("Interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
