# SPDX-License-Identifier: Apache-2.0
"""What a model is trained for: targets, loss, metrics and predictions of each task."""
