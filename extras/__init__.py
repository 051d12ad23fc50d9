# SPDX-License-Identifier: Apache-2.0
"""What stands beside the program: another environment, another language, the package."""
