# SPDX-License-Identifier: Apache-2.0
"""A params file with what every run needs and little more; tests change it line by line."""

from hypothesis import strategies as st

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
