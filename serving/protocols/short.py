# SPDX-License-Identifier: Apache-2.0
"""Short bodies: POST /predict, as text-embeddings-inference has it; POST /v1/classify and GET
/v1/models, as vLLM has them."""

import time
import uuid

from serving.protocols.query import Query, as_row_texts, bad_value, kind_of, malformed
from serving.readers import floats_of


def read_predict(body, reader):
    """Returns the Query of {"inputs": a row, or a list of rows}. A row is a text or a pair."""
    if not isinstance(body, dict) or "inputs" not in body:
        raise malformed('the body has to be an object with `inputs`: {"inputs": "a text"}')
    inputs, num_texts = body["inputs"], len(reader.text_names)
    is_pair = (
        isinstance(inputs, list)
        and num_texts == 2
        and len(inputs) == 2
        and all(isinstance(each, str) for each in inputs)
    )
    is_one = is_pair or not isinstance(inputs, list)
    rows = [inputs] if is_one else inputs
    if not rows:
        raise bad_value("inputs is an empty list")
    texts = [as_row_texts(row, reader, f"row {number}") for number, row in enumerate(rows)]
    return Query(texts=texts, form=is_one)


def write_predict(query, answers, reader):
    """Returns what the task says of a row, or a list of it: for classes [{"label", "score"}], the
    likeliest first."""
    found = [reader.labels(answer) for answer in answers]
    return found[0] if query.form else found


def read_classify(body, reader):
    """Returns the Query of {"model", "input": a text, or a list of them}."""
    if not isinstance(body, dict) or "input" not in body:
        raise malformed("the body has to be an object with `input`, a text or a list of texts")
    if not reader.is_scored:
        raise bad_value(f"this model is for {reader.task} and has no classes; use POST /predict")
    given = body["input"]
    rows = given if isinstance(given, list) else [given]
    if not rows:
        raise bad_value(f"input is {kind_of(given)}; a text or a list of texts is wanted")
    return Query(texts=[as_row_texts(row, reader, f"row {n}") for n, row in enumerate(rows)])


def write_classify(answers, served, num_tokens):
    """Returns the body of an answer. num_tokens: int, of all texts."""
    names = served.reader.label_names
    data = []
    for index, answer in enumerate(answers):
        probabilities = answer["probabilities"]
        data.append(
            {
                "index": index,
                "label": names[int(probabilities.argmax())],
                "probs": floats_of(probabilities),
                "num_classes": len(names),
            }
        )
    return {
        "id": f"classify-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": served.name,
        "data": data,
        "usage": {
            "prompt_tokens": num_tokens,
            "total_tokens": num_tokens,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
        },
    }


def describe(model, served):
    """Returns what GET /v1/models says of a model. model: Model of `serving/models.py`."""
    return {
        "id": served.name,
        "object": "model",
        "task": served.reader.task,
        "version": str(served.number),
        "versions": [str(number) for number in sorted(model.served)],
        "aliases": {alias: str(number) for alias, number in model.labels.items()},
    }
