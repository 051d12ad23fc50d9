# SPDX-License-Identifier: Apache-2.0
"""What is done to the process before and around TensorFlow: imports, memory, cores, programs that
runs keep, and the private interfaces of TensorFlow. Below training; knows of no network."""
