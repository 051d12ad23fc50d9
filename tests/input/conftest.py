# SPDX-License-Identifier: Apache-2.0
"""Hypothesis without its deadline of 200 ms, so that no test depends on the machine's speed."""

from hypothesis import settings

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
