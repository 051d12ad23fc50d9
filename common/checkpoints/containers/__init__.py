# SPDX-License-Identifier: Apache-2.0
"""Kinds of file that hold named tensors, whatever the tensors mean: one kind a file."""
