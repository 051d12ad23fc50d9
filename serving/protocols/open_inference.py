# SPDX-License-Identifier: Apache-2.0
"""Open Inference Protocol, version 2, over REST; with tensors as JSON, or as bytes behind it.

https://github.com/open-inference/open-inference-protocol; the bytes are the extension "binary
tensor data" of Triton, which its client sends unless told otherwise.
"""

import json
import math
import struct

import numpy as np

from serving.protocols.query import (
    IDS,
    MASKS,
    SEGMENTS,
    Query,
    as_row_ids,
    as_row_texts,
    bad_value,
    kind_of,
    malformed,
)
from serving.readers import plain

EXTENSIONS = ["binary_tensor_data"]
SIZE_HEADER = "Inference-Header-Content-Length"
NUMBERS = {"INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"), "UINT32": np.dtype("<u4")}
ARRAYS = {"FP32": np.dtype("<f4"), "BOOL": np.dtype("?"), "INT32": np.dtype("<i4")}


def parts_of(content, header):
    """Returns the JSON of a body and the bytes behind it. header: that of SIZE_HEADER, or None."""
    if header is None:
        return content, b""
    if not header.isascii() or not header.isdigit() or int(header) > len(content):
        raise malformed(f"{SIZE_HEADER} is no number of bytes of the body")
    return content[: int(header)], content[int(header) :]


def read(body, reader, rest=b""):
    """Returns the Query of a body. rest: the bytes behind its JSON. Raises Refused."""
    inputs = body.get("inputs") if isinstance(body, dict) else None
    if not isinstance(inputs, list) or not inputs:
        raise malformed("the body has to be an object with `inputs`, a list of tensors")
    columns, shapes, place = {}, {}, 0
    for each in inputs:
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            raise malformed("each of inputs has to be an object with name, shape, datatype, data")
        name, size = each["name"], size_in(each, "binary_data_size")
        if name in columns:
            raise malformed(f"input {name!r} is there twice")
        content = None
        if size is not None:
            content, place = rest[place : place + size], place + size
            if len(content) < size:
                raise malformed(f"input {name!r} has fewer than {size} bytes")
        columns[name], shapes[name] = column_of(each, name, content)
    form = {"id": body.get("id"), "wanted": wanted(body)}
    if IDS in columns:
        if any(shape != shapes[IDS] or len(shape) != 2 for shape in shapes.values()):
            raise bad_value(f"{', '.join(shapes)} have to be of one shape, [rows, tokens]")
        rows = [as_row_ids(row, reader, f"row {n}") for n, row in enumerate(rows_of(columns))]
        if not rows:
            raise bad_value(f"{', '.join(shapes)} have no rows")
        return Query(rows=rows, form=form)
    num_rows = {math.prod(shape) for shape in shapes.values()}
    if len(num_rows) != 1 or 0 in num_rows:
        raise bad_value(f"{', '.join(shapes)} have to be of one length, at least 1")
    rows = rows_of(columns)
    return Query(
        texts=[as_row_texts(row, reader, f"row {n}") for n, row in enumerate(rows)], form=form
    )


def rows_of(columns):
    return [dict(zip(columns, each, strict=True)) for each in zip(*columns.values(), strict=True)]


def column_of(tensor, name, content):
    """Returns the rows of a tensor, a list, and its shape. content: its bytes, or None."""
    shape, kind = tensor.get("shape"), tensor.get("datatype")
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
        raise malformed(f"shape of input {name!r} is {kind_of(shape)}; a list of sizes is wanted")
    if not shape:
        raise bad_value(f"input {name!r} has no axis; its first axis is that of rows")
    count = math.prod(shape)
    if kind == "BYTES":
        values = tensor.get("data") if content is None else texts_in(content, name)
        values = flat(values, name)
    elif isinstance(kind, str) and kind in NUMBERS:
        if content is None:
            values = flat(tensor.get("data"), name)
        elif len(content) != count * NUMBERS[kind].itemsize:
            raise malformed(f"input {name!r} has {len(content)} bytes for a shape of {count}")
        else:
            values = np.frombuffer(content, NUMBERS[kind]).tolist()
    else:
        accepted = ", ".join(["BYTES", *NUMBERS])
        raise bad_value(f"datatype of input {name!r} is none of {accepted}")
    if len(values) != count:
        raise bad_value(f"input {name!r} has {len(values)} values for a shape of {count}")
    if kind == "BYTES":
        return values, shape
    width = count // shape[0] if shape[0] else 0
    return [values[n * width : (n + 1) * width] for n in range(shape[0])], shape


