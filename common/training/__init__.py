# SPDX-License-Identifier: Apache-2.0
"""The step-based loop, evaluation and prediction."""
