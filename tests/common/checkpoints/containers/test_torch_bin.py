# SPDX-License-Identifier: Apache-2.0
"""PyTorch's files without PyTorch: both layouts, views, types. What is refused: hostile files."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from common.checkpoints.containers import torch_bin
from common.checkpoints.formats import huggingface
from common.errors import UserError
from tests.reference.tiny_bert import huggingface_tensors, save_huggingface
from tests.reference.torch_files import Rebuilt, Stored, save_legacy, save_zip

FIXTURES = Path(__file__).parents[5] / "shared" / "fixtures"


def arrays_of(path):
    return {name: read() for name, _, _, read in torch_bin.read(path)}


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="../shared/fixtures is not there")
@pytest.mark.parametrize("folder", ["huggingface", "huggingface_classifier"])
def test_a_file_of_pytorch_holds_what_the_safetensors_file_beside_it_holds(folder):
    arrays = arrays_of(FIXTURES / folder / "pytorch_model.bin")
    expected = load_file(FIXTURES / folder / "model.safetensors")
    tied = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    assert set(arrays) - tied == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)
    if tied <= set(arrays):
        np.testing.assert_array_equal(
            arrays["cls.predictions.decoder.weight"],
            expected["bert.embeddings.word_embeddings.weight"],
        )


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_either_layout_is_a_checkpoint(tmp_path, save):
    tensors = huggingface_tensors(num_labels=3)
    whole = huggingface.read_weights(save_huggingface(tmp_path, tensors))
    (tmp_path / "model.safetensors").unlink()
    save(tmp_path / "pytorch_model.bin", tensors)
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        weights = huggingface.read_weights(path)
        assert set(weights) == set(whole)
        for name in weights:
            np.testing.assert_array_equal(np.asarray(weights[name]), tensors_of(whole)[name])


def tensors_of(weights):
    return {name: np.asarray(tensor) for name, tensor in weights.items()}


@pytest.mark.parametrize("save", [save_zip, save_legacy])
@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "int64", "uint8", "bool"]
)
def test_every_type_has_its_values(tmp_path, save, dtype):
    array = np.arange(6).reshape(2, 3).astype(np.dtype(dtype))
    save(tmp_path / "a.bin", {"x": array})
    ((name, shape, word, read),) = torch_bin.read(tmp_path / "a.bin")
    assert (name, shape, word) == ("x", (2, 3), dtype)
    assert read().dtype == np.dtype(dtype)
    np.testing.assert_array_equal(read(), array)


def test_bfloat16_is_known():
    assert np.dtype("bfloat16") == ml_dtypes.bfloat16


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_views_of_one_storage_are_told_apart(tmp_path, save):
    storage = Stored(np.arange(12, dtype=np.float32))
    views = {
        "whole": Rebuilt(storage, 0, (3, 4), (4, 1)),
        "turned": Rebuilt(storage, 0, (4, 3), (1, 4)),
        "part": Rebuilt(storage, 5, (2,), (1,)),
        "scalar": Rebuilt(storage, 7, (), ()),
        "empty": Rebuilt(storage, 0, (0, 4), (4, 1)),
    }
    save(tmp_path / "a.bin", views)
    arrays, whole = arrays_of(tmp_path / "a.bin"), np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(arrays["whole"], whole)
    np.testing.assert_array_equal(arrays["turned"], whole.T)
    assert arrays["turned"].flags.c_contiguous
    assert arrays["part"].tolist() == [5, 6]
    assert arrays["scalar"].shape == () and arrays["scalar"] == 7
    assert arrays["empty"].shape == (0, 4)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle_and_an_ordered_dict_with_attributes(tmp_path, protocol):
    values = OrderedDict(x=np.ones(2, np.float32))
    values._metadata = OrderedDict({"": {"version": 1}})  # as a state_dict has
    save_zip(tmp_path / "a.bin", values, protocol=protocol)
    assert arrays_of(tmp_path / "a.bin")["x"].tolist() == [1, 1]


def test_a_dictionary_within_a_dictionary_is_found(tmp_path):
    save_zip(tmp_path / "a.bin", {"state_dict": {"x": np.ones(2, np.float32)}, "epoch": 3})
    assert list(arrays_of(tmp_path / "a.bin")) == ["x"]


def test_a_damaged_storage_is_refused_when_it_is_read(tmp_path):
    save_zip(tmp_path / "a.bin", {"x": np.arange(1000, dtype=np.float32)})
    content = bytearray((tmp_path / "a.bin").read_bytes())
    content[content.index(np.arange(500, 510, dtype=np.float32).tobytes())] ^= 1
    (tmp_path / "a.bin").write_bytes(content)
    ((_, _, _, read),) = torch_bin.read(tmp_path / "a.bin")
    with pytest.raises(UserError, match="damaged"):
        read()


@pytest.mark.parametrize(
    ("shape", "strides"),
    [((13,), (1,)), ((3, 4), (5, 1)), ((2**40, 2**40), (0, 0)), ((3, -1), (1, 1)), ((3,), (1, 1))],
)
def test_a_tensor_larger_than_its_storage_is_refused(tmp_path, shape, strides):
    storage = Stored(np.arange(12, dtype=np.float32))
    save_zip(tmp_path / "a.bin", {"x": Rebuilt(storage, 0, shape, strides)})
    with pytest.raises(UserError, match=r"cannot be read: it is no PyTorch file, or damaged"):
        torch_bin.read(tmp_path / "a.bin")


def test_a_list_is_no_checkpoint(tmp_path):
    save_zip(tmp_path / "a.bin", [np.ones(2, np.float32)])
    with pytest.raises(UserError, match="holds no dictionary"):
        torch_bin.read(tmp_path / "a.bin")


def test_an_object_of_python_is_refused_by_its_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.bin", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"path": Path("x")}, 2))
    with pytest.raises(UserError, match=r"asks to run 'pathlib\.\w+'; it was not run"):
        torch_bin.read(tmp_path / "a.bin")
