# SPDX-License-Identifier: Apache-2.0
"""What happens to gradients: update rule, schedules, loss scale."""
