# SPDX-License-Identifier: Apache-2.0
"""Where rows come from: data sets of TensorFlow Datasets, and files of the user's own."""
