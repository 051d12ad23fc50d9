# SPDX-License-Identifier: Apache-2.0
"""The embedded sample: sentences and pairs written for this project, and their TFDS builder."""
