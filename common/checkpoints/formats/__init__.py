# SPDX-License-Identifier: Apache-2.0
"""Families of checkpoints: which tensors a program writes, under which names. One family a file."""
