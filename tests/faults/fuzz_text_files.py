# SPDX-License-Identifier: Apache-2.0
"""Feeds the readers of CSV, TSV and JSON Lines files with broken files.

    python tests/faults/fuzz_text_files.py --inputs 100000

Every input has to be read, or refused with a UserError, within 5 s; the script stops at the first
that is not, with the seed that makes it again. Needs no TensorFlow.
"""

import argparse
import csv
import io
import json
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common.errors import UserError
from common.params import EvalInputParams
from common.tasks.regression import ValueTargets
from common.tasks.targets import ClassTargets
from input.sources.text_files import TextFileSource
from tests.faults.broken_bytes import broken

SECONDS = 5
PIECES = [
    *(b",", b"\t", b'"', b'""', b"\n", b"\r", b"\r\n", b"\0", b"\\", b"{", b"}", b"[", b"]", b":"),
    *(b"\xff", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"\xe2\x80\xa8"),
    *(b"\\ud800", b"\\u0000", b"NaN", b"Infinity", b"1e999", b"-0", b"null", b"true", b"text"),
    *(b"label", b"=cmd|' /C calc'!A0", b"../../etc/passwd", "ünïcödé 中文 🙂".encode(), b" " * 50),
    *(b"[" * 5000, b'{"a":' * 2000, b"9" * 5000, b'"' * 3000, b"x" * 20_000, b"\n" * 500),
]


def whole_file(generator, suffix):
    """The bytes of a file of a few rows without a fault."""
    names = generator.choice((["good", "bad"], ["0", "1", "2"], ["1.5", "-2"], ["x", ""]))
    rows = [
        (generator.choice(("a film", "", 'so "good"', "two\nlines", "中")), generator.choice(names))
        for _ in range(generator.randrange(8))
    ]
    if suffix == ".jsonl":
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        return "\n".join(lines).encode()
    if suffix == ".tsv":
        return "\n".join("\t".join(row) for row in [("text", "label"), *rows]).encode()
    stream = io.StringIO()
    csv.writer(stream).writerows([("text", "label"), *rows])
    return stream.getvalue().encode()


def broken_rows(generator, content):
    # Mostly behind the row of names: a file without it is refused before its rows are looked at.
    first = content.find(b"\n") + 1 if generator.random() < 0.8 else 0

    def places(size):
        return generator.randrange(min(first, size), size + 1)

    return broken(generator, content, PIECES, generator.randrange(6), places)


def read_everything(path, generator):
    """What training and prediction ask of a file. Returns what came of it, for the count."""
    cfg = EvalInputParams(
        data_processor="TextFileDataProcessor",
        train_file=str(path),
        text_columns="text",
        label_names=generator.choice((None, ("good", "bad"), ("x", "y", "z"))),
        on_bad_row=generator.choice(("error", "skip")),
        max_sequence_length=9,
        batch_size=1,
    )
    if generator.random() < 0.2:
        cfg = cfg.model_copy(update={"task": "regression", "label_names": None})
    targets = (ValueTargets if cfg.task == "regression" else ClassTargets)(cfg.label_names)
    try:
        processor = SimpleNamespace(text_keys=("text",), label_key="label")
        source = TextFileSource(cfg, processor, targets)
        texts, count = source.read_texts("train"), source.num_rows("train")
        skipped = source.skipped("train")
        source.fingerprint("train")
        source.places("train", [count - 1])
    except UserError as error:
        if not all(map(str.isprintable, str(error).split("\n"))):
            raise AssertionError(f"a message with control characters: {error!r}") from error
        return "refused"
    if len(texts) != count or not all(text.encode() for (text,) in texts):
        raise AssertionError("texts that cannot be tokenised")
    return "read, rows skipped" if skipped else "read"


def too_slow(signal_number, frame):
    raise AssertionError(f"more than {SECONDS} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="the first; each input has the next")
    args = parser.parse_args()
    signal.signal(signal.SIGALRM, too_slow)
    results, slowest, began = Counter(), (0.0, args.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seed, args.seed + args.inputs):
            generator = random.Random(seed)
            suffix = generator.choice((".csv", ".tsv", ".jsonl"))
            path = Path(folder) / f"file{suffix}"
            path.write_bytes(broken_rows(generator, whole_file(generator, suffix)))
            start = time.monotonic()
            signal.alarm(SECONDS)
            try:
                results[read_everything(path, generator)] += 1
            except BaseException:
                print(f"seed {seed}: {path.read_bytes()[:2000]!r}", file=sys.stderr)
                raise
            finally:
                signal.alarm(0)
            slowest = max(slowest, (time.monotonic() - start, seed))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{args.inputs:,} inputs in {time.monotonic() - began:.0f} s: no crash, no hang")
    print("  " + ", ".join(f"{count:,} {result}" for result, count in sorted(results.items())))
    print(f"  slowest {slowest[0]:.2f} s (seed {slowest[1]}), memory at most {memory:.0f} MiB")


if __name__ == "__main__":
    main()
