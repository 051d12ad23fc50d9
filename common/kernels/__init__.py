# SPDX-License-Identifier: Apache-2.0
"""What makes the layers fast: compiled loops, written-out gradients, dropout bits, streams.

Nothing here imports a layer. Each file computes what a plain formula computes, in fewer passes over
memory or side by side.
"""
