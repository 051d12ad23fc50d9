# SPDX-License-Identifier: Apache-2.0
"""A loop's calls take no new memory, however deep it stands."""

import platform
import resource

import pytest

from common.call_stack import in_one_piece

CALLS = 100


def most_pages_taken():
    """Of loops that stand 0 to 500 calls deep, the most pages that one of them asks for."""

    def leaf(a=0, b=0, c=0, d=0, e=0, f=0, g=0, h=0, i=0, j=0, k=0, m=0):
        """Its frame is larger than those below it: where one of these just fits, it does not."""

    def pages_at(depth):
        if depth:
            return pages_at(depth - 1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(CALLS):
            leaf()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    return max(map(pages_at, range(500)))


def test_no_loop_takes_memory_for_each_of_its_calls():
    if most_pages_taken() < CALLS:
        pytest.skip(f"Python {platform.python_version()} keeps what it has: nothing to avoid")
    assert in_one_piece(most_pages_taken) < CALLS / 2


def test_results_and_errors_are_those_of_the_function():
    assert in_one_piece(lambda: "result") == "result"
    with pytest.raises(ValueError, match="of the function"):
        in_one_piece(lambda: int("of the function"))
