# SPDX-License-Identifier: Apache-2.0
"""Every command of README.md, docs/*.md and the heads of configs/*.yaml works as it is written.

All are read and checked; those that are not listed in `NOT_RUN` run too, on a few rows of the
sample, from the weights of a tiny network.
"""

import ast
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import run
from common.flags import make_parser
from common.params import OF_FILES
from experiments.experiment import read_experiment
from extras.neural.__main__ import make_parser as make_neural_parser
from tests.reference.documented_commands import PAGES, ROOT, documented_commands
from tests.reference.tiny_bert import (
    FILTER_SIZE,
    HIDDEN_SIZE,
    NUM_HEADS,
    NUM_LAYERS,
    huggingface_tensors,
    save_huggingface,
)
from utils import get_params

P, D = "configs/params_bert_minilm_sst2.yaml", "model_dir/minilm_sst2"  # as in the README
OWN = "configs/params_bert_minilm_own_data.yaml"
PLACEHOLDERS = {"P": P, "P.yaml": P, "FILE.yaml": P, "HOST:PORT": "cluster:9000"}
REFUSED = ("x.yaml", "my.yaml")  # params files whose faults a page shows
PYTHON = ("python", ".venv/bin/python", ".venv-jax/bin/python")
CS_PYTHON = ROOT / ".venv-cs" / "bin" / "python"
TIMEOUT_SECONDS = 600  # of one process on a busy machine

# What is checked and not run: a pattern, and the reason.
NOT_RUN = {
    r"make test(-slow|-backends|-cs|-beam|-temporal|-faults)?$": "the tests themselves",
    r"((\.venv/bin/)?python -m )?pytest ": "tests, which `make test` and `make test-slow` run",
    r"make (setup|cs-setup|beam-setup|temporal-setup)$": "downloads gigabytes",
    r"make temporal-demo$|\.venv-temporal/": "another environment; tests/experiments/temporal",
    r"\.venv-beam/": "another environment; tests/beam",
    r"python run.py --mode serve": "until a signal; tests/serving",
    r"curl ": "asks a server; tests/serving/test_documented_requests.py",
    r"python run.py --mode prepare_data": "documents; tests/input/test_row_stores.py",
    r"(\.venv-jax/bin/)?pip install|python -m venv|\.venv-jax/": "downloads another environment",
    r"python -c .*tfds\.load\('glue": "downloads GLUE",
    r"python -m common.reports.feed_tracker": "a tracker; tests/common/reports/test_tracking.py",
    r"make docs$": "writes into docs/; tests/common/params/test_docs.py compares",
    r"make bench": "minutes; tests/benchmarks runs the programs that it starts",
    r"python benchmarks/bulk.py": "minutes; tests/benchmarks/test_bulk.py has fewer rows",
    r"python benchmarks/compare_trees.py": "two checkouts; tests/benchmarks/test_compare_trees.py",
    r"python tests/faults/(harness|stop).py": "hours; tests/faults/test_harness.py has short ones",
    r"csrun_wse |csrun_cpu .*--cs_ip": "a CS system; tests/common/cs/test_target.py without one",
    r"csrun_cpu .* -p P -o D$": "the original's, whose P describes a network; tests/cs",
    r".*--checkpoint_path hf://": "the hub; tests/common/checkpoints/test_hub.py",
    r".* --device /gpu:0": "a GPU",
    r".*--model_dir /shared/": "several machines; tests/test_run_workers.py has two processes",
    r"python run.py .*--params (my|x).yaml": "shows a refusal; tests/test_utils.py has such",
    r"python run.py .*--params configs/params_\w+_(wnut17|bc5cdr|xquad|squad).yaml": "a user's own "
    "files; tests/input/samples/test_words.py trains on the sample's",
    r"python run.py .*--params configs/params_bert_minilm_pretrain_text.yaml": "20 minutes; "
    "benchmarks/pretraining_quality.py runs it",
    r"make pretrain-demo$": "minutes, and a package of text",
    r"python run.py .*(vocab|params_bert_small)_speeches.yaml": "that package's text",
    r"python run.py .*--params configs/params_bert_small_sample.yaml": "after make pretrain-demo",
    r"python run.py .*--params configs/params_bert_minilm_distil_sample.yaml": "a teacher; "
    "tests/common/training/test_teacher.py",
    r"python .*(\.neural .*mine/|model_dir/bert_classifier)": "minutes, and a user's own files; "
    "tests/extras/neural/test_compile.py has smaller ones",
    r"python run_appliance.py": "the original's",
    r"csrun_cpu .*--params configs/params_\w+_msl\d+.yaml": "tests/cs/test_pretraining.py lowers "
    "its programs",
    r"python run.py .*--params configs/params_\w+_msl\d+.yaml": "weeks, on records",
}
# Programs beside run.py, and what makes them small.
SMALL = {
    "experiments.runs": (),
    "extras.neural": (),
    "benchmarks/memory.py": ("--layers", "1", "--batch_size", "2", "--tokens", "8"),
    "benchmarks/save.py": ("--num_layers", "1", "--saves", "1"),
    "benchmarks/exports.py": ("--rounds", "1", "--batch_size", "4"),
    "benchmarks/vocabulary.py": ("--rounds", "1", "--vocab_size", "500"),
    "tests/faults/damage.py": ("--damages", "20"),
    "tests/faults/fuzz_text_files.py": ("--inputs", "20"),
    "tests.faults.fuzz_checkpoints": ("--inputs", "10"),
    "tests.faults.fuzz_yaml": ("--files", "20"),
    # Written by the command before it.
    f"{D}/export/keras_source/model.py": (),
    "bert_tf.py": (),
}


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    return documented_commands(tmp_path_factory.mktemp("commands"))