def flat(values, name):
    """Returns a tensor's values in one list: in JSON they may be nested."""
    if not isinstance(values, list):
        raise malformed(f"data of input {name!r} is {kind_of(values)}; a list is wanted")
    while values and all(isinstance(each, list) for each in values):
        values = [value for each in values for value in each]
    return values


def texts_in(content, name):
    """Returns the texts of a BYTES tensor: before each its length, four bytes."""
    found, place = [], 0
    while place < len(content):
        if place + 4 > len(content):
            raise malformed(f"input {name!r} ends within a length")
        (size,) = struct.unpack_from("<I", content, place)
        place += 4 + size
        if place > len(content):
            raise malformed(f"input {name!r} ends within a text")
        try:
            found.append(content[place - size : place].decode("utf-8"))
        except UnicodeDecodeError:
            raise bad_value(f"input {name!r} has a text that is not UTF-8") from None
    return found


def size_in(tensor, key):
    parameters = tensor.get("parameters")
    size = parameters.get(key) if isinstance(parameters, dict) else None
    if size is not None and (type(size) is not int or size < 0):
        raise malformed(f"{key} is {kind_of(size)}; a number of bytes is wanted")
    return size


def wanted(body):
    """Returns {name: whether as bytes} of the outputs that a body asks for; None: all of them, and
    whether as bytes."""
    parameters = body.get("parameters")
    by_default = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    outputs = body.get("outputs")
    if outputs is None or outputs == []:
        return None, by_default
    if not isinstance(outputs, list) or not all(
        isinstance(each, dict) and isinstance(each.get("name"), str) for each in outputs
    ):
        raise malformed("outputs has to be a list of objects with a name")
    found = {}
    for each in outputs:
        own = each.get("parameters")
        own = own.get("binary_data") if isinstance(own, dict) else None
        found[each["name"]] = by_default if own is None else own is True
    return found, by_default


def write(query, answers, outputs, served):
    """Returns what the JSON of an answer says, and the bytes behind it.

    answers: list of {name: value}; outputs: list of Output. Raises Refused.
    """
    names, by_default = query.form["wanted"]
    known = {output.name: output for output in outputs}
    if names is None:
        names = dict.fromkeys(known, by_default)
    if unknown := names.keys() - known.keys():
        listed = ", ".join(map(repr, sorted(unknown)))
        raise bad_value(f"no output is called {listed}; available: {', '.join(known)}")
    tensors, rest = [], b""
    for name, is_binary in names.items():
        tensor, content = tensor_of(known[name], [answer[name] for answer in answers], is_binary)
        tensors.append(tensor)
        rest += content
    body = {"model_name": served.name, "model_version": str(served.number), "outputs": tensors}
    if query.form["id"] is not None:
        body["id"] = query.form["id"]
    return body, rest


def tensor_of(output, rows, is_binary):
    """Returns a tensor of the protocol and its bytes, of the values of each row."""
    if output.kind == "BYTES":
        if output.is_json:
            rows = [json.dumps(plain(row), ensure_ascii=False) for row in rows]
        array = np.array(rows, object)
        values = array.reshape(-1).tolist()
    elif len({np.shape(row) for row in rows}) > 1:
        raise bad_value(
            f"{output.name} is of another length in each row; ask for one row, or give rows of one "
            "length"
        )
    else:
        array = np.array(rows, ARRAYS[output.kind])
        values = None
    tensor = {"name": output.name, "datatype": output.kind, "shape": list(array.shape)}
    if not is_binary:
        return tensor | {"data": plain(array.reshape(-1)) if values is None else values}, b""
    if values is None:
        content = array.tobytes()
    else:
        encoded = [value.encode("utf-8") for value in values]
        content = b"".join(struct.pack("<I", len(each)) + each for each in encoded)
    return tensor | {"parameters": {"binary_data_size": len(content)}}, content


def metadata(model, served):
    """Returns what a GET of a model says. model: Model of `serving/models.py`."""
    reader = served.reader
    texts = [{"name": n, "datatype": "BYTES", "shape": [-1]} for n in reader.text_names]
    ids = [{"name": n, "datatype": "INT32", "shape": [-1, -1]} for n in (IDS, MASKS, SEGMENTS)]
    return {
        "name": served.name,
        "versions": [str(number) for number in sorted(model.served)],
        "platform": f"bert_{served.version.engine}",
        "inputs": texts,
        "outputs": [
            {"name": each.name, "datatype": each.kind, "shape": [-1, *each.shape]}
            for each in reader.outputs
        ],
        "parameters": {"task": reader.task, "inputs_of_ids": ids},
    }
