# SPDX-License-Identifier: Apache-2.0
"""Memory in pages of 2 MB in place of 4 kB, on Linux systems that give them on request.

An optimizer's update reads weights, slots and gradients from end to end. The processor caches the
addresses of pages for a few MB only, and looking up the others takes a tenth of a step of MiniLM
(benchmarks/NOTES.md).
"""

import os
import signal
import sys
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"
HUGE_PAGES = "glibc.malloc.hugetlb"
MIN_GLIBC = (2, 35)  # the first version with this setting
ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_huge_pages():
    """Starts this program again, in the same process, with a setting that glibc reads at start.

    Call it first, before any slow import. It does nothing where the setting is there already or
    would have no effect. GLIBC_TUNABLES=glibc.malloc.hugetlb=0 prevents it.
    """
    try:
        libc, enabled = os.confstr("CS_GNU_LIBC_VERSION"), ENABLED.read_text("ascii")
    except (AttributeError, ValueError, OSError):
        return  # no glibc, or no Linux
    environment = environment_with_huge_pages(os.environ, libc, enabled)
    if environment is not None:
        # Ctrl-C would interrupt Python's own start, with a traceback; `run.py` unblocks it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        os.execve(sys.executable, sys.orig_argv, environment)


def environment_with_huge_pages(environ, libc, enabled):
    """Returns the environment to start with, or None where a new start changes nothing.

    libc: such as "glibc 2.36". enabled: the text of ENABLED: with "[always]" every program has huge
    pages, with "[never]" none.
    """
    version = tuple(int(part) for part in libc.split()[-1].split(".")[:2])
    tunables = environ.get(TUNABLES, "")
    if version < MIN_GLIBC or "[madvise]" not in enabled or HUGE_PAGES in tunables:
        return None
    return {**environ, TUNABLES: ":".join(filter(None, [tunables, f"{HUGE_PAGES}=1"]))}
