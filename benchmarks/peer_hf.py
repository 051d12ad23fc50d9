# SPDX-License-Identifier: Apache-2.0
"""One measurement of Hugging Face transformers on PyTorch, started by `bench.py`.

    .venv-hf/bin/python benchmarks/peer_hf.py train --rows FILE --weights DIR --padding longest
    .venv-hf/bin/python benchmarks/peer_hf.py infer | tokenize | start ...

Training uses the Trainer of transformers with its AdamW; rows are tokenised before training and
padded by the Trainer's collator. `start` prints the time at the end of the first step.
"""

import argparse
import json
import os
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import torch
from peer_settings import trainer_settings
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    __version__,
)
from transformers.utils import logging
from worker import Finished, Gate, StepGate, read_rows

logging.set_verbosity_error()
MOST_ROWS = 16_000  # to draw batches from: half a minute of the fastest setting


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("task", choices=("train", "infer", "tokenize", "start"))
    add("--rows", required=True)
    add("--weights", required=True)
    add("--network", choices=("minilm", "base"), default="minilm")
    add("--padding", choices=("fixed", "longest", "grouped"), default="longest")
    add("--length", type=int, default=128, help="truncate to it; --padding fixed: pad to it, too")
    add("--batch_size", type=int, default=32)
    add("--precision", choices=("float32", "bfloat16"), default="float32")
    add("--steps", type=int, default=10, help="of a block")
    add("--warmup", type=int, default=3)
    add("--sentences", type=int, help="infer: the first N of the validation split")
    add("--sorted", action="store_true", help="infer: sort by length")
    return parser


def make_model(args, num_labels):
    torch.manual_seed(1)
    if args.network == "minilm":
        return BertForSequenceClassification.from_pretrained(args.weights, num_labels=num_labels)
    return BertForSequenceClassification(BertConfig(num_labels=num_labels))


def encode(tokenizer, args, texts, labels):
    """Returns list of dicts, without padding."""
    encoded = tokenizer(
        *map(list, zip(*texts, strict=True)), truncation=True, max_length=args.length
    )
    return [
        {name: encoded[name][i] for name in encoded} | {"labels": label}
        for i, label in enumerate(labels)
    ]


def make_trainer(args, folder, rows, tokenizer, num_labels, after_step):
    fill = {"padding": "max_length", "max_length": args.length} if args.padding == "fixed" else {}

    class AfterStep(TrainerCallback):
        def on_step_end(self, *_, **__):
            after_step()

    settings = trainer_settings(
        folder,
        args.batch_size,
        args.precision,
        learning_rate=5e-5,
        max_grad_norm=1.0,
        lr_scheduler_type="constant",
        max_steps=1_000_000,
        train_sampling_strategy="group_by_length" if args.padding == "grouped" else "random",
    )
    return Trainer(
        make_model(args, num_labels),
        settings,
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, **fill),
        callbacks=[AfterStep()],
    )


def measure_training(args, gate):
    texts, labels = read_rows(args.rows)
    tokenizer = AutoTokenizer.from_pretrained(args.weights)
    rows = encode(tokenizer, args, texts[:MOST_ROWS], labels[:MOST_ROWS])
    steps = StepGate(gate, args.warmup, args.steps, args.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        make_trainer(args, folder, rows, tokenizer, len(set(labels)), steps.after_step).train()


def measure_inference(args, gate):
    """Measures passes over the validation split: text -> tokens -> logits."""
    texts, labels = read_rows(f"{args.rows}.validation")
    texts = [text for text, *_ in texts][: args.sentences]
    tokenizer = AutoTokenizer.from_pretrained(args.weights)
    model = make_model(args, len(set(labels))).eval()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bfloat16")

    def classify():
        ids = tokenizer(texts, truncation=True, max_length=args.length)["input_ids"]
        order = range(len(ids))
        if args.sorted:
            order = sorted(order, key=lambda row: len(ids[row]))
        logits = [None] * len(ids)
        for first in range(0, len(order), args.batch_size):
            rows = order[first : first + args.batch_size]
            batch = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt")
            for row, values in zip(rows, model(**batch).logits, strict=True):
                logits[row] = values
        return torch.stack(logits)

    with torch.inference_mode(), autocast:
        classify()
        gate.repeat(lambda: {"mean": float(classify().float().mean())}, len(texts))


def measure_tokenizing(args, gate):
    texts, _ = read_rows(args.rows)
    tokenizer = AutoTokenizer.from_pretrained(args.weights)
    texts = [text for row in texts for text in row]
    tokenizer(texts[:1024])

    def tokenize():
        tokens = 0
        for first in range(0, len(texts), 1024):
            encoded = tokenizer(texts[first : first + 1024], add_special_tokens=False)
            tokens += sum(map(len, encoded["input_ids"]))
        return {"tokens": tokens}

    gate.repeat(tokenize, len(texts))


def measure_start(args):
    """Runs one step, tokenising only the rows of its batch."""
    texts, labels = read_rows(args.rows)
    tokenizer = AutoTokenizer.from_pretrained(args.weights)
    rows = encode(tokenizer, args, texts[: args.batch_size], labels[: args.batch_size])

    def after_step():
        block = {"first_step": time.time(), "processor_seconds": time.process_time()}
        print(json.dumps(block), flush=True)
        raise Finished

    with tempfile.TemporaryDirectory() as folder:
        try:
            make_trainer(args, folder, rows, tokenizer, len(set(labels)), after_step).train()
        except Finished:
            sys.exit()


MEASURES = {"train": measure_training, "infer": measure_inference, "tokenize": measure_tokenizing}


def main():
    args = make_parser().parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if args.task == "start":
        measure_start(args)
    gate = Gate({"versions": {"torch": torch.__version__, "transformers": __version__}})
    with gate.serving():
        MEASURES[args.task](args, gate)


if __name__ == "__main__":
    main()
