# SPDX-License-Identifier: Apache-2.0
"""The flags of run.py, and the combinations that are refused."""

import argparse
import os

from common.cs import target
from common.errors import UserError
from common.export.formats import EXPORT_FORMATS

MODES = ("train", "eval", "train_and_eval", "eval_all", "predict", "export", "inspect")


def make_parser():
    parser = argparse.ArgumentParser(
        prog="run.py",
        usage="run.py --mode MODE [--params YAML] [--model_dir DIR] [--checkpoint_path PATH] ...\n"
        "       run.py --help",
        description="Fine-tunes, evaluates and runs a BERT classifier from one YAML file.",
        epilog="Flags override the YAML file. Example: python run.py --mode train_and_eval "
        "--params configs/params_bert_minilm_sst2.yaml --model_dir runs/sst2 "
        "--checkpoint_path path/to/huggingface_folder",
    )
    add = parser.add_argument
    switch = {"action": "store_true", "default": None}
    add_params(parser)
    add("-m", "--mode", choices=MODES, help="what to do (or runconfig.mode in the file)")
    add(
        "-o",
        "--model_dir",
        metavar="DIR",
        help="folder for checkpoints, metrics and plots; a checkpoint there is resumed "
        "(default: model_dir beside run.py)",
    )
    add(
        "--checkpoint_path",
        metavar="PATH",
        help="train: pre-trained weights to start from; other modes: the checkpoint to use, or of "
        "model_dir the `best`, which runconfig.best_metric chose, or the `newest` (default: the "
        "best where there is one). Formats: Hugging Face, Google, "
        "Cerebras, Keras and this project's, see docs/checkpoints.md",
    )
    add(
        "--allow_changed_params",
        **switch,
        help="resume even if data, network, optimizer or seed differ from those of the checkpoint",
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--validate_only",
        **switch,
        help="check for everything that could make the run fail later; train nothing",
    )
    compile_help = "compile the programs of the run in advance; train nothing"
    only.add_argument("--compile_only", **switch, help=compile_help)
    add("--steps", type=int, metavar="N", help="train this many more steps, at most to max_steps")
    add("--max_steps", type=int, metavar="N", help="train until this global step")
    add("--eval_steps", type=int, metavar="N", help="score N batches of rows (default: every row)")
    add("--device", metavar="DEVICE", help="device to run on, such as /cpu:0 or /gpu:0")
    add("--data_dir", metavar="DIR", help="folder of the TFDS data, for every input")
    add(
        "--override",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set any key of the file, such as optimizer.learning_rate=1e-4; repeatable",
    )
    add("--text", action="append", default=[], help="predict: classify this text; repeatable")
    add(
        "--input_file",
        type=os.path.expanduser,
        metavar="FILE",
        help="predict: classify each row of a .csv, .tsv or .jsonl file, or each line of another; "
        "a tab separates the two texts of a pair",
    )
    add("--export_format", choices=EXPORT_FORMATS, help="export: the format to write")
    add(
        "--export_dir",
        type=os.path.expanduser,
        metavar="DIR",
        help="export: the folder to write (default: export/<format> in model_dir)",
    )
    add("--quantize", choices=("int8",), help="export to onnx: also write weights in int8")
    add("--json", action="store_true", help="print the result as one line of JSON, for programs")
    target.add_flags(parser)
    return parser


def add_params(parser):
    parser.add_argument(
        "-p",
        "--params",
        action="append",
        type=os.path.expanduser,
        metavar="YAML",
        help="the params file, see configs/ (not for inspect; eval, eval_all, predict and export "
        "read params.yaml of model_dir if none is given); repeatable with --compile_only",
    )


def check_flags(mode, args):
    """Refuses flags that belong to another mode."""
    if mode is None:
        raise UserError(f"--mode is missing; one of {', '.join(MODES)}")
    if (args.text or args.input_file) and mode != "predict":
        raise UserError("--text and --input_file classify text: use them with --mode predict")
    if mode == "export" and args.export_format is None:
        raise UserError(f"--mode export needs --export_format: {', '.join(EXPORT_FORMATS)}")
    if args.json and (mode == "inspect" or args.validate_only or args.compile_only):
        raise UserError(
            "--json prints the result of training, eval, eval_all, predict or export; leave it out"
        )
    if mode != "export" and (args.export_format or args.export_dir or args.quantize):
        raise UserError("--export_format, --export_dir and --quantize are for --mode export")


def check_only(mode, validate_only, compile_only):
    """Refuses --validate_only and --compile_only together, and in modes that do not need them."""
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
