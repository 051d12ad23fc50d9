# SPDX-License-Identifier: Apache-2.0
"""Programs that are put beside an export: they stand alone, with NumPy and tokenizers."""
