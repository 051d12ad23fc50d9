# SPDX-License-Identifier: Apache-2.0
"""Small text files beside the weights (JSON, YAML, vocabulary), and messages on unreadable files.

Every value of a file is checked before it is used: a file may be damaged or malicious.
"""

import contextlib
import json
import math
import re
import zipfile
from pathlib import Path

import yaml

from common.checkpoints.names import geometry
from common.errors import UserError
from common.params import COMPUTED_KEYS
from common.params import FROM_CHECKPOINT as NETWORK_KEYS
from common.params.families import ROTARY

MAX_JSON_BYTES = 10_000_000  # a config.json has about 1,000, an index of shards 100,000
MAX_YAML_BYTES = 200_000  # a params.yaml has about 3,000
# What the readers of a damaged file raise.
ERRORS = (
    *(OSError, RuntimeError, ValueError, TypeError, LookupError, MemoryError, EOFError),
    *(OverflowError, zipfile.BadZipFile),
)


def unreadable(path, reason):
    """The UserError on a file that cannot be read. reason: the reader's, if no other is obvious."""
    path, again = Path(path), "copy or download it again"
    fault = f"{brief(reason)}; {again}"
    try:
        if not path.is_file():
            fault = f"it is missing, or not an ordinary file; {again}"
        elif path.stat().st_size == 0:
            fault = f"it is empty; {again}"
        else:
            with open(path, "rb") as file:
                is_pointer = file.read(64).startswith(b"version https://git-lfs")
            if is_pointer:
                pull = "run `git lfs pull` where it came from"
                fault = f"it is a Git LFS pointer, not the file itself; {pull}"
    except OSError as error:
        fault = f"{error.strerror}; check its path and permissions"
    return UserError(f"{path} cannot be read: {fault}")


@contextlib.contextmanager
def reading(path, fault="it is damaged"):
    """Turns what a reader raises on a damaged file into a UserError."""
    try:
        yield
    except UserError:
        raise
    except ERRORS as error:
        raise unreadable(path, f"{fault} ({brief(error)})") from None


def brief(text, most=200):
    """The first line of a text, at most `most` characters of it."""
    line = next(iter(str(text).strip().splitlines()), "")
    return line if len(line) <= most else line[:most] + "..."


def begins_with(path, starts):
    """Whether a file can be read, and begins with these bytes (up to 8), or one of a tuple."""
    try:
        with open(path, "rb") as file:
            return file.read(8).startswith(starts)
    except OSError:
        return False


