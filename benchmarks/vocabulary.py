# SPDX-License-Identifier: Apache-2.0
"""Measures the training of a vocabulary beside other trainers, each in its own process, in turns.

    python benchmarks/vocabulary.py FILE [--vocab_size N] [--rounds N] [--tf_text]

FILE is plain text. Prints for each trainer and number of threads the seconds that pass, those of
processor time, the peak of memory, and how many different vocabularies came out.
"""

import argparse
import hashlib
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def ours(path, size):
    from input.tokenizers.tokenizer import Tokenizer

    return Tokenizer.train(files=[path], vocab_size=size).entries


def package(path, size):
    """The trainer of the package tokenizers as its documentation has it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    settings = {"vocab_size": size, "special_tokens": SPECIAL, "show_progress": False}
    tokenizer.train([path], trainers.WordPieceTrainer(**settings))
    vocab = tokenizer.get_vocab()
    return sorted(vocab, key=vocab.get)


def tf_text(path, size):
    import tensorflow as tf
    from tensorflow_text.tools.wordpiece_vocab.bert_vocab_from_dataset import (
        bert_vocab_from_dataset,
    )

    lines = tf.data.TextLineDataset(path).batch(1000).prefetch(2)
    lower = {"lower_case": True}
    return bert_vocab_from_dataset(lines, size, SPECIAL, bert_tokenizer_params=lower)


TRAINERS = {"ours": ours, "package": package, "tf_text": tf_text}


def measure(trainer, args, threads):
    """Runs a trainer in a process. Returns (seconds, processor seconds, MB, hash)."""
    command = [sys.executable, __file__, args.file, "--vocab_size", str(args.vocab_size)]
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "3"}
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--only", trainer], env=environment, stdout=subprocess.PIPE, check=True
    )
    seconds = time.perf_counter() - started
    processor, megabytes, digest = done.stdout.split()[-3:]
    return seconds, float(processor), float(megabytes), digest


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="plain text")
    parser.add_argument("--vocab_size", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tf_text", action="store_true", help="TensorFlow Text's, too, once")
    parser.add_argument("--only", choices=TRAINERS, help="train in this process")
    args = parser.parse_args()
    if args.only:
        entries = TRAINERS[args.only](args.file, args.vocab_size)
        used = resource.getrusage(resource.RUSAGE_SELF)
        digest = hashlib.sha256("\n".join(entries).encode()).hexdigest()[:12]
        print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1000, digest)
        return
    turns = [(name, threads) for threads in (1, 2) for name in ("ours", "package")]
    results = {turn: [] for turn in turns}
    for _ in range(args.rounds):
        for turn in turns:
            results[turn].append(measure(turn[0], args, turn[1]))
    if args.tf_text:
        results["tf_text", 2] = [measure("tf_text", args, 2)]
    for (name, threads), rows in results.items():
        seconds, processor, megabytes, digests = zip(*rows, strict=True)
        print(
            f"{name}, {threads} thread{'s' * (threads > 1)}: {statistics.median(seconds):.1f} s, "
            f"{statistics.median(processor):.2f} s of processor time "
            f"[{min(processor):.2f} to {max(processor):.2f}], {max(megabytes):.0f} MB, "
            f"different vocabularies: {len(set(digests))} in {len(rows)} runs"
        )


if __name__ == "__main__":
    main()
