# SPDX-License-Identifier: Apache-2.0
"""What the outputs of a row mean to other programs, and which layers of a head give them."""

from dataclasses import dataclass

# The head of a task that answers once a row: each layer, and what its outputs are called where a
# checkpoint is loaded only with as many of them; None where it has one size.
ROW_HEAD = {"pooler": None, "classifier": "classes"}


ROW_ARCHITECTURE = "BertForSequenceClassification"


@dataclass(frozen=True)
class Answer:
    """What a task answers for a row."""

    kind: str  # what such a network is called
    description: str  # for the model card
    architecture: str  # transformers' class for such a network, as in its config.json
    problem_type: str | None  # of that config.json; None where the architecture says it
    # "softmax" or "sigmoid", which of the logits are the probabilities; None: there are none
    probabilities: str | None
    served: tuple[str, ...]  # names of the task's `answers`
    # {what: Python that shows the answer of the first row}, of what the other program gives:
    # "saved_model": `result`; "huggingface": `rows`; "ids": `features`, and the outputs of the
    # formats that take ids (onnx, tflite) under their names.
    reading: dict[str, str]
    made: str = "Fine-tuned"  # how such a network came about
    pipeline_tag: str = "text-classification"  # what Hugging Face's hub calls the task
    example: tuple[str, ...] = (
        "a text to classify",
    )  # for the card, where a row has so many texts
    decoder: str | None = None  # of FILES in `export/decoder.py`: what reads its outputs


def classes(label_names):
    """Returns the Answer of one class a row."""
    return Answer(
        kind="classifier",
        description="one of " + ", ".join(f"{i} {name}" for i, name in enumerate(label_names)),
        architecture=ROW_ARCHITECTURE,
        problem_type="single_label_classification",
        probabilities="softmax",
        served=("label", "label_names", "probabilities", "logits"),
        reading={
            "saved_model": 'print(result["label"][0].numpy().decode(), '
            'result["probabilities"][0].numpy())',
            "ids": f"""labels = {list(label_names)}
print(labels[probabilities[0].argmax()])""",
            "huggingface": """label = model(**rows).logits.argmax(dim=-1)[0].item()
print(model.config.id2label[label])""",
        },
    )
