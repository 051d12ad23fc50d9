# SPDX-License-Identifier: Apache-2.0
"""What needs an environment of its own."""
