# SPDX-License-Identifier: Apache-2.0
"""Masked-word training by the Trainer of transformers, started by `pretraining_quality.py`.

    .venv-hf/bin/python benchmarks/peer_hf_pretraining.py --rows FILE.npz --vocab vocab.txt ...

The recipe is that of transformers' run_mlm.py: batches of random blocks of text, 15% of the words
masked anew each time, AdamW, linear decay. Prints a JSON object a line: {"seconds", "step", "loss"}
of each evaluation, and facts at the end.
"""

import argparse
import json
import os
import statistics
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from peer_settings import trainer_settings
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    DataCollatorForLanguageModeling,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    __version__,
    set_seed,
)
from transformers.utils import logging

logging.set_verbosity_error()
UNTIMED, TIMED = 2, 8  # steps that say how long one takes; they are not part of the training


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rows", required=True, help="train, eval_* as pretraining_quality.py writes them")
    add("--vocab", required=True)
    add("--network", type=json.loads, required=True, help="of BertConfig, in JSON")
    add("--seconds", type=float, required=True)
    add("--evaluations", type=int, required=True)
    add("--batch_size", type=int, default=32)
    add("--learning_rate", type=float, default=1e-4)
    add("--warmup_ratio", type=float, default=0.0)
    add("--precision", choices=("float32", "bfloat16"), default="float32")
    return parser


class Curve(TrainerCallback):
    """Evaluates now and then, and prints the loss beside the seconds of training so far."""

    def __init__(self, evaluate, every):
        self.evaluate, self.every = evaluate, every
        self.ends, self.seconds, self.started = [], 0.0, None

    def on_step_begin(self, args, state, control, **kwargs):
        if self.started is None:
            self.started = time.perf_counter()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        now = time.perf_counter()
        self.seconds += now - self.started
        self.ends.append(self.seconds)
        if self.every and (state.global_step % self.every == 0 or is_last(state)):
            values = {"seconds": self.seconds, "step": state.global_step}
            print(json.dumps(values | {"loss": self.evaluate(model)}), flush=True)
        self.started = time.perf_counter()


def is_last(state):
    return state.global_step == state.max_steps


def train(args, rows, tokenizer, steps, curve):
    """Trains a fresh network for so many steps. Returns its number of parameters."""
    set_seed(1)
    model = BertForMaskedLM(BertConfig(**args.network))
    with tempfile.TemporaryDirectory() as folder:
        settings = trainer_settings(
            folder,
            args.batch_size,
            args.precision,
            learning_rate=args.learning_rate,
            warmup_steps=round(args.warmup_ratio * steps),
            max_steps=steps,
        )
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
        dataset = [{"input_ids": row[row != tokenizer.pad_token_id]} for row in rows]
        trainer = Trainer(
            model, settings, collator, dataset, processing_class=tokenizer, callbacks=[curve]
        )
        trainer.remove_callback(PrinterCallback)  # it prints among our lines
        trainer.train()
    return model.num_parameters()


@torch.inference_mode()
def masked_loss(model, held_out, pad_id, batch_size=32):
    """The mean cross entropy of the masked words of the given rows: float."""
    was_training = model.training
    model.eval()
    total = count = 0.0
    for first in range(0, len(held_out["eval_ids"]), batch_size):
        here = slice(first, first + batch_size)
        ids, positions, words, weights = (
            torch.as_tensor(held_out[f"eval_{name}"][here].astype(np.int64))
            for name in ("ids", "positions", "words", "weights")
        )
        tokens = model.bert(ids, attention_mask=(ids != pad_id).long()).last_hidden_state
        tokens = tokens.gather(1, positions[..., None].expand(-1, -1, tokens.shape[-1]))
        chosen = weights.bool()
        logits = model.cls(tokens[chosen])
        total += float(torch.nn.functional.cross_entropy(logits, words[chosen], reduction="sum"))
        count += float(chosen.sum())
    model.train(was_training)
    return total / count


def main():
    args = make_parser().parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tokenizer = BertTokenizerFast(vocab_file=args.vocab)
    with np.load(args.rows) as file:
        arrays = dict(file)
    speed = Curve(None, 0)
    train(args, arrays["train"], tokenizer, UNTIMED + TIMED, speed)
    per_step = statistics.median(np.diff(speed.ends)[UNTIMED - 1 :])
    steps = max(args.evaluations, int(args.seconds / per_step))
    curve = Curve(
        lambda model: masked_loss(model, arrays, tokenizer.pad_token_id), steps // args.evaluations
    )
    parameters = train(args, arrays["train"], tokenizer, steps, curve)
    facts = {"steps": steps, "parameters": parameters, "seconds": curve.seconds}
    versions = {"torch": torch.__version__, "transformers": __version__}
    print(json.dumps({"facts": facts | {"batch_size": args.batch_size, **versions}}), flush=True)


if __name__ == "__main__":
    main()
