# SPDX-License-Identifier: Apache-2.0
"""Prediction in bulk: sentences a second from raw text to logits, beside OpenVINO and ONNX Runtime.

    python benchmarks/bulk.py --model_dir model_dir/minilm_sst2 --peer .venv-serving/bin/python

Measured are the rows that the training evaluates and so many lines of those that it trains on, by
`--mode predict` with the network and with each engine; and by `--peer`, a Python with
benchmarks/requirements-serving.txt, the same export with rows sorted by length. All run in turns,
in batches of 32. What is not installed is named and left out; exports that are missing are made.
"""

import argparse
import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench import BLOCKS, HEAD, Bench, Spec, flags, ratios_in_turns, turn_by_turn
from common.platform.huge_pages import use_huge_pages
from common.platform.machine_code import set_xla_flags

ROOT = Path(__file__).resolve().parents[1]
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
NARROW = ("bfloat16", "int8")
CORES = len(os.sched_getaffinity(0))
# {program of the peer: package}
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}


# ---- The workers ---------------------------------------------------------------------------------


def opened(args):
    """Returns the Session of a prediction, and the path of its params."""
    from common.platform.streams import take_streams
    from common.training.checks import set_up
    from session import open_session
    from utils import SAVED, get_params

    path = str(Path(args.model_dir) / SAVED)
    changes = {
        "runconfig.mode": "predict",
        "runconfig.model_dir": args.model_dir,
        "runconfig.num_streams": CORES,
        "model.mixed_precision": PRECISIONS[args.precision],
        "predict_input.batch_size": args.batch_size,
        "predict_input.packing": "packed",
    }
    params = get_params(path, changes)
    params = params.with_runconfig(num_streams=take_streams(params.runconfig))
    session = open_session(params, path, texts=["-"])
    set_up(session.run)
    return session


def predict(args):
    """Measures passes over the rows of a file: texts -> tokens -> batches -> logits."""
    from api import new_evaluator
    from benchmarks.worker import Gate, read_rows
    from common.metrics.row_metrics import RowMetrics
    from common.training.inference import sorted_by_length

    session = opened(args)
    inference, params, engine = new_evaluator(session).inference, session.params, None
    if args.engine is None:
        inference.load(session.checkpoint)
    else:
        from serving.bulk import open_for

        engine = open_for(session, inference.model, args.engine)
        inference.take(engine)
        params = sorted_by_length(params, "predict_input")
    texts, labels = read_rows(args.rows)

    def classify():
        batches, _ = session.data.predict_input_fn(params, texts)
        return inference.collect(batches, RowMetrics, "predict", engine)["texts"].outputs["logits"]

    gate = Gate({})
    with gate.serving():
        gate.facts["right"] = int((classify().argmax(-1) == labels).sum())  # compiles, too
        gate.repeat(lambda: {"mean": float(classify().mean())}, len(texts))


