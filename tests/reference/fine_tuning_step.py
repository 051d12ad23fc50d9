# SPDX-License-Identifier: Apache-2.0
"""One AdamW step of each of transformers' heads, by it and torch: fine_tuning_step.json.

    .venv/bin/python -c "from pathlib import Path; from tests.reference.tiny_bert import *; \
save_heads(Path('/tmp/tiny'))"
    .venv-hf/bin/python tests/reference/fine_tuning_step.py /tmp/tiny
"""

import json
import sys
from pathlib import Path

import torch
import transformers

FEATURES = {
    "input_ids": [[2, 7, 11, 3, 0], [2, 5, 3, 0, 0], [2, 13, 17, 19, 3], [2, 22, 8, 3, 0]],
    "attention_mask": [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0]],
    "token_type_ids": [[0, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]],
}
# Without padding: transformers' softmax over a row has it, and its table no gradient there.
FULL = {
    "input_ids": [[2, 7, 11, 3, 9], [2, 5, 3, 21, 12], [2, 13, 17, 19, 3], [2, 22, 8, 3, 4]],
    "attention_mask": [[1] * 5] * 4,
    "token_type_ids": FEATURES["token_type_ids"],
}
# {task: (transformers' class, features, targets)}. -100: not counted.
HEADS = {
    "multi_label": (
        transformers.BertForSequenceClassification,
        FEATURES,
        {"labels": [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]]},
    ),
    "token_classification": (
        transformers.BertForTokenClassification,
        FEATURES,
        {
            "labels": [
                [-100, 1, 2, -100, -100],
                [-100, 0, -100, -100, -100],
                [-100, 1, -100, 0, -100],
                [-100, 0, 1, -100, -100],
            ]
        },
    ),
    "question_answering": (
        transformers.BertForQuestionAnswering,
        FULL,
        {"start_positions": [2, 0, 2, 1], "end_positions": [2, 0, 3, 2]},
    ),
}
# An epsilon near the gradients' size: with a small one the first step shows only their signs.
SETTINGS = {"lr": 0.001, "betas": [0.9, 0.999], "eps": 0.01, "weight_decay": 0.1, "clip": 1.0}


def step_of(model, features, targets):
    """Returns what is known of a step. features, targets: {name: list}."""
    batch = {name: torch.tensor(rows) for name, rows in (features | targets).items()}
    named = dict(model.named_parameters())
    plain = [p for name, p in named.items() if name.endswith("bias") or "LayerNorm" in name]
    decayed = [p for p in named.values() if all(p is not other for other in plain)]
    groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    arguments = {name: value for name, value in SETTINGS.items() if name != "clip"}
    optimizer = torch.optim.AdamW(groups, **arguments)
    outputs = model(**batch)
    outputs.loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(named.values(), SETTINGS["clip"])
    optimizer.step()
    with torch.no_grad():
        after = model(**batch)
    logits = [name for name in outputs if name.endswith("logits")]
    return {
        "features": features,
        "targets": targets,
        "outputs": {name: outputs[name].tolist() for name in logits},
        "loss": outputs.loss.item(),
        "gradient_norm": norm.item(),
        "loss_after": after.loss.item(),
        "weights_after": {name: p.detach().tolist() for name, p in named.items()},
    }


def main(folder):
    result = {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}, float32",
        "settings": SETTINGS,
    }
    for task, (network, *batch) in HEADS.items():
        result[task] = step_of(network.from_pretrained(Path(folder) / task).eval(), *batch)
    Path(__file__).with_suffix(".json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
