# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's REST: the bodies of `:predict`, and what it says of models.

https://www.tensorflow.org/tfx/serving/api_rest
"""

import re

from serving.protocols.query import (
    IDS,
    MASKS,
    SEGMENTS,
    Query,
    as_row_ids,
    as_row_texts,
    bad_value,
    is_ids,
    kind_of,
    malformed,
)
from serving.readers import plain

TEXT_SIGNATURE, IDS_SIGNATURE = "serving_default", "token_ids"
DTYPES = {"BYTES": "DT_STRING", "FP32": "DT_FLOAT", "BOOL": "DT_BOOL", "INT32": "DT_INT32"}
PATH = re.compile(
    r"(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]{1,18})|/labels/(?P<label>[^/:]+))?"
    r"(?P<what>:predict|/metadata)?"
)


def read(body, reader):
    """Returns the Query of a body. body: what its JSON says. Raises Refused."""
    if not isinstance(body, dict):
        raise malformed(f"the body is {kind_of(body)}; an object with `instances` is wanted")
    if ("instances" in body) == ("inputs" in body):
        raise malformed("the body has to have either `instances` or `inputs`")
    signature = body.get("signature_name") or None
    if signature not in (None, TEXT_SIGNATURE, IDS_SIGNATURE):
        raise malformed(f"signature_name has to be {TEXT_SIGNATURE} or {IDS_SIGNATURE}")
    if "instances" in body:
        rows, form = body["instances"], "predictions"
        if not isinstance(rows, list) or not rows:
            raise bad_value(f"instances is {kind_of(rows)}; a list of rows is wanted")
    else:
        rows, form = rows_of_columns(body["inputs"], reader), "outputs"
    first = rows[0]
    takes_ids = is_ids(first) or (isinstance(first, dict) and IDS in first)
    if signature is not None and takes_ids != (signature == IDS_SIGNATURE):
        wanted = IDS if signature == IDS_SIGNATURE else " and ".join(reader.text_names)
        raise bad_value(f"signature {signature} takes {wanted}")
    read_row = as_row_ids if takes_ids else as_row_texts
    found = [read_row(row, reader, f"row {number}") for number, row in enumerate(rows)]
    return Query(rows=found, form=form) if takes_ids else Query(texts=found, form=form)


def rows_of_columns(inputs, reader):
    """Returns the rows of a body's `inputs`: a list, or a dict of a list for each name."""
    if not isinstance(inputs, dict) or "b64" in inputs:
        rows = inputs if isinstance(inputs, list) else [inputs]
    else:
        columns = {n: c if isinstance(c, list) else [c] for n, c in inputs.items()}
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise bad_value(f"inputs has columns of {sorted(lengths)} rows")
        rows = [
            dict(zip(columns, each, strict=True)) for each in zip(*columns.values(), strict=True)
        ]
    if not rows:
        raise bad_value("inputs has no rows")
    return rows


def write(query, answers, outputs):
    """Returns the body of an answer. answers: list of {name: value}; outputs: list of Output."""
    names = [output.name for output in outputs]
    rows = [{name: plain(answer[name]) for name in names} for answer in answers]
    if query.form == "predictions":
        return {"predictions": [row[names[0]] for row in rows] if len(names) == 1 else rows}
    columns = {name: [row[name] for row in rows] for name in names}
    return {"outputs": columns[names[0]] if len(names) == 1 else columns}


def status(numbers):
    """Returns what a GET of a model, or of a version of it, says. numbers: int, of versions."""
    return {
        "model_version_status": [
            {
                "version": str(number),
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
            for number in sorted(numbers, reverse=True)
        ]
    }


def metadata(served):
    """Returns what a GET of .../metadata says. served: Served."""
    reader = served.reader

    def tensor(name, kind, shape):
        dims = [{"size": str(size), "name": ""} for size in (-1, *shape)]
        return {
            "dtype": DTYPES[kind],
            "tensor_shape": {"dim": dims, "unknown_rank": False},
            "name": name,
        }

    def signature(inputs, outputs):
        return {
            "inputs": inputs,
            "outputs": {each.name: tensor(each.name, each.kind, each.shape) for each in outputs},
            "method_name": "tensorflow/serving/predict",
        }

    texts = {name: tensor(name, "BYTES", ()) for name in reader.text_names}
    ids = {name: tensor(name, "INT32", (-1,)) for name in (IDS, MASKS, SEGMENTS)}
    return {
        "model_spec": {
            "name": served.name,
            "signature_name": "",
            "version": str(served.number),
        },
        "metadata": {
            "signature_def": {
                "signature_def": {
                    TEXT_SIGNATURE: signature(texts, reader.outputs),
                    IDS_SIGNATURE: signature(ids, reader.outputs_of_ids),
                }
            }
        },
    }
