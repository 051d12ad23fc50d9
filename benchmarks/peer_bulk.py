# SPDX-License-Identifier: Apache-2.0
"""Measures OpenVINO or ONNX Runtime with an ONNX export of this project, for `bulk.py`.

    .venv-serving/bin/python benchmarks/peer_bulk.py --rows FILE --export DIR --program openvino

From raw text to logits: the package tokenizers, rows sorted by length, batches padded to their
longest row.
"""

import argparse
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tokenizers import BertWordPieceTokenizer
from worker import Gate, read_rows

HINTS = {"float32": "f32", "bfloat16": "bf16"}


def open_onnx(args):
    """Returns a function: features -> logits."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if args.streams > 1:
        options.intra_op_num_threads = 1
    file = "model_int8.onnx" if args.precision == "int8" else "model.onnx"
    session = onnxruntime.InferenceSession(
        str(args.export / file), options, providers=["CPUExecutionProvider"]
    )
    return lambda features: session.run(["logits"], features)[0]


def open_openvino(args):
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": HINTS[args.precision]}
    if args.streams > 1:
        settings |= {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": args.streams}
    compiled = openvino.Core().compile_model(str(args.export / "model.onnx"), "CPU", settings)
    of_thread = threading.local()

    def run(features):
        if not hasattr(of_thread, "request"):
            of_thread.request = compiled.create_infer_request()
        return of_thread.request.infer(features)["logits"].copy()

    return run


PROGRAMS = {"onnx": (open_onnx, "onnxruntime"), "openvino": (open_openvino, "openvino")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", required=True)
    parser.add_argument("--export", type=Path, required=True)
    parser.add_argument("--program", choices=PROGRAMS, required=True)
    parser.add_argument("--precision", choices=(*HINTS, "int8"), default="float32")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--streams", type=int, default=1, help="batches computed at a time")
    args = parser.parse_args()
    rows, labels = read_rows(args.rows)
    texts = [row[0] if len(row) == 1 else row for row in rows]
    settings = json.loads((args.export / "export.json").read_text("utf-8"))["rows"]
    tokenizer = BertWordPieceTokenizer(
        str(args.export / "vocab.txt"), lowercase=settings["do_lower_case"]
    )
    tokenizer.enable_truncation(settings["max_sequence_length"])
    open_program, package = PROGRAMS[args.program]
    run = open_program(args)

    def classify():
        encoded = tokenizer.encode_batch(texts, add_special_tokens=settings["add_special_tokens"])
        order = sorted(range(len(encoded)), key=lambda row: len(encoded[row].ids))

        def compute(first):
            places = order[first : first + args.batch_size]
            ids = [encoded[row].ids for row in places]
            shape = len(ids), len(ids[-1])
            features = {name: np.zeros(shape, np.int32) for name in ("input_ids", "segment_ids")}
            features["input_mask"] = np.full(shape, settings["input_mask_is_of_padding"], np.int32)
            for n, row in enumerate(places):
                features["input_ids"][n, : len(ids[n])] = ids[n]
                features["segment_ids"][n, : len(ids[n])] = encoded[row].type_ids
                features["input_mask"][n, : len(ids[n])] ^= 1
            return places, run(features)

        starts = range(0, len(order), args.batch_size)
        if args.streams > 1:
            with ThreadPoolExecutor(args.streams) as threads:
                computed = list(threads.map(compute, starts))
        else:
            computed = map(compute, starts)
        logits = {
            row: each
            for places, of_rows in computed
            for row, each in zip(places, of_rows, strict=True)
        }
        return np.array([logits[row] for row in range(len(order))])

    gate = Gate({"versions": {package: version(package)}})
    with gate.serving():
        logits = classify()
        gate.facts["right"] = int((logits.argmax(-1) == labels).sum())
        gate.repeat(lambda: {"mean": float(classify().mean())}, len(texts))


if __name__ == "__main__":
    main()
