# SPDX-License-Identifier: Apache-2.0
"""Cerebras .mdl: types, links, names, configs, and the missing package.

What the loaded networks compute is tested in test_original_programs.py, damage in
test_hostile_files.py.
"""

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from common.checkpoints.containers import hdf5
from common.checkpoints.formats import cerebras_mdl
from common.checkpoints.load import open_checkpoint
from common.errors import UserError

FIXTURES = Path(__file__).parents[5] / "shared" / "fixtures" / "cerebras_mdl"
needs_fixtures = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason="../shared/fixtures, written by cerebras-pytorch, is not there"
)


@needs_fixtures
def test_every_type_of_an_mdl_file_and_a_link_have_their_values():
    pytest.importorskip("hdf5plugin", reason="the extra mdl: pip install hdf5plugin")
    expected = json.loads((FIXTURES / "dtypes.json").read_text())["model"]
    tensors = {t.name: t for t in cerebras_mdl.list_tensors(FIXTURES / "dtypes.mdl")}
    with h5py.File(FIXTURES / "dtypes.mdl") as file:
        hdf5.check_lz4("dtypes.mdl", file)
    for name, value in expected.items():
        tensor = tensors.pop(f"model.{name}")
        assert (f"torch.{tensor.dtype}", list(tensor.shape)) == (value["dtype"], value["shape"])
        array = tensor.read()
        assert array.dtype == np.dtype(tensor.dtype) and array.shape == tensor.shape
        expected_values = np.array(value["values"], float).reshape(tensor.shape)
        np.testing.assert_array_equal(array.astype(np.float64), expected_values)
    assert not tensors


@needs_fixtures
def test_without_its_package_an_mdl_file_can_be_listed_and_reading_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: False)
    assert len(cerebras_mdl.list_tensors(FIXTURES / "checkpoint_0.mdl")) == 93
    with pytest.raises(UserError, match=r"compressed with LZ4.*: pip install hdf5plugin"):
        cerebras_mdl.read_weights(FIXTURES / "checkpoint_0.mdl")


def save_mdl(path, **attributes):
    """A file with a word table, uncompressed. attributes: of the root."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        name = "model.model.bert.embedding_layer.word_embeddings.weight"
        file.create_dataset(name, data=np.ones((23, 6), np.float32))
        file.attrs.update({"__cstorch_version__": "2.10.0"} | attributes)
    return path


def test_a_folder_means_the_newest_mdl_file(tmp_path):
    for step in (9, 10, 100):
        save_mdl(tmp_path / f"checkpoint_{step}.mdl")
    assert cerebras_mdl.find_file(tmp_path).name == "checkpoint_100.mdl"
    assert open_checkpoint(tmp_path).format == "cerebras_mdl"


def test_an_mdl_file_of_another_name_is_recognised_by_what_it_holds(tmp_path):
    assert open_checkpoint(save_mdl(tmp_path / "renamed.h5")).format == "cerebras_mdl"


@pytest.mark.parametrize(
    ("params", "activation", "epsilon", "notes"),
    [
        (None, "gelu_erf", None, []),
        ("model: {encoder_nonlinearity: gelu_new, layer_norm_epsilon: 1.0e-6, "
         "pooler_nonlinearity: tanh}", "gelu_tanh", 1e-6, []),
        ("model: {num_heads: 2}", "gelu_erf", None,
         ["pooler: trained with gelu, in a classifier here with tanh"]),
    ],
)  # fmt: skip
def test_gelu_of_an_mdl_file_is_the_erf_form_unless_its_params_say_otherwise(
    tmp_path, params, activation, epsilon, notes
):
    path = save_mdl(tmp_path / "checkpoint_0.mdl")
    if params is not None:
        (tmp_path / "params.yaml").write_text(params)
    config = cerebras_mdl.read_config(path)
    assert config["encoder_nonlinearity"] == activation
    assert config["layer_norm_epsilon"] == epsilon
    assert config["family"] == "cerebras" and config["notes"] == notes


def test_the_global_step_is_read_through_links(tmp_path):
    def metadata(name, inner):
        return {f"{name}.__metadata__": json.dumps({f"{name}.__metadata__": inner})}

    path = save_mdl(
        tmp_path / "checkpoint_5.mdl",
        **metadata("global_step", {"__TYPE__": "LinkedObject", "key": "other"}),
        **metadata("other", {"__TYPE__": "ScalarSerializer", "scalar_value": 5}),
    )
    assert cerebras_mdl.read_config(path)["step"] == 5


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.model.bert.transformer_encoder.layers.10.norm1.weight",
         "encoder/layer_10/attention_layer_norm/gamma"),
        ("model.model.bert_encoder.transformer_encoder.layers.0.ffn.ffn.1.linear_layer.weight",
         "encoder/layer_0/feed_forward/project/kernel"),
        ("model.model.bert.transformer_encoder.norm.bias", "encoder/final_layer_norm/beta"),
        ("model.model.classifier.bias", "classifier/bias"),
        ("model.model.bert_mlm_head.classifier.ffn.0.linear_layer.weight",
         "mlm/output_embeddings"),
        ("optimizer.state.0.momentum_buffer", None),
        ("model.model.bert.transformer_encoder.layers.{i}.norm2.weight.x", None),
    ],
)  # fmt: skip
def test_names_of_mdl_files(name, expected):
    assert cerebras_mdl.neutral_name(name) == expected
