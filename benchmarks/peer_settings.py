# SPDX-License-Identifier: Apache-2.0
"""What the measurements of several peers share: sizes, flags and settings of the Trainer.

Imports the standard library only, as every peer's environment reads it; `trainer_settings` is for
that of transformers.
"""

import argparse

LENGTH, BATCH, WARMUP = 128, 32, 2  # of masked words: tokens of a row, rows, untimed steps


def masked_words_parser(description, networks, rows):
    """Returns the parser of a peer that `pretraining.py` starts. rows: the kinds it can make."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--folder", required=True)
    add("--vocab", required=True)
    add("--network", choices=networks, default="minilm")
    add("--rows", choices=rows, default="full")
    add("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    add("--steps", type=int, default=4, help="of a block")
    return parser


def trainer_settings(folder, batch_size, precision, **more):
    """Returns TrainingArguments of a training on the CPU that neither logs nor saves.

    folder: str. precision: "float32" or "bfloat16". more: further TrainingArguments.
    """
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=batch_size,
        weight_decay=0.01,
        bf16=precision == "bfloat16",
        use_cpu=True,
        seed=1,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **more,
    )
