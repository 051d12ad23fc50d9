# SPDX-License-Identifier: Apache-2.0
"""Networks without a head: from token ids to token vectors, with their fresh or frozen weights."""
