# SPDX-License-Identifier: Apache-2.0
"""Thirty broken params files, and the words that each is refused with."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from tests.reference.small_params import VALID
from utils import get_params

ROOT = Path(__file__).resolve().parent.parent


def change(*pairs):
    text = VALID
    for old, new in pairs:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


RATE = "learning_rate: 1e-4"
ONE, TWO = "1 key to correct", "2 keys to correct"

# name: (text of the file, lines of the refusal; the path stands before the first).
FILES = {
    # Wrong types
    "text for a number": (
        change(("batch_size: 7", "batch_size: seven")),
        [ONE, "line 5: train_input.batch_size: is 'seven'; a whole number is wanted"],
    ),
    "a number for a switch": (
        change(("batch_size: 7", "batch_size: 7\n  do_lower: 1")),
        [ONE, "line 6: train_input.do_lower: is 1; true or false is wanted"],
    ),
    "a list for a section": (
        change(("runconfig:\n  max_steps: 11", "runconfig: [max_steps, 11]")),
        [
            ONE,
            'line 11: runconfig: is ["max_steps", 11]; keys are wanted below it, indented',
        ],
    ),
    "a date for a path": (
        change(("data_dir: data", "data_dir: 2020-01-01")),
        [
            ONE,
            'line 3: train_input.data_dir: is "2020-01-01"; the path of a file or folder is wanted',
        ],
    ),
    # Ranges
    "no rows in a batch": (
        change(("batch_size: 7", "batch_size: 0")),
        [ONE, "line 5: train_input.batch_size: is 0; a number above 0 is wanted"],
    ),
    "everything dropped": (
        change(("num_heads: 3", "dropout_rate: 1.0")),
        [ONE, "line 8: model.dropout_rate: is 1.0; a number below 1 is wanted"],
    ),
    "a rate below 0": (
        change((RATE, "learning_rate: -1e-4")),
        [ONE, "line 10: optimizer.learning_rate: is '-1e-4'; a number of at least 0 is wanted"],
    ),
    # Unknown keys at every level
    "unknown at the top": (
        change(("runconfig:", "run_config:")),
        [ONE, "line 11: run_config: unknown key; did you mean runconfig?"],
    ),
    "unknown in a section": (
        change(("max_sequence_length", "max_seq_length")),
        [
            ONE,
            "line 4: train_input.max_seq_length: unknown key; did you mean max_sequence_length?",
        ],
    ),
    "of another section": (
        change(("max_steps: 11", "max_steps: 11\n  batch_size: 7")),
        [
            ONE,
            "line 13: runconfig.batch_size: unknown key; it belongs to train_input, eval_input, "
            "predict_input",
        ],
    ),
    "unknown in a schedule": (
        change((RATE, "learning_rate: {scheduler: Constant, learning_rate: 1, step: 3}")),
        [ONE, "line 10: optimizer.learning_rate.step: unknown key; did you mean steps?"],
    ),
    "unknown in an initializer": (
        change(("num_heads: 3", "initializer: {name: normal, std: 1}")),
        [ONE, "line 8: model.initializer.std: unknown key; did you mean stddev?"],
    ),
    # What excludes or misses something
    "both kinds of clipping": (
        change((RATE, "max_gradient_norm: 1.0\n  max_gradient_value: 0.5")),
        [
            ONE,
            "line 11: optimizer.max_gradient_value: is 0.5, and max_gradient_norm is 1.0; "
            "gradients are clipped by one of the two, so leave the other out",
        ],
    ),
    "a section that is missing": (
        VALID[VALID.index("model:") :],
        [ONE, "train_input: not given; write it, or eval_input where nothing is to be trained"],
    ),
    "heads that do not divide": (
        change(("num_heads: 3", "num_heads: 5")),
        [
            ONE,
            "line 8: model.num_heads: 5 does not divide hidden_size 12; choose a divisor such as 4",
        ],
    ),
    # Schedules
    "an unknown schedule": (
        change((RATE, "learning_rate: {scheduler: Warmup, steps: 3}")),
        [
            ONE,
            "line 10: optimizer.learning_rate: scheduler is 'Warmup'; available: Constant, Cosine, "
            "Exponential, InverseExponentialTimeDecay, Linear, PiecewiseConstant, Polynomial",
        ],
    ),
    "a list without steps": (
        change(
            (
                RATE,
                "learning_rate:\n  - {scheduler: Constant, learning_rate: 1}\n"
                "  - {scheduler: Constant, learning_rate: 2}",
            )
        ),
        [
            ONE,
            "line 11: optimizer.learning_rate.0.steps: not given; every schedule of a list but the "
            "last needs it",
        ],
    ),
    "an empty list of schedules": (
        change((RATE, "learning_rate: []")),
        [ONE, "line 10: optimizer.learning_rate: the list is empty; write a schedule in it"],
    ),
    "numbers in a list of schedules": (
        change((RATE, "learning_rate: [1e-4, 1e-5]")),
        [
            TWO,
            "line 10: optimizer.learning_rate.0: is '1e-4'; keys are wanted below it, indented",
            "line 10: optimizer.learning_rate.1: is '1e-5'; keys are wanted below it, indented",
        ],
    ),
    "boundaries out of order": (
        change(
            (
                RATE,
                "learning_rate: {scheduler: PiecewiseConstant, boundaries: [5, 3], "
                "values: [1, 2, 3]}",
            )
        ),
        [ONE, "line 10: optimizer.learning_rate.boundaries: [5, 3] do not increase"],
    ),
    # Files that are no configuration
    "no YAML": (
        "model: {a: [1, 2\n",
        [
            "line 2: no valid YAML: expected ',' or ']', but got '<stream end>' "
            "(while parsing a flow sequence)"
        ],
    ),
    "empty": (
        "",
        ["the file is empty; it needs sections such as train_input"],
    ),
    "a list at the top": (
        "- train_input\n- model\n",
        [
            "line 1: the file holds a list; it needs sections such as `train_input:`, each with "
            "keys below it"
        ],
    ),
    "a tab": (
        change(("  num_heads: 3", "\tnum_heads: 3")),
        ["line 8: a tab stands where YAML wants spaces; indent with spaces"],
    ),
    "wrong indentation": (
        change(("  num_heads: 3", "    num_heads: 3")),
        ["line 8: a colon where no value may begin; check the indentation, or quote the text"],
    ),
    "not UTF-8": (
        change(("data_dir: data", "data_dir: dat\xe9")).encode("latin-1"),
        ["line 3: not UTF-8 text; save the file as UTF-8"],
    ),
    "two documents": (
        VALID + "---\n" + VALID,
        ["line 13: a second document begins (---); keep one"],
    ),
    "a tag that runs code": (
        change(("data_dir: data", "data_dir: !!python/object/apply:os.system [ls]")),
        [
            "line 3: the tag tag:yaml.org,2002:python/object/apply:os.system is not accepted; "
            "leave it out"
        ],
    ),
    # Keys and numbers
    "a key given twice": (
        change(("num_heads: 3", "num_heads: 3\n  hidden_size: 24")),
        [ONE, "line 9: model.hidden_size: given twice, first on line 7; keep one of the two"],
    ),
    "a section given twice": (
        VALID + "model:\n  num_heads: 3\n",
        [ONE, "line 13: model: given twice, first on line 6; keep one of the two"],
    ),
    "a huge number": (
        change(("max_steps: 11", "max_steps: 99999999999999999999")),
        [
            ONE,
            "line 12: runconfig.max_steps: is 99999999999999999999; a number of at most "
            "9223372036854775807 is wanted",
        ],
    ),
    "a number with 5000 digits": (
        change(("max_steps: 11", f"max_steps: {5000 * '9'}")),
        [f"line 12: '{56 * '9'}... cannot be read as a value"],
    ),
    "no finite number": (
        change((RATE, "learning_rate: .inf")),
        [
            ONE,
            "line 10: optimizer.learning_rate: is Infinity; a number is wanted, such as 0.1 or "
            "1e-6",
        ],
    ),
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """{name: path} of the broken files, and of one that is not there."""
    folder = tmp_path_factory.mktemp("broken")
    paths = {name: folder / f"{name.replace(' ', '_')}.yaml" for name in FILES}
    for name, (text, _) in FILES.items():
        paths[name].write_bytes(text if isinstance(text, bytes) else text.encode())
    return paths


def test_there_are_thirty_and_without_its_damage_a_file_is_accepted(tmp_path):
    assert len(FILES) >= 30
    path = tmp_path / "right.yaml"
    path.write_text(VALID)
    get_params(path)


@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_is_refused_with_these_words(name, paths):
    with pytest.raises(UserError) as caught:
        get_params(paths[name])
    first, *rest = str(caught.value).removeprefix(f"{paths[name]}: ").splitlines()
    assert [first, *(line.removeprefix("  ") for line in rest)] == FILES[name][1]


def test_the_program_refuses_each_at_once_with_code_2_and_without_tensorflow(paths, tmp_path):
    # In place of TensorFlow and what needs it: a module that ends the program with code 99.
    for module in ("tensorflow", "keras", "tensorflow_text", "tensorflow_datasets"):
        (tmp_path / f"{module}.py").write_text("import os\nos._exit(99)\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for path in (*paths.values(), tmp_path / "missing.yaml", tmp_path):
        command = [sys.executable, "run.py", "--mode", "train", "--params", str(path)]
        start = children_seconds()
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, (path, done.stderr)
        assert children_seconds() - start < 3
        assert done.stdout == ""
        assert done.stderr.startswith(f"{path}: ")
        assert "Traceback" not in done.stderr


def children_seconds():
    """CPU time of the programs that have ended, which others on the machine leave as it is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
