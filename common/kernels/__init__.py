# SPDX-License-Identifier: Apache-2.0
"""What makes the layers fast: compiled loops, written-out gradients, dropout bits, streams.

Nothing here imports a layer.
"""
