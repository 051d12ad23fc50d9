# SPDX-License-Identifier: Apache-2.0
"""Runs exports without this project: compares labels with --mode predict, measures sentences/s.

    python benchmarks/exports.py --predictions model_dir/predict/predictions_tf_0.tsv \\
        --saved_model model_dir/export/saved_model --onnx model_dir/export/onnx \\
        --tflite model_dir/export/tflite

Each program gets the raw texts of the table in batches of 32, tokenizing included, first in the
order of the table, then sorted by length. The programs run in turn, one pass over all texts each,
so that other load on the machine slows all of them alike; a figure is the median of the rounds.
Sentences per processor second do not depend on that load; sentences per second do.
"""

import argparse
import csv
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

SETTINGS = (  # in the metadata of model.onnx, and in settings.json
    *("label_names", "max_sequence_length", "do_lower_case"),
    *("add_special_tokens", "input_mask"),
)
OURS = ("common", "input", "model", "data", "run", "utils", "BertClassifierModel")


def read_predictions(path):
    """Returns the texts of the rows, tuples of one or two str, and their labels."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    names = [name for name in rows[0] if name.startswith("text")]
    return [tuple(row[name] for name in names) for row in rows], [row["label"] for row in rows]


def open_saved_model(folder, threads):
    """Returns a function: rows of texts -> labels. threads: int; 0: all cores."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  (registers the operations of the tokenizer)

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    loaded = tf.saved_model.load(str(folder / "1"))
    signature = loaded.signatures["serving_default"]

    def classify(rows):
        columns = zip(*rows, strict=True)
        names = ("text",) if len(rows[0]) == 1 else ("text_a", "text_b")
        result = signature(**dict(zip(names, map(tf.constant, columns), strict=True)))
        return [label.decode() for label in result["label"].numpy()]

    classify.loaded = loaded  # without a reference its variables are freed
    return classify


def open_onnx(path, threads):
    """Like `open_saved_model`, with ONNX Runtime and the package tokenizers."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    settings = {name: json.loads(metadata[name]) for name in SETTINGS}
    encode = encoder_of(path.parent, settings, threads)

    def classify(rows):
        (logits,) = session.run(["logits"], encode(rows))
        return [settings["label_names"][i] for i in logits.argmax(axis=-1)]

    return classify


def open_tflite(path, threads):
    """Like `open_onnx`, with LiteRT, or TensorFlow's copy of it."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter

    run = Interpreter(str(path), num_threads=threads or os.cpu_count()).get_signature_runner()
    settings = json.loads((path.parent / "settings.json").read_text("utf-8"))
    encode = encoder_of(path.parent, settings, threads)

    def classify(rows):
        logits = run(**encode(rows))["logits"]
        return [settings["label_names"][i] for i in logits.argmax(axis=-1)]

    return classify


def encoder_of(folder, settings, threads):
    """Returns a function: rows of texts -> features. settings: those of SETTINGS."""
    if threads:
        os.environ["RAYON_NUM_THREADS"] = str(threads)
    from tokenizers import BertWordPieceTokenizer

    vocab = str(folder / "vocab.txt")
    tokenizer = BertWordPieceTokenizer(vocab, lowercase=settings["do_lower_case"])
    tokenizer.enable_truncation(settings["max_sequence_length"])
    tokenizer.enable_padding()

    def encode(rows):
        texts = [row[0] for row in rows] if len(rows[0]) == 1 else rows
        encoded = tokenizer.encode_batch(texts, add_special_tokens=settings["add_special_tokens"])
        mask = np.array([row.attention_mask for row in encoded], np.int32)
        return {
            "input_ids": np.array([row.ids for row in encoded], np.int32),
            "input_mask": 1 - mask if "1 on PADDING" in settings["input_mask"] else mask,
            "segment_ids": np.array([row.type_ids for row in encoded], np.int32),
        }

    return encode


def one_pass(classify, rows, batch_size):
    """Returns the labels of all rows, and (seconds, processor seconds)."""
    started, labels = (time.perf_counter(), time.process_time()), []
    for first in range(0, len(rows), batch_size):
        labels += classify(rows[first : first + batch_size])
    return labels, (time.perf_counter() - started[0], time.process_time() - started[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", type=Path, required=True, metavar="TSV")
    parser.add_argument("--saved_model", type=Path, metavar="DIR")
    parser.add_argument("--onnx", type=Path, metavar="DIR")
    parser.add_argument("--tflite", type=Path, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=0, help="of each program; 0: every core")
    args = parser.parse_args()
    rows, expected = read_predictions(args.predictions)
    programs = {}
    if args.saved_model is not None:
        programs["SavedModel"] = open_saved_model(args.saved_model, args.threads)
    for name, file in (("ONNX float32", "model.onnx"), ("ONNX int8", "model_int8.onnx")):
        if args.onnx is not None and (args.onnx / file).exists():
            programs[name] = open_onnx(args.onnx / file, args.threads)
    for name, file in (("LiteRT float32", "model.tflite"), ("LiteRT int8", "model_int8.tflite")):
        if args.tflite is not None and (args.tflite / file).exists():
            programs[name] = open_tflite(args.tflite / file, args.threads)
    assert not {name.split(".")[0] for name in sys.modules} & set(OURS)

    by_length = sorted(rows, key=lambda row: sum(map(len, row)))
    for title, order in (("order of the table", rows), ("sorted by length", by_length)):
        seconds, first = {name: [] for name in programs}, None
        for _ in range(1 + args.rounds):
            for name, classify in programs.items():
                labels, taken = one_pass(classify, order, args.batch_size)
                seconds[name].append(taken)
                if order is rows and len(seconds[name]) == 1:
                    same = sum(a == b for a, b in zip(labels, expected, strict=True))
                    print(f"{name}: {same} of {len(rows)} labels are those of the table")
        for name, taken in seconds.items():
            clock, processor = map(statistics.median, zip(*taken[1:], strict=True))
            first = first or processor
            print(
                f"{title}: {name} {len(rows) / clock:,.0f} sentences/s, "
                f"{1000 * clock / len(rows):.2f} ms each, "
                f"{len(rows) / processor:,.0f} a second of processor, "
                f"{first / processor:.2f} times the first"
            )
    threads = args.threads or os.cpu_count()
    print(f"threads {threads}, load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
