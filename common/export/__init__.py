# SPDX-License-Identifier: Apache-2.0
"""Export of a trained classifier to other programs, with a model card."""
