# SPDX-License-Identifier: Apache-2.0
"""What computes a network: our own checkpoint, or an export by an Engine of
`common/export/engine.py`: one call at a time for the server, in streams for a prediction in bulk.

The network of a checkpoint has `run`, `max_rows` and `num_streams`, too.
"""
