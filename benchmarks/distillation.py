# SPDX-License-Identifier: Apache-2.0
"""Students of 3 layers of a MiniLM teacher on SST-2: accuracy, size and sentences a second.

    python benchmarks/distillation.py --weights DIR --data_dir DIR [--seeds 3] [--model_dir DIR]

Every training is one epoch of configs/params_bert_minilm_sst2.yaml, without R-Drop, by `run.py`, in
a folder below --model_dir; what is there already is not trained again. The ways of METHODS:

    alone     layers 0, 2, 5 of the weights that the teacher began with; labels only, no teacher
    logits    those layers of the trained teacher, and its outputs
    tinybert  half an epoch of TinyBERT's losses of layers, then half an epoch of outputs
    minilm    half an epoch of MiniLM's relations, then half an epoch of outputs
    layers_and_logits, relations_and_logits    an epoch of both at once

Then `predict` of teacher and one student, in turns: the rows that were evaluated, batches of 32.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import bench
from benchmarks.bench import HERE, Bench, Spec, flags

ROOT = HERE.parent
CONFIG = "configs/params_bert_minilm_sst2.yaml"
LAYERS = [0, 2, 5]
COMMON = {
    "model.r_drop_alpha": "null",
    "runconfig.eval_every_steps": "null",
    "runconfig.best_metric": "null",
    "runconfig.save_checkpoints_steps": 526,
}
OUTPUTS = {"soft_weight": 1.0, "hard_weight": 0.0, "temperature": 2.0}
NONE = {"soft_weight": 0.0, "hard_weight": 0.0}
# {method: [(epochs, keys of distillation)], one after the other}
METHODS = {
    "alone": [(1, None)],
    "logits": [(1, OUTPUTS)],
    "tinybert": [(0.5, NONE | {"hidden_weight": 1.0, "attention_weight": 1.0}), (0.5, OUTPUTS)],
    "minilm": [(0.5, NONE | {"relation_weight": 1.0}), (0.5, OUTPUTS)],
    "layers_and_logits": [(1, OUTPUTS | {"hidden_weight": 0.5, "attention_weight": 0.02})],
    "relations_and_logits": [(1, OUTPUTS | {"relation_weight": 0.5})],
}


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--weights", required=True)
    add("--data_dir", required=True)
    add("--model_dir", type=Path, default=Path("model_dir/distillation"))
    add("--seeds", type=int, default=3)
    add("--blocks", type=int, default=5)
    add("--only", default="", help="methods whose name begins so")
    add("--override", action="append", default=[], help="KEY=VALUE of every student")
    return parser


def train(model_dir, args, overrides, checkpoint=None):
    """Trains unless that has been done, and evaluates. Returns the accuracy."""
    if not any(model_dir.glob("runs/*/result-*.json")):
        words = ["--mode", "train_and_eval", "--params", CONFIG, "--model_dir", str(model_dir)]
        words += ["--data_dir", args.data_dir]
        words += [] if checkpoint is None else ["--checkpoint_path", str(checkpoint)]
        for key, value in (COMMON | overrides).items():
            words += ["--override", f"{key}={json.dumps(value).strip(chr(34))}"]
        done = subprocess.run(
            [sys.executable, "run.py", *words], capture_output=True, text=True, cwd=ROOT
        )
        if done.returncode:
            raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    return accuracy_of(model_dir)


def accuracy_of(model_dir):
    """The last accuracy on the rows to evaluate."""
    lines = map(json.loads, (model_dir / "metrics.jsonl").read_text().splitlines())
    return [line["eval/accuracy_cls"] for line in lines if "eval/accuracy_cls" in line][-1]


def write_layers(weights, folder):
    """Writes the checkpoint of a BERT with some of its layers alone. Returns the folder."""
    from safetensors.numpy import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors, kept = load_file(weights / "model.safetensors"), {}
    for name, tensor in tensors.items():
        before, found, rest = name.partition("encoder.layer.")
        number, _, rest = rest.partition(".")
        if not found:
            kept[name] = tensor
        elif int(number) in LAYERS:
            kept[f"{before}{found}{LAYERS.index(int(number))}.{rest}"] = tensor
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((weights / "config.json").read_text()) | {"num_hidden_layers": len(LAYERS)}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_bytes((weights / "vocab.txt").read_bytes())
    return folder


def train_student(method, seed, args, teacher):
    """Returns the accuracy, and the folder of the last training."""
    given = dict(pair.split("=", 1) for pair in args.override)
    begin = {"distillation.student_layers": LAYERS}
    checkpoint = None
    for number, (epochs, keys) in enumerate(METHODS[method]):
        folder = args.model_dir / f"{method}_{seed}_{number}"
        overrides = {"runconfig.tf_random_seed": seed, "runconfig.num_epochs": epochs}
        if keys is None:
            checkpoint = write_layers(Path(args.weights), args.model_dir / "layers")
        else:
            overrides |= {f"distillation.{key}": value for key, value in keys.items()}
            overrides |= {"distillation.teacher": str(teacher)} | begin
        overrides |= given
        accuracy = train(folder, args, overrides, checkpoint)
        begin, checkpoint = {}, folder
    return accuracy, folder


def main():
    args = make_parser().parse_args()
    args.model_dir = args.model_dir.resolve()
    folder = args.model_dir / "teacher"
    one_epoch = {"runconfig.num_epochs": 1, "runconfig.tf_random_seed": 1}
    wanted = train(folder, args, one_epoch, args.weights)
    print(f"teacher, 6 layers: {wanted:.4f}", flush=True)
    student = None
    for method in (name for name in METHODS if name.startswith(args.only)):
        found = []
        for seed in range(1, args.seeds + 1):
            accuracy, student = train_student(method, seed, args, folder)
            found.append(accuracy)
        mean = statistics.mean(found)
        listed = " ".join(f"{each:.4f}" for each in found)
        print(f"{method:20} {mean:.4f} [{listed}], {mean / wanted:.3f} of its teacher", flush=True)
    if student is not None:
        measure_speed({"teacher": folder, "student": student}, args)


def measure_speed(folders, args):
    """Measures `predict` of networks in turns. folders: {name: model_dir}."""
    program = str(HERE / "bulk.py")
    with tempfile.TemporaryDirectory(prefix="bench-") as rows:
        words = ["rows", "--model_dir", str(folders["teacher"]), "--rows", rows, "--lines", "1"]
        subprocess.run([sys.executable, program, *words], check=True, cwd=ROOT)
        specs = [
            Spec(
                "predict", "ours", "predict", name, unit="sentences/s", flags=flags(model_dir=path)
            )
            for name, path in folders.items()
        ]
        common = ["predict", "--rows", str(Path(rows) / "evaluated"), "--precision", "bfloat16"]

        def command_of(spec):
            return [sys.executable, program, *common, *spec.flags]

        logs = Path(tempfile.mkdtemp(prefix="bench-logs-"))
        print(bench.HEAD, flush=True)
        results = Bench(args.blocks, logs, command_of, lambda line: print(line, flush=True)).run(
            specs
        )
        teacher, student = results
        print(f"{bench.turn_by_turn(student, teacher):.2f} times as fast, turn by turn")


if __name__ == "__main__":
    main()
