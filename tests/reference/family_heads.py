# SPDX-License-Identifier: Apache-2.0
"""Heads for words and for answers on the fixtures of families, and what transformers computes.

    .venv-hf/bin/python tests/reference/family_heads.py ../shared/fixtures

writes family_heads.json: the logits of the tokens of the first row, and the loss of all.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

FAMILIES = {
    "roberta": "Roberta",
    "distilbert": "DistilBert",
    "electra": "Electra",
    "albert": "Albert",
    "modernbert": "ModernBert",
}
# {task: (end of transformers' class, its module, number of outputs)}
HEADS = {
    "token_classification": ("ForTokenClassification", "classifier", 5),
    "question_answering": ("ForQuestionAnswering", "qa_outputs", 2),
}
NO_LABEL = -100


def save_with_head(fixtures, folder, family, task):
    """Writes a checkpoint: the backbone of a classifier of the fixtures and a random head.

    fixtures: Path. folder: Path, made here, which is returned.
    """
    source = Path(fixtures) / f"hf_{family}" / "sequence_classification"
    tensors = load_file(source / "model.safetensors")
    prefixes = ("model.", "head.") if family == "modernbert" else (f"{family}.",)
    kept = {name: each for name, each in tensors.items() if name.startswith(prefixes)}
    kept = {name: each for name, each in kept.items() if ".pooler." not in name}
    ending, module, count = HEADS[task]
    generator = np.random.default_rng(len(family))
    hidden = 48
    kept[f"{module}.weight"] = generator.normal(0, 0.3, (count, hidden)).astype(np.float32)
    kept[f"{module}.bias"] = generator.normal(0, 0.3, count).astype(np.float32)
    config = json.loads((source / "config.json").read_text())
    names = [f"B-{i}" for i in range(count)]
    config |= {
        "architectures": [FAMILIES[family] + ending],
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def targets_of(task, input_mask):
    """Labels for rows: {name: int array}, as transformers takes them."""
    mask = np.asarray(input_mask)
    if task == "token_classification":
        labels = np.arange(mask.size).reshape(mask.shape) % 5
        return {"labels": np.where((mask == 1) & (labels < 4), labels, NO_LABEL)}
    return {"start_positions": np.arange(len(mask)) + 1, "end_positions": np.arange(len(mask)) + 3}


def outputs_of(fixtures, family, task):
    import torch
    import transformers

    known = Path(fixtures) / f"hf_{family}" / "sequence_classification" / "reference.json"
    known = json.loads(known.read_text())
    with tempfile.TemporaryDirectory() as folder:
        path = save_with_head(fixtures, Path(folder), family, task)
        network = getattr(transformers, FAMILIES[family] + HEADS[task][0])
        model = network.from_pretrained(path).eval()
    names = {"input_ids": "input_ids", "attention_mask": "input_mask"}
    if "segment_ids" in known:
        names["token_type_ids"] = "segment_ids"
    targets = targets_of(task, known["input_mask"])
    batch = {name: torch.tensor(known[key]) for name, key in names.items()}
    batch |= {name: torch.tensor(each) for name, each in targets.items()}
    with torch.no_grad():
        outputs = model(**batch)
    length = sum(known["input_mask"][0])
    logits = [name for name in outputs if name.endswith("logits")]
    found = {name: outputs[name][0, :length].tolist() for name in logits}
    return found | {"loss": outputs.loss.item()}


def main(fixtures):
    import torch
    import transformers

    result = {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}, float32"
    }
    for family in FAMILIES:
        # ModernBERT's class for answers calls its last layer by another name than all others.
        tasks = [task for task in HEADS if (family, task) != ("modernbert", "question_answering")]
        result[family] = {task: outputs_of(fixtures, family, task) for task in tasks}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
