# SPDX-License-Identifier: Apache-2.0
"""The end of a process that `os.fork` has made."""

import os
import sys
import traceback


def end_with(function, code_of_exception):
    """Calls a function, then ends this process at once, whatever the function did.

    function: () -> exit code, None for 0. An exception is printed and ends it with
    `code_of_exception`.
    """
    code = code_of_exception
    try:
        code = function() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
