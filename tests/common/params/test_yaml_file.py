# SPDX-License-Identifier: Apache-2.0
"""YAML values are those of PyYAML, and every key has its line. Refusals: tests/test_utils.py."""

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from common.params.yaml_file import read_yaml
from tests.reference.small_params import plain_values


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "model", "c d"]), plain_values, min_size=1))
def test_values_are_those_of_pyyaml_and_every_key_has_its_line(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    text = yaml.safe_dump(values, allow_unicode=True, default_flow_style=False)
    path.write_bytes(text.encode())
    read, lines, faults = read_yaml(path)
    assert read == yaml.safe_load(text)
    assert not faults
    written = text.splitlines()
    for key in values:
        assert written[lines[(key,)] - 1].lstrip("'\"").startswith(key)