def read_small(path, most):
    """The bytes of a file of at most `most` bytes; None where there is no such file."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return content


def read_json(path, most=MAX_JSON_BYTES):
    """The mapping of a JSON file; None where there is no such file."""
    try:
        text = read_small(path, most)
        if text is None:
            return None
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("no mapping at its top level")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as JSON: {error}; copy or download it again"
        ) from None
    return values


def write_json(path, values):
    content = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    path.write_text(content, "utf-8", newline="\n")


def read_params_yaml(folder):
    """Sections of the `params.yaml` that Cerebras' and our own runs write beside checkpoints.

    Returns:
        dict of section ("model", "train_input") to dict; None where there is no such file.
    """
    path = Path(folder) / "params.yaml"
    try:
        text = read_small(path, MAX_YAML_BYTES)
        if text is None:
            return None
        values = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(
            f"{path}, beside the checkpoint, cannot be read as YAML: {brief(error)}; correct it, "
            "or move it away"
        ) from None
    values = values if isinstance(values, dict) else {}
    return {key: value for key, value in values.items() if isinstance(value, dict)}


def check_value(value, key, source, name=None):
    """Returns the value of a key of ModelParams if it can be one.

    source: the file; name: of the key in that file, where it is another one.
    """
    if key.endswith("_theta"):
        is_right, wanted = type(value) in (int, float) and value > 0, "a number above 0"
    elif key == "layer_norm_epsilon":
        if isinstance(value, str) and re.fullmatch(r"[\d.]+[eE]-?\d+", value):
            value = float(value)  # PyYAML reads 1e-5 as a string
        is_right, wanted = type(value) in (int, float) and 0 < value < 1, "a number between 0 and 1"
    elif key.endswith("_nonlinearity") or key == "backbone" or key in COMPUTED_KEYS:
        is_right, wanted = isinstance(value, str), "a name such as 'gelu'"
    else:
        is_right, wanted = type(value) is int and value > 0, "a whole number above 0"
    if not is_right:
        raise UserError(f"{source}: {name or key} is {value!r:.80}; {wanted} is wanted")
    return value


def network_of_params(sections, source):
    """The network's keys of a `params.yaml`. sections: of `read_params_yaml`; source: its path.

    Returns:
        dict of the NETWORK_KEYS and COMPUTED_KEYS that it has; functions by the names of the file.
    """
    model = sections.get("model", {})
    keys = (*NETWORK_KEYS, *COMPUTED_KEYS)
    values = {key: model[key] for key in keys if model.get(key) is not None}
    vocab_size = sections.get("train_input", {}).get("vocab_size")
    if vocab_size is not None:
        values.setdefault("vocab_size", vocab_size)
    for key, value in values.items():
        value = check_value(value, key, source)
        values[key] = value.lower() if isinstance(value, str) else value
    return values


def network_config(
    family,
    weights_file,
    weights,
    words,
    text="params.yaml",
    read=network_of_params,
    shares_layers=False,
):
    """The part of `huggingface.read_config` that most formats share.

    Args:
        weights_file: Path, in whose folder the text files are.
        weights: {neutral name: anything with a shape}.
        words: what the word embeddings are called in a file of this format.
        text: name of the file with the network's keys.
        read: callable(content of that file, its path) -> dict of what it has of the NETWORK_KEYS.
        shares_layers: bool. The weights of one layer are those of all.
    Returns:
        dict; content of that file, or None where there is no such file.
    Raises:
        UserError: there are no word embeddings, or the file cannot be read, or contradicts the
            shapes of the weights.
    """
    if "embeddings/word_embeddings" not in weights:
        raise UserError(
            f"{weights_file} holds no BERT: none of its {len(weights)} tensors is called {words}; "
            f"it has {brief(', '.join(list(weights)[:3]) or 'none')}"
        )
    folder = weights_file.parent
    file = folder / text
    vocabs = (folder / name for name in ("vocab.txt", "tokenizer.json"))
    sizes = geometry({name: tensor.shape for name, tensor in weights.items()})
    if shares_layers:
        sizes.pop("num_hidden_layers", None)
    config = dict.fromkeys(key for key in NETWORK_KEYS if key not in ROTARY) | sizes
    config |= {"family": family, "do_lower_case": None}
    config["vocab_file"] = next((str(vocab) for vocab in vocabs if vocab.is_file()), None)
    content = read_json(file) if file.suffix == ".json" else read_params_yaml(folder)
    if content is not None:
        config |= read(content, file)
    for key, value in sizes.items():
        if config[key] != value:
            raise UserError(
                f"{file} says {key} is {config[key]}, but the weights in {weights_file.name} have "
                f"{value}; the two files do not belong together, take both from the same model"
            )
    return config, content


def are_thresholds(value):
    """Whether a value of a file is a list of probabilities."""
    is_list = isinstance(value, list) and all(type(each) is float for each in value)
    return is_list and all(0 <= each <= 1 for each in value)


def thresholds_of(values):
    """{"thresholds": list of float, "null_threshold": float} of a file, without what it has not, or
    what is something else so named."""
    thresholds, odds = values.get("thresholds"), values.get("null_threshold")
    found = {"thresholds": thresholds} if are_thresholds(thresholds) else {}
    is_number = isinstance(odds, int | float) and not isinstance(odds, bool) and math.isfinite(odds)
    return found | ({"null_threshold": odds} if is_number else {})


EXPORT_FILE = "export.json"  # of common/export/export.py


def export_beside(folder):
    """{"task": str, "label_names": tuple of str, "thresholds": list of float,
    "null_threshold": float, "do_lower_case": bool}, as far as our export.json has them.
    """
    values = read_json(Path(folder) / EXPORT_FILE) or {}
    facts = thresholds_of(values)
    if isinstance(values.get("task"), str):
        facts["task"] = values["task"]
    names = values.get("label_names")
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        facts["label_names"] = tuple(names)
    if isinstance(values.get("do_lower_case"), bool):
        facts["do_lower_case"] = values["do_lower_case"]
    return facts