# ---- Reading them --------------------------------------------------------------------------------


def test_every_documented_command_is_understood(commands, monkeypatch, capsys):
    modes = ("inspect", "train_vocab", "prepare_data", "report", "make_experiment", "serve")
    for name in ("run_mode", "compile_each", *modes):
        monkeypatch.setattr(run, name, lambda *arguments: 0)
    faults = []
    for command in commands:
        capsys.readouterr()
        try:
            check(command.words)
            if command.words[0] != "make" and reason_not_to_run(command.words) is None:
                process_of(command.words)
        except (Exception, SystemExit) as fault:
            faults.append(f"{command}\n  {type(fault).__name__}: {fault} {capsys.readouterr().err}")
    assert not faults, "\n".join(faults)
    lines = [" ".join(command.words) for command in commands]
    assert not [pattern for pattern in NOT_RUN if not any(re.match(pattern, x) for x in lines)]
    assert len(commands) > 150
    assert {command.page for command in commands} >= {"README.md", "docs/training.md", P}


def test_a_newcomer_reads_1500_words():
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 1500


def check(words):
    """Raises where a command cannot be meant as it is written."""
    match words:
        case ["csrun_cpu" | "csrun_wse", "...", *flags]:
            check(("python", "run.py", "...", *flags))
        case ["csrun_cpu" | "csrun_wse", *command]:
            check(command)
        case ["/usr/bin/time", "-v", *command]:
            check(command)
        case ["python", "run_appliance.py", *flags]:
            check(("python", "run.py", *flags))
        case ["python", "run.py", *flags]:
            check_run(flags)
        case ["pytest", *arguments] | ["python" | ".venv/bin/python", "-m", "pytest", *arguments]:
            check_tests(arguments)
        case ["python", "-m", "venv", _] | ["python" | ".venv/bin/python", "-m", "pip", *_]:
            pass
        case [".venv-beam/bin/python", "-m", module, *_]:  # tests/beam has its flags
            assert (ROOT / f"{module.replace('.', '/')}.py").exists()
        case [".venv-temporal/bin/temporal", *_]:
            pass
        case [".venv-temporal/bin/python", *rest]:
            check(("python", *rest))
        case ["python", "-m", "extras.neural", *flags]:
            make_neural_parser().parse_args(flags)
        case ["python", "-m", module, *flags]:
            check_program(module.replace(".", "/") + ".py", flags)
        case ["python", "-c", code]:
            ast.parse(code)
        case ["python", program, *_] if program in SMALL and not (ROOT / program).exists():
            pass
        case [python, program, *flags] if python in PYTHON:
            check_program(program, flags)
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), flags=re.M)
        case ["pip" | ".venv-jax/bin/pip", "install", *_] | ["curl", *_]:
            pass
        case ["tensorboard" | "saved_model_cli" as program, *_]:
            assert (Path(sys.executable).parent / program).exists()
        case _:
            raise AssertionError("not a command that this test knows")


