# SPDX-License-Identifier: Apache-2.0
"""What computes a network: `run(features) -> {name: array [M, ...]}`, one call at a time.

features: {"input_ids", "input_mask", "segment_ids": int32 [M, T]}, and what the task adds.
max_rows: int or None. The most rows of a call.
"""
