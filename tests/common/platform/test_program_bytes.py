# SPDX-License-Identifier: Apache-2.0
"""Which programs become bytes, and what their first call leaves of the standard error stream."""

import os
import threading

import pytest
import tensorflow as tf

from common.platform.program_bytes import NotKept, to_bytes, without_false_alarms


def test_a_step_that_reads_an_unknown_variable_is_not_kept():
    variable = tf.Variable(1.0)
    concrete = tf.function(lambda x: x * variable, autograph=False).get_concrete_function(
        tf.constant(2.0)
    )
    with pytest.raises(NotKept, match="no name"):
        to_bytes(concrete, {}, "kept_")


def test_threads_that_call_new_programs_restore_stderr(capfd):
    has_begun, may_end = threading.Event(), threading.Event()

    def first():
        with without_false_alarms():
            has_begun.set()
            may_end.wait(timeout=60)

    def second():
        with without_false_alarms():
            one.join(timeout=1)  # times out if `second` did not wait for its turn

    one, two = threading.Thread(target=first), threading.Thread(target=second)
    one.start()
    has_begun.wait(timeout=60)
    two.start()
    may_end.set()
    one.join(timeout=60)
    two.join(timeout=60)
    os.write(2, b"still there\n")
    assert capfd.readouterr().err == "still there\n"
