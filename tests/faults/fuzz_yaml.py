# SPDX-License-Identifier: Apache-2.0
"""Damaged params files: whatever one holds, `get_params` gives Params or a UserError, at once.

    python -m tests.faults.fuzz_yaml --files 100000 --seed 0

reads that many files in one process that may take 2 GB, and prints the figures. Each file is drawn
from the seed and its number, so a failure is found again. `test_fuzz_yaml.py` runs a short form.
"""

import argparse
import collections
import copy
import functools
import math
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import yaml

from common.errors import UserError
from common.params import SECTIONS, Params
from utils import get_params, parse_override

ROOT = Path(__file__).resolve().parents[2]
MAX_SECONDS = 5
MAX_MEMORY = 2 * 2**30  # bytes

SMALL = (
    """\
train_input: &train
  data_processor: Sst2DataProcessor
  data_dir: data
  max_sequence_length: 13
  batch_size: 7
eval_input: {<<: *train, batch_size: 5}
model:
  hidden_size: 12
  num_heads: 3
""",
    """\
eval_input: {data_processor: Sst2DataProcessor, data_dir: d, max_sequence_length: 9, batch_size: 7}
model: {initializer: {name: normal, stddev: 1e-2}}
optimizer:
  learning_rate:
    - {scheduler: Linear, initial_learning_rate: 0, end_learning_rate: 1e-4, steps: 5}
    - {scheduler: Constant, learning_rate: 1e-4}
  max_gradient_norm: 1.0
""",
    """\
train_input:
  data_processor: MnliDataProcessor
  data_dir: data
  max_sequence_length: 13
  batch_size: 7
model:
runconfig:
  max_steps: 11
  tf_random_seed: 1
""",
)  # fmt: skip

# Texts that mean something to YAML, to Python, to a terminal or to a file system.
PIECES = [
    *(": ", "- ", "? ", ", ", "[", "]", "{", "}", "[]", "{}", "&a ", "*a", "&train ", "*train"),
    *("<<: ", "<<: *train", "!", "!!", "!!python/object/apply:os.system [ls]"),
    *(
        "!!python/name:os.system ",
        "!!binary eA==",
        "!!set {a}",
        "!!omap [a: 1]",
        "!!int ",
        "!!str ",
    ),
    *(
        "!!float ",
        "!!bool x",
        "!!null ",
        "!!timestamp x",
        "%YAML 9.9",
        "%TAG ! !",
        "---",
        "...",
        "#",
    ),
    *(
        "'",
        '"',
        "'' ",
        '""',
        "\\",
        '"\\ud800"',
        '"\\0"',
        '"\\x1b[2J"',
        "|",
        ">",
        "~",
        "null",
        "yes",
    ),
    *("no", "=", "@", "`", "0", "-1", "-0.0", "1e-6", "1e400", "-1e400", ".nan", ".inf", "-.inf"),
    *("0x10", "0o17", "0b1", "1_000", "1:30:00", "9" * 30, "1e99999999999", "2020-01-01", "true"),
    *("2020-99-99", "../../etc/passwd", "/dev/zero", "~root", "$HOME", "$(ls)", "a\0b"),
    *("\t", "\n", "\r", "\x00", "\x1b", "\x85", "\u2028", "\ufeff", "ﬁ", "\U0001f600", " " * 99),
    *("9" * 5000, "0x" + "f" * 5000, "[" * 300, "- " * 300, "{a: " * 300, "x" * 3000),
    *(f"\n{name}: " for name in SECTIONS),
    *(f"\n  {key}: " for name in SECTIONS for key in SECTIONS[name].model_fields),
    *(f"{{scheduler: {kind}, steps: 3}}" for kind in ("Linear", "Cosine", "PiecewiseConstant")),
]

VALUES = [
    *(None, True, False, 0, 1, 2, 3, 7, -1, 2**31, 2**63, 2**64, -(2**63), 10**400, 10**1500),
    *(0.0, -0.0, 0.5, 1.0, 1e-400, 1e-30, 1e30, 1e308, math.inf, -math.inf, math.nan),
    *("", " ", "a", "1", "1e-6", "1e400", "0x10", "auto", "dynamic", "tf_dynamic", "true"),
    *("\x00", "\x1b[2J", "é", "\u2028", "a\nb", "a" * 500, "../..", "/", "~", "~nobody/x"),
    *(
        [],
        {},
        [None],
        [[]],
        [{}],
        [1, "a", None],
        ["("],
        ["(" * 200],
        ["a{99999999999}"],
        [0] * 200,
    ),
    *({"name": "normal"}, {"name": "uniform", "minval": 3}, {"name": []}, {"a": {"b": [1]}}),
    *({"scheduler": "Constant"}, {"scheduler": {}}, [{"scheduler": "Cosine", "decay_steps": 0}]),
    {"scheduler": "PiecewiseConstant", "boundaries": [3, 2], "values": [1]},
    [{"scheduler": "Linear", "initial_learning_rate": 0, "end_learning_rate": 1, "steps": 2}] * 2,
    *("layers:3", ["layers:-1"], "layers:99999999999999999999", "embeddings", ["encoder", 3]),
    *("learned", "fixed", "first", "mean", "adam", "sgd", "mixed_float16", "train", "predict"),
]


def corpus():
    """Texts of files that are right, without their comments; more of short ones, to read many."""
    texts = [*SMALL] * 20
    for path in sorted((ROOT / "configs").glob("params_*.yaml")):
        lines = path.read_text("utf-8").splitlines(keepends=True)
        texts.append("".join(line for line in lines if not line.startswith("#")))
    return texts


