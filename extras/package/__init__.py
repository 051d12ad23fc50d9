# SPDX-License-Identifier: Apache-2.0
"""The installable package: how `pip install .` makes `bert_classifier` of this tree."""
