# SPDX-License-Identifier: Apache-2.0
"""Optimizers: update rules, learning-rate schedules, loss scaling."""
