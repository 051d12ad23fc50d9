# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's import without what its libraries print meanwhile."""

import contextlib
import gc
import os
import sys

from common.platform.lazy_imports import imported_lazily
from common.platform.tf_private import UNUSED_MODULES


def import_quietly():
    """Imports TensorFlow without the lines its libraries write before they can be told not to.

    What is imported stays: to look through it for garbage took a quarter of the time, and is left
    out from then on as well.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # a user may have another for other programs
    gc.disable()
    try:
        with silent_stderr():
            with imported_lazily(UNUSED_MODULES):
                import absl.logging
                import tensorflow

            tensorflow.config.list_physical_devices()  # the search for GPUs speaks too
        absl.logging.set_verbosity(absl.logging.ERROR)
    finally:
        gc.freeze()
        gc.enable()


def import_once_quietly():
    """As `import_quietly`, where nobody has imported TensorFlow before."""
    if "tensorflow" not in sys.modules:
        import_quietly()


@contextlib.contextmanager
def silent_stderr():
    """While open, nothing reaches the standard error stream, also from C++."""
    sys.stderr.flush()
    stderr = os.dup(2)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(silent)
        os.close(stderr)
