# SPDX-License-Identifier: Apache-2.0
"""When a program is started again for huge pages, and that it keeps arguments and input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.platform.huge_pages import ENABLED, TUNABLES, environment_with_huge_pages

ON_REQUEST = "always [madvise] never\n"
ROOT = Path(__file__).parents[3]


def test_the_setting_is_added_to_the_users():
    environment = environment_with_huge_pages(
        {"A": "b", TUNABLES: "x.y=3"}, "glibc 2.36", ON_REQUEST
    )
    assert environment == {"A": "b", TUNABLES: "x.y=3:glibc.malloc.hugetlb=1"}
    environment = environment_with_huge_pages({}, "glibc 2.35", ON_REQUEST)
    assert environment == {TUNABLES: "glibc.malloc.hugetlb=1"}


@pytest.mark.parametrize(
    ("tunables", "libc", "enabled"),
    [
        (
            "glibc.malloc.hugetlb=1",
            "glibc 2.36",
            ON_REQUEST,
        ),  # or the new process would start again
        ("glibc.malloc.hugetlb=0", "glibc 2.36", ON_REQUEST),
        ("", "glibc 2.34", ON_REQUEST),
        ("", "glibc 2.36", "[always] madvise never\n"),
        ("", "glibc 2.36", "always madvise [never]\n"),
    ],
)
def test_a_program_does_not_start_again_without_need(tunables, libc, enabled):
    assert environment_with_huge_pages({TUNABLES: tunables}, libc, enabled) is None


@pytest.mark.skipif(
    not ENABLED.is_file() or "[madvise]" not in ENABLED.read_text(),
    reason=f"{ENABLED} does not say [madvise]",
)
def test_the_new_program_has_the_same_process_arguments_and_input(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from common.platform.huge_pages import TUNABLES, use_huge_pages\n"
        "print(os.getpid(), flush=True)\n"
        "use_huge_pages()\n"
        "print(json.dumps([sys.argv[1:], sys.flags.optimize, os.environ[TUNABLES], input()]))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != TUNABLES}
    command = [sys.executable, "-O", str(script), "--a", "b c", ""]
    done = subprocess.run(
        command, input="text\n", env=environment, capture_output=True, text=True, check=True
    )
    first, second, last = done.stdout.splitlines()
    assert first == second
    assert json.loads(last) == [["--a", "b c", ""], 1, "glibc.malloc.hugetlb=1", "text"]
