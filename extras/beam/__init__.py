# SPDX-License-Identifier: Apache-2.0
"""Apache Beam: `make beam-setup`."""
