# SPDX-License-Identifier: Apache-2.0
"""safetensors files: a JSON header with names, types and offsets, then the values."""

from functools import partial

from safetensors import SafetensorError, safe_open

from common.checkpoints.small_files import MAX_JSON_BYTES, unreadable

# Type in a header -> NumPy's name, where the two differ.
DTYPES = {
    "BOOL": "bool",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
} | {
    f"{letter}{bits}": f"{word}{bits}"
    for letter, word in (("F", "float"), ("I", "int"), ("U", "uint"))
    for bits in (8, 16, 32, 64)
}


def read(path):
    """Every tensor of a file, none read yet: list of (name, shape, dtype, read).

    Raises UserError for a file that is damaged or missing.
    """
    start = b""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(9)
        header_size = int.from_bytes(start[:8], "little")
        if MAX_JSON_BYTES < header_size < size:  # one of 400 tensors has 50,000
            raise ValueError(f"its header has more than {MAX_JSON_BYTES:,} bytes")
        file = safe_open(path, framework="numpy")  # checks the header against the size
    except (SafetensorError, OSError, ValueError) as error:
        reason = f"it is no safetensors file, or damaged ({error})"
        if start[8:] == b"{" and (header_size > size - 8 or "not fully covered" in str(error)):
            reason = f"its {size:,} bytes are not as many as it says"
        raise unreadable(path, reason) from None
    tensors = []
    for name in file.keys():  # noqa: SIM118  (not a dict)
        tensor = file.get_slice(name)
        dtype = tensor.get_dtype()
        shape, read_tensor = tuple(tensor.get_shape()), partial(file.get_tensor, name)
        tensors.append((name, shape, DTYPES.get(dtype, dtype.lower()), read_tensor))
    return tensors
