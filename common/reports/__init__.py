# SPDX-License-Identifier: Apache-2.0
"""Listeners of a run: progress, metrics file, TensorBoard, plots, evaluation reports."""