def damage_bytes(text, draw):
    """Bytes put in, taken out, changed, doubled or cut off."""
    data = bytearray(text.encode())
    for _ in range(draw.randint(1, 3)):
        at, kind = draw.randrange(len(data) + 1), draw.randrange(5)
        if kind == 0:
            data[at:at] = draw.randbytes(draw.randint(1, 4))
        elif kind == 1:
            del data[at : at + draw.randint(1, 30)]
        elif kind == 2 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 3:
            data[at:at] = data[draw.randrange(len(data) + 1) :][: draw.randint(1, 60)]
        elif draw.random() < 0.2:
            del data[at:]
    return bytes(data)


def damage_text(text, draw):
    """Pieces put in place of a character, a word or a value."""
    for _ in range(draw.randint(1, 3)):
        start = draw.randrange(len(text) + 1)
        end = start + draw.choice((0, 0, 1, 8))
        if draw.random() < 0.5:  # the whole value of a line
            start = text.find(": ", start) + 2
            end = text.find("\n", start)
        text = text[:start] + draw.choice(PIECES) + text[end:]
    return text.encode("utf-8", "surrogatepass")


def damage_lines(text, draw):
    """Lines moved, doubled, left out and indented otherwise."""
    lines = text.splitlines(keepends=True)
    for _ in range(draw.randint(1, 3)):
        i, j = draw.randrange(len(lines)), draw.randrange(len(lines))
        kind = draw.randrange(4)
        if kind == 0:
            lines[i], lines[j] = lines[j], lines[i]
        elif kind == 1:
            lines.insert(i, lines[j])
        elif kind == 2 and len(lines) > 1:
            del lines[i]
        else:
            lines[i] = draw.choice(("", " ", "  ", "\t", "    ", "- ")) + lines[i].lstrip()
    return "".join(lines).encode()


@functools.cache
def plain(text):
    return yaml.safe_load(text)


def damage_values(text, draw):
    """Known keys, in the right section or another, with values of every kind."""
    values = copy.deepcopy(plain(text))
    for _ in range(draw.randint(1, 2)):
        name = draw.choice((*SECTIONS, "initializer"))
        if draw.random() < 0.05 or name == "initializer":
            values[name] = draw.choice(VALUES)
            continue
        if not isinstance(values.get(name), dict):
            values[name] = {}
        home = name if draw.random() < 0.95 else draw.choice(tuple(SECTIONS))
        key = draw.choice(tuple(SECTIONS[home].model_fields))
        values[name][key] = draw.choice(VALUES)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=draw.random() < 0.5).encode()


def damage_overrides(text, draw):
    """A right file with flags that are not. Returns (bytes, overrides)."""
    section = draw.choice((*SECTIONS, "*_input", "", "modle"))
    keys = tuple(SECTIONS[section].model_fields) if section in SECTIONS else ("batch_size", "x")
    key = f"{section}.{draw.choice(keys)}" + draw.choice(("", "", "", ".0", ".name", ".steps.x"))
    value = draw.choice((draw.choice(PIECES), repr(draw.choice(VALUES))))
    return text.encode(), f"{key}{draw.choice('===:')}{value}"


DAMAGES = (damage_bytes, damage_text, damage_lines, damage_values, damage_overrides)


class TooSlow(BaseException):
    """Not an Exception, so that no `except Exception` takes it."""


def answer(path, override):
    """What `get_params` says of a file: "accepted" or "refused". Anything else is raised."""
    try:
        overrides = {} if override is None else dict([parse_override(override)])
        params = get_params(path, overrides, on_warning=lambda text: text.encode())
    except UserError as error:
        text = str(error)
        assert text.strip() and "pydantic" not in text and len(text) < 100_000
        text.encode()
        return "refused"
    saved = path.with_suffix(".saved")
    saved.write_text(params.to_yaml(), "utf-8")
    assert get_params(saved) == params, "what is saved is not read back equal"
    assert isinstance(params, Params)
    return "accepted"


def fuzz(num_files, seed, folder):
    """Reads `num_files` damaged files.

    Returns:
        counts: {damage and answer: int}.
        failures: list of (bytes of the file, override or None, traceback).
        slowest: float, CPU seconds of the slowest file.
    """
    texts, path = corpus(), Path(folder) / "x.yaml"
    counts, failures, slowest = collections.Counter(), [], 0.0

    def stop(*_):
        raise TooSlow(f"no answer after {MAX_SECONDS} s of CPU time")

    signal.signal(signal.SIGVTALRM, stop)
    for n in range(num_files):
        draw = random.Random(f"{seed} {n}")
        damage = DAMAGES[n % len(DAMAGES)]
        made = damage(draw.choice(texts), draw)
        data, override = made if isinstance(made, tuple) else (made, None)
        path.write_bytes(data)
        start = time.process_time()
        signal.setitimer(signal.ITIMER_VIRTUAL, MAX_SECONDS)
        try:
            counts[f"{damage.__name__}: {answer(path, override)}"] += 1
        except (Exception, TooSlow):
            failures.append((data, override, traceback.format_exc()))
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        slowest = max(slowest, time.process_time() - start)
    return counts, failures, slowest


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        counts, failures, slowest = fuzz(args.files, args.seed, folder)
    for name, count in sorted(counts.items()):
        print(f"{count:8,} {name}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{args.files:8,} files, {len(failures)} failures, slowest {slowest:.2f} s, {peak:.0f} MB"
    )
    kinds = {text.splitlines()[-1]: (data, override, text) for data, override, text in failures}
    for data, override, text in list(kinds.values())[:10]:
        print(f"\n{data[:600]!r}\noverride: {override!r:.300}\n{text}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
