# SPDX-License-Identifier: Apache-2.0
"""A params file with what every run needs and little more; tests change it line by line."""

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
