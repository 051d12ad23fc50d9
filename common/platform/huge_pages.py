# SPDX-License-Identifier: Apache-2.0
"""Memory in pages of 2 MB in place of 4 kB, where Linux gives them to those who ask.

An optimizer's update walks through weights, slots and gradients from end to end, and every page is
looked up in tables that the processor keeps for a few MB only: a tenth of a step of MiniLM
(benchmarks/NOTES.md).
"""

import os
import sys
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"
HUGE_PAGES = "glibc.malloc.hugetlb"
FIRST_GLIBC = (2, 35)  # that knows it
ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_huge_pages():
    """Starts this program anew, in the same process, with a setting that glibc reads at its start.

    To be called first, before anything that takes time is imported. Does nothing where the setting
    is there already, or would have no effect. GLIBC_TUNABLES=glibc.malloc.hugetlb=0 prevents it.
    """
    try:
        libc, enabled = os.confstr("CS_GNU_LIBC_VERSION"), ENABLED.read_text("ascii")
    except (AttributeError, ValueError, OSError):
        return  # no glibc, or no Linux
    environment = environment_with_huge_pages(os.environ, libc, enabled)
    if environment is not None:
        os.execve(sys.executable, sys.orig_argv, environment)


def environment_with_huge_pages(environ, libc, enabled):
    """Returns the environment to start with, or None where it changes nothing.

    Args:
        environ: mapping of str.
        libc: such as "glibc 2.36".
        enabled: the text of ENABLED: with "[always]" every program has them, with "[never]" none.
    """
    version = tuple(int(part) for part in libc.split()[-1].split(".")[:2])
    given = environ.get(TUNABLES, "")
    if version < FIRST_GLIBC or "[madvise]" not in enabled or HUGE_PAGES in given:
        return None
    return {**environ, TUNABLES: ":".join(filter(None, [given, f"{HUGE_PAGES}=1"]))}
