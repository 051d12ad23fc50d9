# SPDX-License-Identifier: Apache-2.0
"""Params with what every run needs and little more; tests change them key by key."""

from hypothesis import strategies as st

from common.params import Params

VALID = """\
train_input:
  data_processor: Sst2DataProcessor
  data_dir: data
  max_sequence_length: 13
  batch_size: 7
model:
  hidden_size: 12
  num_heads: 3
optimizer:
  learning_rate: 1e-4
runconfig:
  max_steps: 11
"""


def training_params(run=None, optimizer=None, train=None):
    """Params of a training on rows that are not read: keys beside the needed ones, or in their
    place. optimizer: None, as in a file without the section."""
    rows = {"data_processor": "Sst2DataProcessor", "data_dir": "none", "max_sequence_length": 9}
    values = {"train_input": rows | {"batch_size": 32} | (train or {})}
    values["runconfig"] = {"mode": "train"} | (run or {})
    return Params.model_validate(values | ({} if optimizer is None else {"optimizer": optimizer}))


# Whatever a YAML file may hold, as plain values.
plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)
