# SPDX-License-Identifier: Apache-2.0
"""The figures of each task, in NumPy float64, of every row of a split."""
