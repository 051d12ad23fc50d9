# SPDX-License-Identifier: Apache-2.0
"""The step-based loop, evaluation, prediction, and what people look at."""
