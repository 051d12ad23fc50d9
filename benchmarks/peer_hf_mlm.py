# SPDX-License-Identifier: Apache-2.0
"""One measurement of Hugging Face's masked-word training, started by `pretraining.py`.

    .venv-hf/bin/python benchmarks/peer_hf_mlm.py --folder DIR --vocab FILE --network minilm ...

DIR/lines.txt has a document a line, with blank lines between. `--rows full` makes windows of 128
tokens of the whole text, `--rows lines` one row of each line, as line_by_line of run_mlm.py does.
The Trainer of transformers with its collator of masked words, which pads to the longest row.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import torch
from peer_settings import BATCH, LENGTH, WARMUP, masked_words_parser, trainer_settings
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    __version__,
)
from transformers.utils import logging
from worker import Gate

logging.set_verbosity_error()
NETWORKS = {
    "minilm": {
        "num_hidden_layers": 6,
        "hidden_size": 384,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
    "base": {},
}


def make_parser():
    parser = masked_words_parser(__doc__.splitlines()[0], NETWORKS, rows=("full", "lines"))
    parser.add_argument("--order", choices=("random", "grouped"), default="random")
    return parser


def read_rows(args, tokenizer):
    """Returns list of dicts of ids, special tokens included."""
    text = (Path(args.folder) / "lines.txt").read_text("utf-8").split("\n")
    ids = tokenizer([line for line in text if line], add_special_tokens=False)["input_ids"]
    size = LENGTH - 2
    if args.rows == "full":
        flat = [token for row in ids for token in row]
        ids = [flat[first : first + size] for first in range(0, len(flat) - size + 1, size)]
    ends = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
    return [{"input_ids": ends[0] + row[:size] + ends[1]} for row in ids]


class Tokens(DataCollatorForLanguageModeling):
    """Counts the tokens that are not padding of the batches it has made.

    It works in the process of the training and makes one batch for each step.
    """

    real = 0

    def torch_call(self, examples):
        Tokens.real += sum(len(example["input_ids"]) for example in examples)
        return super().torch_call(examples)


class Blocks(TrainerCallback):
    """Ends a block after so many steps, with the tokens of its batches."""

    def __init__(self, gate, per_block):
        self.gate, self.per_block = gate, per_block
        self.done = self.before = 0

    def on_step_end(self, *_, **__):
        self.done += 1
        within = self.done - WARMUP
        if within >= 0 and within % self.per_block == 0:
            if within:
                self.gate.end(Tokens.real - self.before)
            self.gate.begin()
            self.before = Tokens.real


def main():
    args = make_parser().parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    gate = Gate({"versions": {"torch": torch.__version__, "transformers": __version__}})
    with gate.serving(), tempfile.TemporaryDirectory() as folder:
        tokenizer = BertTokenizerFast(vocab_file=args.vocab, vocab=args.vocab, do_lower_case=True)
        rows = read_rows(args, tokenizer)
        torch.manual_seed(1)
        settings = trainer_settings(
            folder,
            BATCH,
            args.precision,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            max_steps=1_000_000,
            train_sampling_strategy="group_by_length" if args.order == "grouped" else "random",
        )
        Trainer(
            BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **NETWORKS[args.network])),
            settings,
            train_dataset=rows,
            processing_class=tokenizer,
            data_collator=Tokens(tokenizer, mlm_probability=0.15),
            callbacks=[Blocks(gate, args.steps)],
        ).train()


if __name__ == "__main__":
    main()
