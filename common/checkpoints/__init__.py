# SPDX-License-Identifier: Apache-2.0
"""Weights and training state in and out, under one table of neutral names."""
