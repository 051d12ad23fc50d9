# SPDX-License-Identifier: Apache-2.0
"""docs/how_it_works: the code of every page runs on the real weights and prints what it shows."""

import re

import pytest

from common.checkpoints.first_weights import installed_weights
from tests.reference.pages_that_run import (
    INDEX,
    PAGES,
    ROOT,
    are_alike,
    blocks_of,
    run_blocks,
)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The names that the index leaves to every page."""
    if installed_weights() is None:
        pytest.skip("no pre-trained weights; `make setup` installs them")
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("pages"))
        printed = run_blocks(INDEX, names)
        shown = [output for _, output in blocks_of(INDEX)]
        assert all(map(are_alike, printed, shown)), printed
        yield names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_prints_what_stands_below_it(page, begun):
    printed = run_blocks(page, dict(begun))
    shown = [output for _, output in blocks_of(page)]
    assert len(shown) > 1
    for number, (ours, theirs) in enumerate(zip(printed, shown, strict=True), 1):
        assert are_alike(ours, theirs), f"block {number} prints\n{ours}"


def test_every_page_is_linked_from_the_index_and_names_files_that_are_there():
    index = INDEX.read_text("utf-8")
    for page in PAGES:
        assert f"({page.name})" in index
        for name in re.findall(r"`((?:common|input)/[\w/]+\.py)`", page.read_text("utf-8")):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"


def test_outputs_are_alike_but_for_the_last_digits():
    assert are_alike("a 1.000 b 3\n", "a 1.001 b 3\n")
    assert not are_alike("a 1.000 b 3\n", "a 1.004 b 3\n")
    assert not are_alike("a 1.000 b 3\n", "a 1.000 b 4\n")
    assert are_alike("6.00e-05", "6.01e-05") and not are_alike("6.00e-05", "6.03e-05")
