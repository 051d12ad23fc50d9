# SPDX-License-Identifier: Apache-2.0
"""One AdamW step of a classifier of each family, by transformers and torch: family_steps.json.

    .venv-hf/bin/python tests/reference/family_steps.py ../shared/fixtures

Of each weight the file has the size of its update and the first four numbers of it.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from fine_tuning_step import SETTINGS

FAMILIES = ("roberta", "distilbert", "electra", "albert", "modernbert")


def step_of(folder):
    """Returns what is known of a step. folder: Path of a checkpoint with its reference.json."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    known = json.loads((folder / "reference.json").read_text())
    names = {"input_ids": "input_ids", "attention_mask": "input_mask"}
    if "segment_ids" in known:
        names["token_type_ids"] = "segment_ids"
    batch = {name: torch.tensor(known[key]) for name, key in names.items()}
    batch["labels"] = torch.tensor(known["labels"])
    named = dict(model.named_parameters())
    plain = {name for name in named if name.endswith("bias") or "norm" in name.lower()}
    groups = [
        {"params": [p for name, p in named.items() if name not in plain]},
        {"params": [named[name] for name in plain], "weight_decay": 0.0},
    ]
    arguments = {name: value for name, value in SETTINGS.items() if name != "clip"}
    optimizer = torch.optim.AdamW(groups, **arguments)
    before = {name: p.detach().clone() for name, p in named.items()}
    outputs = model(**batch)
    outputs.loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(named.values(), SETTINGS["clip"])
    optimizer.step()
    with torch.no_grad():
        after = model(**batch)
    updates = {name: (p.detach() - before[name]).double() for name, p in named.items()}
    return {
        "loss": outputs.loss.item(),
        "gradient_norm": norm.item(),
        "loss_after": after.loss.item(),
        "updates": {
            name: {"l2": update.norm().item(), "first": update.flatten()[:4].tolist()}
            for name, update in updates.items()
        },
    }


def main(fixtures):
    result = {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}, float32",
        "settings": SETTINGS,
    }
    for family in FAMILIES:
        result[family] = step_of(Path(fixtures) / f"hf_{family}" / "sequence_classification")
    Path(__file__).with_suffix(".json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