def check_run(flags):
    """As `run.py` does, up to the mode. The dots stand for the rest of a command."""
    flags = [part for flag in flags for part in (rest_of_run(flags) if flag == "..." else (flag,))]
    flags = [value_of(flag) for flag in flags] or rest_of_run(flags)
    if "--help" in flags or set(REFUSED) & set(flags):
        make_parser().parse_args([flag for flag in flags if flag != "--help"])
        return
    if reads_saved_params(flags):
        flags += ["--params", OWN]
    assert run.main(flags) == 0


def reads_saved_params(flags):
    """Whether the params are those that a training before has saved in model_dir."""
    is_user = {"eval", "eval_all", "predict", "export"} & set(flags)
    return is_user and not {"--params", "-p", "--train_file"} & set(flags)


def rest_of_run(flags):
    given = {flag for flag in flags if flag.startswith("-")}
    rest = {"--mode": "train", "--params": P, "--model_dir": D, "--checkpoint_path": "FOLDER"}
    return [part for name, value in rest.items() if name not in given for part in (name, value)]


def value_of(word):
    """Returns what a user would write for a placeholder, and P for the params that a run saved."""
    is_saved = word.startswith("model_dir/") and word.endswith("/params.yaml")
    return P if is_saved else PLACEHOLDERS.get(word, word)


def check_program(program, flags):
    """There is such a program, and it has these flags."""
    text = (ROOT / program).read_text("utf-8")
    for flag in flags:
        assert not flag.startswith("--") or f'"{flag}"' in text, flag


def check_tests(arguments):
    """There are such tests; `-k` by the names of functions."""
    arguments = [argument for argument in arguments if argument != "-s"]
    expression = "True"
    for flag in ("-k", "-m"):
        if flag in arguments:
            at = arguments.index(flag)
            expression = arguments[at + 1] if flag == "-k" else expression
            del arguments[at : at + 2]
    assert arguments
    files = [path for name in arguments for path in files_of(ROOT / name)]
    names = [f"{path.name} {name}" for path in files for name in functions_of(path)]
    assert any(eval(expression, {}, Words(name)) for name in names), f"no test: {arguments}"


def files_of(path):
    return sorted(path.rglob("test_*.py")) if path.is_dir() else [path]


def functions_of(path):
    tree = ast.parse(path.read_text("utf-8"))
    return [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


class Words(dict):
    """Whether a name has a word, for the variables of an expression."""

    def __init__(self, name):
        self.name = name

    def __missing__(self, word):
        return word in self.name


# ---- Running them --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder as Hugging Face writes it: a network of 6, with every letter in its vocabulary."""
    tensors = huggingface_tensors()
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(33, 127))]
    vocab += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    for name, rows in (("word", len(vocab)), ("position", 512)):
        generator = np.random.default_rng(rows)
        values = generator.normal(size=(rows, HIDDEN_SIZE)).astype(np.float32)
        tensors[f"embeddings.{name}_embeddings.weight"] = values
    folder = tmp_path_factory.mktemp("weights")
    save_huggingface(folder, tensors, vocab_size=len(vocab), max_position_embeddings=512)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab), "utf-8")
    return folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def trained(weights, data_dir, tmp_path_factory):
    """A model_dir of the README's params after training."""
    desk = Desk(tmp_path_factory.mktemp("trained"), weights, data_dir, None)
    words = ("--mode", "train_and_eval", "--params", P, "--model_dir", D)
    desk.run(("python", "run.py", *words, "--checkpoint_path", "FOLDER"))
    return desk.folder / D


