# SPDX-License-Identifier: Apache-2.0
"""One AdamW step of BertForPreTraining by transformers and torch: pretraining_step.json.

    .venv/bin/python -c "from pathlib import Path; from tests.reference.tiny_bert import *; \
save_huggingface(Path('/tmp/tiny'), pretraining_tensors(), architectures=['BertForPreTraining'])"
    .venv-hf/bin/python tests/reference/pretraining_step.py /tmp/tiny
"""

import json
import sys
from pathlib import Path

import torch
import transformers

FEATURES = {
    "input_ids": [
        [2, 7, 11, 3, 0, 0],
        [2, 5, 3, 14, 3, 0],
        [2, 13, 4, 3, 19, 3],
        [2, 22, 8, 3, 0, 0],
    ],
    "attention_mask": [
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 0, 0],
    ],
    "token_type_ids": [
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 1, 1, 0, 0],
    ],
}
POSITIONS = [[1, 2], [1, 3], [2, 4], [2, 0]]  # of the last row one; 0 is filler
WORDS = [[9, 11], [17, 6], [21, 20], [8, 0]]
LABELS = [0, 1, 1, 0]  # 1: the second text is another
# An epsilon near the gradients' size: with a small one the first step shows only their signs.
SETTINGS = {"lr": 0.001, "betas": [0.9, 0.999], "eps": 0.01, "weight_decay": 0.1, "clip": 1.0}


def main(folder):
    model = transformers.BertForPreTraining.from_pretrained(folder).eval()
    batch = {name: torch.tensor(rows) for name, rows in FEATURES.items()}
    words = torch.full_like(batch["input_ids"], -100)  # -100: not counted
    for row, (positions, ids) in enumerate(zip(POSITIONS, WORDS, strict=True)):
        for position, word in zip(positions, ids, strict=True):
            if position:
                words[row, position] = word
    batch |= {"labels": words, "next_sentence_label": torch.tensor(LABELS)}
    named = dict(model.named_parameters())  # a shared table once
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
    places = torch.tensor(POSITIONS)[:, :, None]
    logits = torch.take_along_dim(outputs.prediction_logits, places, dim=1)
    result = {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}, float32",
        "settings": SETTINGS,
        "features": FEATURES,
        "masked_lm_positions": POSITIONS,
        "masked_lm_ids": WORDS,
        "next_sentence_labels": LABELS,
        "mlm_logits": logits.tolist(),
        "nsp_logits": outputs.seq_relationship_logits.tolist(),
        "loss": outputs.loss.item(),
        "gradient_norm": norm.item(),
        "loss_after": after.loss.item(),
        "weights_after": {name: p.detach().tolist() for name, p in named.items()},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
