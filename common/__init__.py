# SPDX-License-Identifier: Apache-2.0
"""What every model of the project shares: schema, layers, optimizer, metrics, checkpoints, loop."""
