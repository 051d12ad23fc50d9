# SPDX-License-Identifier: Apache-2.0
"""One measurement of a training step of transformers' ModernBERT, started by `modernbert.py`.

    .venv-hf/bin/python benchmarks/peer_hf_modernbert.py --rows 4 --tokens 1024 ...

The plain loop of PyTorch, which is faster than the Trainer: forward, backward, clipping, AdamW.
"""

import argparse
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import ModernBertConfig, ModernBertForSequenceClassification, __version__
from worker import Gate

VOCABULARY = 50_368


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rows", type=int, required=True)
    add("--tokens", type=int, required=True)
    add("--every", type=int, required=True)
    add("--precision", choices=("float32", "bfloat16"), required=True)
    add("--steps", type=int, default=3, help="of a block")
    return parser


def main():
    args = make_parser().parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(1)
    gate = Gate({"versions": {"torch": torch.__version__, "transformers": __version__}})
    with gate.serving():
        config = ModernBertConfig(
            num_hidden_layers=6,
            hidden_size=384,
            num_attention_heads=6,
            intermediate_size=576,
            vocab_size=VOCABULARY,
            global_attn_every_n_layers=args.every,
            classifier_pooling="mean",
            num_labels=2,
        )
        model = ModernBertForSequenceClassification(config).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
        ids = torch.randint(5, VOCABULARY, (args.rows, args.tokens))
        labels = torch.randint(0, 2, (args.rows,))
        is_narrow = args.precision == "bfloat16"

        def work():
            for _ in range(args.steps):
                with torch.autocast("cpu", torch.bfloat16, enabled=is_narrow):
                    loss = model(input_ids=ids, labels=labels).loss
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            return {"loss": float(loss)}

        work()
        gate.repeat(work, args.steps * args.rows * args.tokens)


if __name__ == "__main__":
    main()
