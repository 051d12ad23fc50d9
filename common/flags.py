# SPDX-License-Identifier: Apache-2.0
"""The flags of run.py, and the combinations that are refused.

Keys with the property `flag` have one by themselves; here stand those of another form, and those
that no key has.
"""

import argparse
import csv
import os

from common.cs import target
from common.errors import UserError
from common.export.formats import EXPORT_FORMATS
from common.params import contains, field_of, flag_keys
from common.params.serving import ENGINES, OF_CHECKPOINT, ServingParams
from common.params.values import Path

MODES = (
    *("train", "eval", "train_and_eval", "eval_all", "predict", "export", "inspect"),
    *("train_vocab", "prepare_data", "data_report", "report", "experiment", "serve"),
)
REPORTS = ("data_report", "report")
EXECUTORS = ("local", "temporal")


def make_parser():
    parser = argparse.ArgumentParser(
        prog="run.py",
        usage="run.py --mode MODE --params YAML [--model_dir DIR] [--checkpoint_path PATH] ...\n"
        "       run.py --mode MODE --train_file FILE [--eval_file FILE] [--text_columns A,B]\n"
        "              [--label_column A] [--model_dir DIR] --checkpoint_path PATH ...\n"
        "       run.py --help",
        description="Fine-tunes, evaluates and runs a BERT classifier, from one YAML file or from "
        "flags alone.",
        epilog="Flags override the YAML file. Examples: python run.py --mode train_and_eval "
        "--params configs/params_bert_minilm_sst2.yaml --model_dir runs/sst2 "
        "--checkpoint_path path/to/huggingface_folder; python run.py --mode train_and_eval "
        "--train_file mine.csv --text_columns text --label_column label --model_dir runs/mine "
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
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--validate_only",
        **switch,
        help="check for everything that could make the run fail later; train nothing",
    )
    compile_help = "compile the programs of the run in advance; train nothing"
    only.add_argument("--compile_only", **switch, help=compile_help)
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
        "a tab separates the two texts of a pair; a folder: each of its .txt files is a text, and "
        "--text the question to all of them",
    )
    add("--export_format", choices=EXPORT_FORMATS, help="export: the format to write")
    add(
        "--export_dir",
        type=os.path.expanduser,
        metavar="DIR",
        help="export: the folder to write; predict: that which --engine reads (default: "
        "export/<format> in model_dir)",
    )
    add("--quantize", choices=("int8",), help="onnx, tflite: also write weights in int8")
    add(
        "--report_dir",
        type=os.path.expanduser,
        metavar="DIR",
        help="report, data_report: the folder to write (default: model_dir)",
    )
    no_texts = "report, data_report: write no text of the data, where that is private"
    add("--no_texts", **switch, help=no_texts)
    add(
        "--compare",
        type=os.path.expanduser,
        metavar="DIR",
        help="report: the model_dir of another run, whose figures and answers stand beside",
    )
    add(
        "--explain",
        type=int,
        metavar="N",
        help="report: the words that moved the answers to N rows of a classifier, which loads the "
        "network (default: 20; 0: none)",
    )
    add(
        "--executor",
        choices=EXECUTORS,
        help="experiment: what makes the runs; local: child processes on this machine (default); "
        "temporal: the workers of a Temporal server",
    )
    add("--temporal_address", metavar="HOST:PORT", help="of that server (default: localhost:7233)")
    add("--temporal_namespace", metavar="NAME", help="the server's namespace (default: default)")
    add("--json", action="store_true", help="print the result as one line of JSON, for programs")
    add_serving_flags(parser.add_argument_group("serve"))
    group = parser.add_argument_group("keys of the params file", "those of inputs for every input")
    target.add_flags(parser)
    add_flags_of_keys(parser, group)
    return parser


def add_flags_of_keys(parser, group):
    """Adds to a group a flag for each key with the property `flag` for which there is none yet.

    Its help is the key's meaning, and its value is checked as in a params file.
    """
    present = vars(parser.parse_args([]))
    for flag, dotted in flag_keys().items():
        if flag not in present:
            field = field_of(dotted)
            group.add_argument(f"--{flag}", help=help_of(field), **form_of(field.annotation))


def add_serving_flags(group):
    group.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a model to serve (default: that of --model_dir): a model_dir, an export, a folder of "
        "numbered versions, or registry/NAME@ALIAS; repeatable",
    )
    for name, field in ServingParams.model_fields.items():
        form = {"choices": ENGINES} if name == "engine" else form_of(field.annotation)
        default = "" if field.default is None else f" (default: {field.default})"
        group.add_argument(f"--{name}", help=help_of(field) + default, **form)


