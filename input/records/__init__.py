# SPDX-License-Identifier: Apache-2.0
"""Pre-training records of Google's and the original's programs: how they are framed and made."""
