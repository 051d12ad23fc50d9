# SPDX-License-Identifier: Apache-2.0
"""The code that source exports are made of: each file runs as it is, with any network."""
