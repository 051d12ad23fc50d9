# SPDX-License-Identifier: Apache-2.0
"""Measures inference of Hugging Face's exported classifier with ONNX Runtime, for `bench.py`.

    .venv-hf/bin/python benchmarks/peer_onnx.py --rows FILE --weights DIR --precision int8

int8 is ONNX Runtime's dynamic quantisation of the weights.
"""

import argparse
import os
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoTokenizer, BertForSequenceClassification
from transformers.utils import logging
from worker import Gate, read_rows

logging.set_verbosity_error()
NAMES = ["input_ids", "attention_mask", "token_type_ids"]


def make_session(args, folder):
    """Returns an InferenceSession of the weights with a random classifier on top."""
    torch.manual_seed(1)
    model = BertForSequenceClassification.from_pretrained(
        args.weights, num_labels=2, attn_implementation="eager"
    ).eval()
    example = torch.ones(2, 5, dtype=torch.int64)
    path = Path(folder) / "float32.onnx"
    # The new exporter needs another package; the older one takes seconds and warns of its age.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,) * len(NAMES),
            path,
            input_names=NAMES,
            output_names=["logits"],
            dynamic_axes={name: {0: "rows", 1: "tokens"} for name in NAMES}
            | {"logits": {0: "rows"}},
            dynamo=False,
        )
    if args.precision == "int8":
        quantized = Path(folder) / "int8.onnx"
        # The exporter omits some types, and the quantiser infers none.
        types = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        quantize_dynamic(path, quantized, weight_type=QuantType.QInt8, extra_options=types)
        path = quantized
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--precision", choices=("float32", "int8"), default="float32")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--sorted", action="store_true", help="sort by length")
    args = parser.parse_args()
    texts = [text for text, *_ in read_rows(f"{args.rows}.validation")[0]]
    tokenizer = AutoTokenizer.from_pretrained(args.weights)
    with tempfile.TemporaryDirectory() as folder:
        session = make_session(args, folder)
    wanted = {each.name for each in session.get_inputs()}

    def classify():
        ids = tokenizer(texts, truncation=True, max_length=args.length)["input_ids"]
        order = range(len(ids))
        if args.sorted:
            order = sorted(order, key=lambda row: len(ids[row]))
        logits = np.empty((len(ids), 2), np.float32)
        for first in range(0, len(order), args.batch_size):
            rows = order[first : first + args.batch_size]
            batch = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="np")
            batch["token_type_ids"] = np.zeros_like(batch["input_ids"])
            feeds = {name: batch[name].astype(np.int64) for name in wanted}
            logits[rows] = session.run(["logits"], feeds)[0]
        return logits

    gate = Gate({"versions": {"onnxruntime": onnxruntime.__version__}})
    with gate.serving():
        classify()
        gate.repeat(lambda: {"mean": float(classify().mean())}, len(texts))


if __name__ == "__main__":
    main()
