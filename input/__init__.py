# SPDX-License-Identifier: Apache-2.0
"""Text to features: processors, tokenizer, token cache, epoch plan, batches, sample data."""