def write_rows(args):
    """Writes the rows to evaluate, and lines of those to train on: label and texts, with tabs."""
    session = opened(args)
    batches, texts = session.data.predict_input_fn(session.params)
    split = next(iter(batches))
    labels = batches[split].targets["labels"].tolist()
    source = session.data.get_source(session.params.train_input)
    lines = source.read_texts(source.processor.train_split)[: args.lines]
    lines = (lines * (1 + args.lines // len(lines)))[: args.lines]
    for name, of_file, rows in (
        ("evaluated", labels, texts[split]),
        ("lines", [-1] * len(lines), lines),
    ):
        written = [
            "\t".join([str(label), *(" ".join(text.split()) for text in row)]) + "\n"
            for label, row in zip(of_file, rows, strict=True)
        ]
        (Path(args.rows) / name).write_text("".join(written), "utf-8")


# ---- The measurements ----------------------------------------------------------------------------


def plan(group, has_ours, has_peer):
    """Returns the Specs of a group; a label begins with the precision.

    has_ours, has_peer: package -> bool, whether it is installed here, and there.
    """
    specs = [
        Spec(group, "ours", "predict", precision, flags(precision=precision))
        for precision in PRECISIONS
    ]
    for engine, label in (
        ("onnx", "float32, --engine onnx"),
        ("onnx_int8", "int8, --engine onnx_int8"),
        ("openvino", "bfloat16, --engine openvino"),
    ):
        if has_ours(PACKAGES[engine.partition("_")[0]]):
            specs.append(Spec(group, "ours", "predict", label, flags(engine=engine)))
    for program, precisions in (("onnx", ("float32", "int8")), ("openvino", tuple(PRECISIONS))):
        if not has_peer(PACKAGES[program]):
            continue
        for precision in precisions:
            for streams in sorted({1, CORES}):
                label = precision if streams == 1 else f"{precision}, in {streams} streams"
                how = flags(program=program, precision=precision, streams=streams)
                specs.append(Spec(group, program, "peer", label, how))
    return [Spec(**{**vars(spec), "unit": "sentences/s", "gib": 1.2}) for spec in specs]


def command_of(spec, args, rows):
    """Returns the command of a Spec's worker. rows: Path of the folder of both files."""
    common = ["--rows", str(rows / spec.group.split()[-1]), "--batch_size", str(args.batch_size)]
    if spec.who != "ours":
        export = str(Path(args.model_dir) / "export" / "onnx")
        program = str(Path(__file__).with_name("peer_bulk.py"))
        return [args.peer, program, "--export", export, *common, *spec.flags]
    return [
        sys.executable,
        __file__,
        "predict",
        "--model_dir",
        args.model_dir,
        *common,
        *spec.flags,
    ]


def is_installed(python, package):
    """Whether a Python has a package. python: path; None: this one."""
    if python is None:
        return importlib.util.find_spec(package) is not None
    command = [python, "-c", f"import {package}"]
    return subprocess.run(command, capture_output=True).returncode == 0


def accuracies(results, num_rows):
    """Returns lines on how many labels are right."""
    return [
        f"  {result.facts['right'] / num_rows:.4f} ({result.facts['right']} of {num_rows})  "
        f"{result.spec.name}"
        for result in results
        if result.blocks and result.fault is None
    ]


def ratios(results):
    """Returns lines on this project's best to the best of the others, of each precision."""
    lines = []
    for kind, precisions in (("float32", ("float32",)), ("16 or 8 bits", NARROW)):
        measured = [
            r for r in results if r.blocks and not r.fault and r.spec.label.startswith(precisions)
        ]
        ours = [r for r in measured if r.spec.who == "ours"]
        theirs = [r for r in measured if r.spec.who != "ours"]
        if ours and theirs:
            best, other = (max(side, key=lambda r: r.figure) for side in (ours, theirs))
            turns = turn_by_turn(best, other)
            told = "" if turns is None else f", {turns:.2f} turn by turn "
            told += " ".join(f"{each:.2f}" for each in ratios_in_turns(best, other))
            names = f"{best.spec.name} to {other.spec.name}"
            lines.append(f"  {kind}: {best.figure / other.figure:.2f}{told}: {names}")
    return lines


def make_exports(model_dir):
    """Makes the ONNX files where one is missing."""
    folder = Path(model_dir) / "export" / "onnx"
    if not (folder / "model.onnx").is_file() or not (folder / "model_int8.onnx").is_file():
        command = [
            sys.executable,
            str(ROOT / "run.py"),
            "--mode",
            "export",
            "--model_dir",
            model_dir,
        ]
        command += ["--export_format", "onnx", "--quantize", "int8"]
        subprocess.run(command, check=True, stdout=sys.stderr)


def compare(args):
    make_exports(args.model_dir)
    has_ours = functools.partial(is_installed, None)
    has_peer = functools.partial(is_installed, args.peer) if args.peer else lambda package: False
    for where, has in (("this environment", has_ours), (args.peer or "no --peer", has_peer)):
        for package in PACKAGES.values():
            if not has(package):
                print(f"{package} is not measured: not installed in {where}")
    with tempfile.TemporaryDirectory(prefix="bulk-") as folder:
        rows = Path(folder)
        command = [
            sys.executable,
            __file__,
            "rows",
            "--model_dir",
            args.model_dir,
            "--rows",
            folder,
        ]
        subprocess.run([*command, "--lines", str(args.lines)], check=True)
        counts = {
            path.name: len(path.read_text("utf-8").split("\n")) - 1 for path in rows.iterdir()
        }
        groups = [f"{counts[name]} sentences: {name}" for name in ("evaluated", "lines")]
        specs = [spec for group in groups for spec in plan(group, has_ours, has_peer)]
        specs = [spec for spec in specs if args.only is None or args.only in spec.group]
        print(HEAD)
        logs = Path(args.logs or tempfile.mkdtemp(prefix="bulk-logs-"))
        say = functools.partial(print, flush=True)
        bench = Bench(args.blocks, logs, functools.partial(command_of, args=args, rows=rows), say)
        results = bench.run(specs)
    for group in groups:
        of_group = [result for result in results if result.spec.group == group]
        if of_group:
            print(f"\n{group}, this project's best to the best of the others:")
            print("\n".join(ratios(of_group)))
            if group.endswith("evaluated"):
                print("Accuracy:", *accuracies(of_group, counts["evaluated"]), sep="\n")
    return 1 if any(result.fault for result in results) else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("task", nargs="?", choices=("compare", "predict", "rows"), default="compare")
    add("--model_dir", required=True, help="of a classifier, after its training")
    add("--peer", help="a Python with benchmarks/requirements-serving.txt")
    add("--blocks", type=int, default=BLOCKS, help="of each measurement")
    add("--lines", type=int, default=20_000)
    add("--only", choices=("evaluated", "lines"))
    add("--batch_size", type=int, default=32)
    add("--logs", help="folder for what the programs say")
    add("--rows", help="of a worker: the file, or the folder to write")
    add("--precision", choices=PRECISIONS, default="float32", help="of a worker")
    add("--engine", help="of a worker")
    args = parser.parse_args()
    return {"compare": compare, "predict": predict, "rows": write_rows}[args.task](args)


if __name__ == "__main__":
    if sys.argv[1:2] in (["predict"], ["rows"]):
        use_huge_pages()
        set_xla_flags()
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main())
