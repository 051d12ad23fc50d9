# SPDX-License-Identifier: Apache-2.0
"""Bodies of requests to Query, and answers to bodies; one file a protocol."""
