# SPDX-License-Identifier: Apache-2.0
"""One AdamW step of a multi-label classifier by transformers and torch: multi_label_step.json.

    python -c "from tests.reference.tiny_bert import *; save_huggingface(Path('/tmp/tiny'), \
huggingface_tensors(num_labels=3), id2label={'0': 'a', '1': 'b', '2': 'c'}, \
problem_type='multi_label_classification')"
    .venv-hf/bin/python tests/reference/multi_label_step.py /tmp/tiny
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
LABELS = [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]]
# An epsilon near the gradients' size: with a small one the first step shows only their signs.
SETTINGS = {"lr": 0.01, "betas": [0.9, 0.999], "eps": 0.01, "weight_decay": 0.1, "clip": 1.0}


def main(folder):
    model = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    batch = {name: torch.tensor(rows) for name, rows in FEATURES.items()}
    named = dict(model.named_parameters())
    plain = [p for name, p in named.items() if name.endswith("bias") or "LayerNorm" in name]
    decayed = [p for p in named.values() if all(p is not other for other in plain)]
    groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    arguments = {name: value for name, value in SETTINGS.items() if name != "clip"}
    optimizer = torch.optim.AdamW(groups, **arguments)
    before = {name: p.detach().clone() for name, p in named.items()}
    outputs = model(**batch, labels=torch.tensor(LABELS))
    outputs.loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(named.values(), SETTINGS["clip"])
    optimizer.step()
    with torch.no_grad():
        after = model(**batch, labels=torch.tensor(LABELS))
    updates = {name: (p.detach() - before[name]).double() for name, p in named.items()}
    result = {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}, float32",
        "settings": SETTINGS,
        "features": FEATURES,
        "labels": LABELS,
        "logits": outputs.logits.tolist(),
        "loss": outputs.loss.item(),
        "gradient_norm": norm.item(),
        "loss_after": after.loss.item(),
        "logits_after": after.logits.tolist(),
        "norms_of_updates": {name: update.norm().item() for name, update in updates.items()},
        "classifier_update": updates["classifier.weight"].tolist(),
        "query_update": updates["bert.encoder.layer.0.attention.self.query.weight"].tolist(),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