@pytest.mark.slow
@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_the_commands_of_a_page_run(page, commands, weights, data_dir, trained, tmp_path):
    desk, workers = Desk(tmp_path / "desk", weights, data_dir, trained), []
    for command in commands:
        if command.page == page and reason_not_to_run(command.words) is None:
            if command.tf_config:
                workers.append(command)
            else:
                desk.run(command.words)
    desk.run_together(workers)


def reason_not_to_run(words):
    line = " ".join(words)
    if words[0].startswith("csrun_cpu") and "--validate_only" in words and not CS_PYTHON.exists():
        return f"no {CS_PYTHON}: make cs-setup"
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, line)), None)


def process_of(words, small=list):
    """Returns the arguments of the process that runs a command. small: of run.py's flags.

    Raises KeyError or AssertionError for a command that is neither run nor in NOT_RUN.
    """
    words = [word for word in words if word not in ("/usr/bin/time", "-v")]
    match words:
        case ["csrun_cpu", *rest]:
            rest = ["python", "run.py", *rest] if rest[0] == "..." else rest
            return ["bin/csrun_cpu", "python", "run.py", *small(rest[2:])]
        case ["python", "run.py", *flags]:
            return [sys.executable, "run.py", *small(flags)]
        case ["python", "-m", module, *flags]:
            return [sys.executable, "-m", module, *flags, *SMALL[module]]
        case ["python", program, *flags]:
            return [sys.executable, program, *flags, *SMALL[program]]
        case ["tensorboard", *flags]:
            return [Path(sys.executable).parent / "tensorboard", *flags, "--inspect"]
        case ["saved_model_cli", *flags]:
            return [Path(sys.executable).parent / "saved_model_cli", *flags]
    raise AssertionError(f"neither run nor in NOT_RUN: {' '.join(words)}")


