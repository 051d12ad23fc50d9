# SPDX-License-Identifier: Apache-2.0
"""What `--mode inspect` says of a checkpoint, and that it reads no weights for it."""

import numpy as np
import pytest

from common.checkpoints.formats import ours
from common.checkpoints.inspect import in_bytes, inspect_checkpoint
from common.checkpoints.names import LazyTensor, StoredTensor
from common.errors import UserError
from model import make_model
from tests.reference.tiny_bert import (
    huggingface_tensors,
    randomize,
    save_huggingface,
    tiny_params,
)


def rows_of(text):
    """{first word of a line: the rest} of the lines at the top."""
    lines = text.split("\n\n")[0].splitlines()[1:]
    return {line[2:26].strip(): line[26:] for line in lines}


def test_a_hugging_face_folder_is_described(tmp_path):
    names = {"0": "no", "1": "maybe", "2": "yes"}
    save_huggingface(tmp_path, huggingface_tensors(num_labels=3), id2label=names)
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    text = inspect_checkpoint(tmp_path)
    rows = rows_of(text)
    assert text.startswith(f"checkpoint {tmp_path}\n")
    assert rows["format"] == "Hugging Face"
    assert rows["hidden_size"] == "6" and rows["encoder_nonlinearity"] == "gelu_erf"
    assert rows["label_names"] == "no, maybe, yes"
    assert rows["vocab_file"] == str(tmp_path / "vocab.txt")
    assert rows["training step"] == "not said" and rows["training state"] == "none"
    # 41 tensors: 5 of embeddings, 2 layers of 16, pooler, classifier.
    count = sum(tensor.size for tensor in huggingface_tensors(num_labels=3).values())
    assert rows["weights"] == f"41 tensors, {count:,} numbers, {4 * count / 1000:.1f} kB"
    line = next(line for line in text.splitlines() if "layer.1.intermediate.dense.weight" in line)
    assert line.split() == [
        "[13,", "6]", "float32", "312", "B", "bert.encoder.layer.1.intermediate.dense.weight",
        "encoder/layer_1/feed_forward/expand/kernel",
    ]  # fmt: skip


def test_one_of_ours_is_described_with_its_step_and_training_state(tmp_path):
    weights = randomize(make_model(tiny_params()))
    state = {"step": np.array(7), "pooler/bias/m": np.zeros(6, np.float32)}
    config = {"hidden_size": 6, "num_heads": 2, "step": 7, "label_names": ["a", "b"]}
    config |= {"pooler_type": "mean", "do_lower_case": False}
    ours.save_checkpoint(tmp_path, 7, weights, state, config, ["[PAD]"])
    text = inspect_checkpoint(tmp_path)
    rows = rows_of(text)
    assert rows["format"] == "this project's own" and rows["family"] == "ours"
    assert rows["training step"] == "7" and rows["label_names"] == "a, b"
    assert rows["training state"] == "2 tensors, 7 numbers, 32 B"
    assert rows["pooler_type"] == "mean" and rows["do_lower_case"] == "False"
    assert text.count("pooler/bias/m") == 1 and "\ntraining state\n" in text


def test_no_weight_is_read(tmp_path, monkeypatch):
    def read(self):
        raise AssertionError("a weight was read")

    monkeypatch.setattr(LazyTensor, "__array__", read)
    assert "pooler/kernel" in inspect_checkpoint(save_huggingface(tmp_path, huggingface_tensors()))


def test_nothing_to_describe_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        inspect_checkpoint(tmp_path / "absent")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_951, "1.0 MB"),
     (1_340_000_000, "1.3 GB"), (2_500_000_000_000, "2,500.0 GB")],
)  # fmt: skip
def test_sizes_are_written_in_decimal_units(size, text):
    assert in_bytes(size) == text


def test_a_type_that_numpy_does_not_have_has_no_size():
    assert StoredTensor("x", (3,), "string", lambda: None).num_bytes == 0
    assert StoredTensor("x", (3, 5), "bfloat16", lambda: None).num_bytes == 30
