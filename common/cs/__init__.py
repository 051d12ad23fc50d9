# SPDX-License-Identifier: Apache-2.0
"""The Cerebras CS system: a PyTorch twin of the classifier, run by the vendor's `cerebras.pytorch`.

`target.py` and `prepare.py` run in the main environment, the rest in `.venv-cs`;
docs/cs_system.md describes how the two work together.
"""
