# SPDX-License-Identifier: Apache-2.0
"""Networks written in `.neural` files: a params file in another language. See docs/neural.md."""
