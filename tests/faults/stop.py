# SPDX-License-Identifier: Apache-2.0
"""Measures how long a run of BERT-base takes from SIGTERM to its end, in each of its phases.

    python tests/faults/stop.py [--num_layers N]

The real command is started as in `harness.py`, on sentences of a few tokens, and gets the signal
some time after the phase has begun. It has to end with code 143 and without a traceback, and every
checkpoint that is there has to verify. Printed are the seconds, and up to which step all is saved.
"""

import argparse
import random
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.faults.harness import (
    Broken,
    Fault,
    Runs,
    fault_in,
    import_everything,
    scratch_folder,
    steps_of,
)
from tests.reference.toy_words import WORDS

BERT_BASE = {
    "model.num_hidden_layers": 12,
    "model.hidden_size": 768,
    "model.num_heads": 12,
    "model.filter_size": 3072,
    "model.vocab_size": 30522,
    "model.max_position_embeddings": 512,
    "optimizer.learning_rate": 1e-5,
    "runconfig.save_checkpoints_steps": 3,
    "runconfig.eval_every_steps": 5,
    "runconfig.keep_checkpoint_max": 1,
    "runconfig.max_steps": 100,
}
TRAIN_ROWS, EVAL_ROWS = 200_000, 4_000
PHASES = {  # what is said of it: event of `harness.Child`, which of them, seconds after its begin
    "input preparation": ("tokenise", 1, 0.5),
    "compiling the step": ("first step: trace, compile", 1, 2.0),
    "training": ("step", 1, 0.1),
    "saving": ("save", 1, 1.0),
    "evaluation": ("evaluate", 1, 1.0),
}


def write_rows(path, count):
    generator = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        file.write("sentence\tlabel\n")
        for _ in range(count):
            words = generator.choices(WORDS, k=10)
            file.write(f"{' '.join(words)}\t{generator.choice(('good', 'bad'))}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_layers", type=int, default=12)
    parser.add_argument("--phase", action="append", choices=PHASES, help="default: all")
    args = parser.parse_args()
    import_everything()
    with scratch_folder() as folder:
        changes = BERT_BASE | {"model.num_hidden_layers": args.num_layers}
        runs = Runs("plain", folder / "runs", changes)
        for name, count in (("train", TRAIN_ROWS), ("eval", EVAL_ROWS)):
            write_rows(runs.folder / f"{name}.tsv", count)
        for phase in args.phase or PHASES:
            event, number, seconds = PHASES[phase]
            runs.clear(with_cache=phase == "input preparation")
            outcome = runs.run(Fault("within", event, number, seconds, signal=signal.SIGTERM))
            if outcome.codes != [128 + signal.SIGTERM] or "Traceback" in outcome.said:
                raise Broken(f"{phase}: exit code {outcome.codes}:\n{outcome.said}")
            saved = steps_of(runs.model_dir)
            for path in saved.values():
                if fault_in(path) is not None:
                    raise Broken(f"{phase}: {path}: {fault_in(path)}")
            reached = max(outcome.numbers_of("step"), default=0)
            if reached != max(saved, default=0):
                raise Broken(f"{phase}: step {reached} reached, {sorted(saved)} saved")
            print(f"{phase}: {outcome.seconds_after:.1f} s from SIGTERM to the end, "
                  f"step {reached} reached and saved", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
