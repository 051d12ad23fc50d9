# SPDX-License-Identifier: Apache-2.0
"""Documents to rows of token ids on disk, made once and read by position."""