def help_of(field):
    """Returns a key's meaning as argparse takes it."""
    meaning = field.description.removesuffix(".").replace("%", "%%")
    return meaning if meaning[1].isupper() else meaning[0].lower() + meaning[1:]


def form_of(annotation):
    """The arguments of `add_argument` for a flag with a value of this type."""
    if contains(annotation, bool):
        return {"action": "store_true", "default": None}
    if contains(annotation, Path):
        return {"metavar": "PATH"}
    if contains(annotation, int) or contains(annotation, float):
        return {"metavar": "N"}
    if contains(annotation, tuple):
        return {"metavar": "A,B", "type": as_list, "action": "extend"}  # once for all, or for each
    return {"metavar": "X"}


def as_list(text):
    """The names in `a,b`. One that has a comma in it stands between double quotes, as in CSV."""
    return next(csv.reader([text], skipinitialspace=True), [])


def add_params(parser):
    parser.add_argument(
        "-p",
        "--params",
        action="append",
        type=os.path.expanduser,
        metavar="YAML",
        help="the params file, see configs/ and docs/neural.md (not for inspect; eval, eval_all, "
        "predict and export read params.yaml of model_dir if none is given, and a training with "
        "--train_file needs none); repeatable with --compile_only",
    )


def check_flags(mode, args, is_checked_only=False):
    """Refuses flags that belong to another mode.

    is_checked_only: bool. Whether the run only validates or compiles, by a flag or the params.
    """
    if mode is None:
        raise UserError(f"--mode is missing; one of {', '.join(MODES)}")
    if (args.text or args.input_file) and mode != "predict":
        raise UserError("--text and --input_file classify text: use them with --mode predict")
    if mode == "export" and args.export_format is None:
        raise UserError(f"--mode export needs --export_format: {', '.join(EXPORT_FORMATS)}")
    if args.json and (mode == "inspect" or is_checked_only):
        raise UserError(
            "--json prints the result of training, eval, eval_all, predict, export, train_vocab, "
            "prepare_data, data_report, report or experiment; leave it out"
        )
    if mode != "experiment" and args.executor is not None:
        raise UserError("--executor is for --mode experiment; leave it out")
    of_serving = [
        name
        for name in ServingParams.model_fields
        if name != "engine" and getattr(args, name) is not None
    ]
    if mode != "serve" and (args.model or of_serving):
        flag = "model" if args.model else of_serving[0]
        raise UserError(f"--{flag} is for --mode serve; leave it out")
    if args.engine is not None and mode not in ("serve", "predict"):
        raise UserError(
            "--engine is for --mode serve and --mode predict; leave it out. The figures of an int8 "
            "file come with --mode export --quantize int8"
        )
    if args.engine is not None and is_checked_only:
        raise UserError(
            "--engine is for a prediction that computes; leave it out with --validate_only and "
            "--compile_only"
        )
    if args.json and mode == "serve":
        raise UserError("--json is for a mode with a result; a server has /metrics")
    if mode != "report" and not (args.compare is None and args.explain is None):
        raise UserError("--compare and --explain are for --mode report; leave them out")
    if args.explain is not None and args.explain < 0:
        raise UserError(f"--explain is {args.explain}; 0 or a larger number of rows is wanted")
    if mode not in REPORTS and (args.report_dir or args.no_texts):
        raise UserError(f"--report_dir and --no_texts are for --mode {' and '.join(REPORTS)}")
    if args.executor != "temporal" and (args.temporal_address or args.temporal_namespace):
        raise UserError("--temporal_address and --temporal_namespace are for --executor temporal")
    if mode != "export" and (args.export_format or args.quantize):
        raise UserError("--export_format and --quantize are for --mode export")
    is_read = mode == "predict" and args.engine not in (None, *OF_CHECKPOINT)
    if mode != "export" and args.export_dir and not is_read:
        raise UserError(
            "--export_dir is for --mode export, and for --mode predict with an --engine that reads "
            "exports"
        )


def check_only(mode, validate_only, compile_only):
    """Refuses --validate_only and --compile_only together, and in modes that do not need them."""
    if validate_only and compile_only:
        raise UserError(
            "runconfig.validate_only and runconfig.compile_only are both true; validate first, "
            "then compile"
        )
    flag = "--validate_only" if validate_only else "--compile_only"
    if (validate_only or compile_only) and mode == "prepare_data":
        raise UserError(f"{flag} is not for --mode prepare_data, which checks as it goes")
    if (validate_only or compile_only) and mode in ("export", "inspect", *REPORTS):
        raise UserError(
            f"{flag} is for training, evaluation and prediction; --mode {mode} takes seconds by "
            "itself, so leave the flag out"
        )
