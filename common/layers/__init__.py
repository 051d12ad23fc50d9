# SPDX-License-Identifier: Apache-2.0
"""Layers over keras.ops, one block of the paper per file."""