class Desk:
    """A folder from which a user types: the project by links, and a model_dir of its own.

    Args:
        folder: Path, made here.
        weights, data_dir: Paths that replace a command's.
        trained: Path of a model_dir; a copy replaces one that a page takes for granted. Or None.
    """

    def __init__(self, folder, weights, data_dir, trained):
        self.folder, self.weights, self.data_dir, self.trained = folder, weights, data_dir, trained
        folder.mkdir(exist_ok=True)
        for path in ROOT.iterdir():
            if path.name not in ("model_dir", ".git", ".venv"):
                (folder / path.name).symlink_to(path)
        (folder / ".venv").symlink_to(sys.prefix)
        (folder / "mine").mkdir()
        for name in ("mine/train.csv", "mine/validation.csv", "mine/new.csv"):
            rows = [f"it is {word},{word}" for word in ("good", "bad") * 8]
            (folder / name).write_text("\n".join(["text,label", *rows, ""]), "utf-8")
        (folder / "sentences.txt").write_text("never once dull\n", "utf-8")

    def run(self, words):
        """Runs one command to its end, which has to be a good one."""
        if words[0] == "make":
            for recipe in self.recipes_of(words[1:]):
                self.run(recipe)
            return
        self.end(self.start(words))

    def run_together(self, commands):
        """Runs workers, each with its TF_CONFIG, on ports that are free."""
        started = []
        for command in commands:
            tf_config = command.tf_config
            for address in re.findall(r"localhost:\d+", commands[0].tf_config):
                self.ports = getattr(self, "ports", {})
                self.ports.setdefault(address, f"localhost:{free_port()}")
                tf_config = tf_config.replace(address, self.ports[address])
            started.append(self.start(command.words, TF_CONFIG=tf_config))
        for each in started:
            self.end(each)

    def recipes_of(self, arguments):
        """Returns the commands of this project that make would start."""
        make = ["make", "--dry-run", "--assume-old", ".venv/.installed", *arguments]
        done = subprocess.run(make, cwd=self.folder, capture_output=True, text=True, check=True)
        lines = map(shlex.split, done.stdout.replace("\\\n", " ").splitlines())
        recipes = [("python", *words[1:]) for words in lines if words[0].endswith("bin/python")]
        assert recipes
        return recipes

    def start(self, words, **environment):
        arguments, cwd = process_of(words, self.small), self.folder
        if words[0] == "saved_model_cli":
            cwd /= f"{D}/export/saved_model"  # the page says: in the folder
        # A file, not a pipe: of workers that wait for each other, one at a time is read.
        output = tempfile.TemporaryFile("w+")  # noqa: SIM115  (`end` closes it)
        process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        return process, output

    def end(self, started):
        process, output = started
        try:
            process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with output:
            output.seek(0)
            output = output.read()
        told = f"{' '.join(map(str, process.args))}\n{output}"
        assert process.returncode == 0, told  # -9: it took longer than TIMEOUT_SECONDS
        assert "Traceback" not in output, told

    def small(self, flags):
        """Returns the flags of run.py with weights, data and steps that take seconds."""
        if "--help" in flags:
            return flags
        flags = [
            part for flag in flags for part in (rest_of_run(flags) if flag == "..." else (flag,))
        ]
        flags = [PLACEHOLDERS.get(flag, flag) for flag in flags]
        args = make_parser().parse_args(flags)
        if args.checkpoint_path is not None:
            flags[flags.index("--checkpoint_path") + 1] = str(self.weights)
        vocab_file = self.weights / "vocab.txt"
        flags = [
            re.sub(r"vocab_file=(WEIGHTS/vocab.txt|PLACEHOLDER)$", f"vocab_file={vocab_file}", flag)
            for flag in flags
        ]
        if args.mode in ("inspect", "train_vocab"):
            return flags
        if args.mode == "report":
            for name in filter(None, (args.model_dir, args.compare)):
                if not (self.folder / name / "metrics.jsonl").exists():
                    shutil.copytree(self.trained, self.folder / name, dirs_exist_ok=True)
            return flags
        model_dir = self.folder / (args.model_dir or "model_dir")
        makes_its_own = args.mode.startswith("train") or args.mode == "experiment"
        if not makes_its_own and not list(model_dir.glob("checkpoint-*")):
            shutil.copytree(self.trained, model_dir, dirs_exist_ok=True)
        params = self.params_of(args, model_dir)
        changes = {
            "*_input.max_train_samples": 24,
            "*_input.max_eval_samples": 12,
            "train_input.batch_size": 8,
        }
        if params.train_input.data_processor not in OF_FILES:
            task = "mnli" if params.train_input.data_processor.startswith("Mnli") else "sst2"
            changes["*_input.dataset"] = f"sample_glue/{task}"
        if params.model.hidden_size is not None and args.checkpoint_path is not None:
            changes |= {
                "model.hidden_size": HIDDEN_SIZE,
                "model.num_hidden_layers": NUM_LAYERS,
                "model.num_heads": NUM_HEADS,
                "model.filter_size": FILTER_SIZE,
                "model.vocab_size": "",
                "model.mixed_precision": "false",
                "optimizer.loss_scaling_factor": 1.0,
            }
        words = {"--num_epochs": "--max_steps"}  # the last of which counts
        flags = [
            "runconfig.max_steps=2" if flag.startswith("runconfig.num_epochs=") else flag
            for flag in (words.get(flag, flag) for flag in flags)
        ]
        flags += ["--data_dir", str(self.data_dir), "--max_steps", "2"]
        for key, value in changes.items():
            flags += ["--override", f"{key}={value}"]
        return flags

    def params_of(self, args, model_dir):
        """Returns the Params of a command, from a file or from flags alone."""
        if args.params is None and args.train_file is not None:
            return get_params(None, run.overrides_of(args))
        path = model_dir / "params.yaml" if args.params is None else self.folder / args.params[0]
        if args.mode == "experiment":
            return get_params(self.folder / read_experiment(path).base)
        return get_params(path, {"runconfig.mode": args.mode})


def free_port():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]
