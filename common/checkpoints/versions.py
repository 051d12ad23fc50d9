# SPDX-License-Identifier: Apache-2.0
"""NAME/<version>/: numbered versions of a model, with aliases.

A version is a folder with a number for its name; an alias, such as `champion`, is a file beside the
versions with the number of one. `experiments/registry.py` makes them, `serving/` serves them.
"""

from pathlib import Path

from common.errors import UserError


def versions(place):
    """Returns the numbers of the versions in NAME: list of int, rising."""
    return sorted(
        int(path.name)
        for path in Path(place).iterdir()
        if path.name.isascii() and path.name.isdigit() and path.is_dir()
    )


def aliases(place):
    """Returns {alias: number} of the versions that the aliases in NAME stand for."""
    found = {}
    for path in sorted(Path(place).iterdir()):
        if path.is_file() and not path.name.startswith("."):
            with open(path, "rb") as file:
                content = file.read(32).strip()
            if content.isdigit():
                found[path.name] = int(content)
    return found


def dangling(place, alias, number):
    """Returns what to say of an alias whose version is not in NAME, and what to do: str."""
    return (
        f"alias {alias} stands for version {number}, which is not there; write the number of one "
        f"that is into {Path(place) / alias}"
    )


def resolve(registry, target):
    """Returns the folder of NAME@ALIAS, NAME@VERSION or NAME, which is the newest version.

    Raises UserError where there is none.
    """
    name, _, which = target.partition("@")
    place = Path(registry) / name
    if name in ("", ".", "..") or "/" in name or not place.is_dir():
        raise UserError(f"{registry} has no model {name!r}; promote one to that name")
    numbers, of_alias = versions(place), aliases(place)
    number = of_alias.get(which)
    if not which:
        number = max(numbers, default=None)
    elif which.isascii() and which.isdigit():
        number = int(which)
    if number not in numbers:
        there = f"{place} has the versions {', '.join(map(str, numbers)) or 'none'}"
        if which in of_alias:
            raise UserError(f"{target}: {dangling(place, which, number)}; {there}")
        raise UserError(f"{target}: {there} and the aliases {', '.join(of_alias) or 'none'}")
    return place / str(number)
