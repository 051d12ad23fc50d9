# SPDX-License-Identifier: Apache-2.0
"""A trained classifier written for other programs: one file for each format, and its model card."""
