# SPDX-License-Identifier: Apache-2.0
"""What is done before a run: `--validate_only` and `--compile_only`; see docs/compile.md."""
