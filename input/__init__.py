# SPDX-License-Identifier: Apache-2.0
"""Text to features: sources, tokenizers, token cache, epoch plan, packing, batches, sample data."""
