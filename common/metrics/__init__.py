# SPDX-License-Identifier: Apache-2.0
"""Figures computed from counts summed over every example."""
