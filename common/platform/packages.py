# SPDX-License-Identifier: Apache-2.0
"""The installed packages. Needs nothing but Python itself, so that it can tell what is missing."""

import os
import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
MIN_PYTHON = (3, 11)


def version_of(package):
    """Returns the version of a package, or None; TensorFlow's may be that of tensorflow-cpu."""
    import importlib.metadata  # a tenth of a second, which a start of run.py need not wait for

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        providers = importlib.metadata.packages_distributions().get(package, ())
        return importlib.metadata.version(providers[0]) if providers else None


def check_packages():
    """Ends the program with a sentence where this Python lacks what pyproject.toml asks for."""
    if sys.version_info < MIN_PYTHON:
        fault = f"is Python {sys.version.split()[0]}"
    else:
        needed = re.search(r"^dependencies = \[$(.*?)^\]$", PROJECT.read_text("utf-8"), re.M | re.S)
        names = re.findall(r'^ *"([\w-]+)', needed[1], re.M)
        entries = (entry for path in sys.path if os.path.isdir(path) for entry in os.listdir(path))
        installed = {name.split("-")[0].lower() for name in entries if name.endswith(".dist-info")}
        candidates = [name for name in names if name.replace("-", "_").lower() not in installed]
        missing = [name for name in candidates if version_of(name) is None]
        if not missing:
            return
        fault = f"lacks {', '.join(missing)}"
    print(
        f"{sys.executable} {fault}: start .venv/bin/python instead; `make setup` makes or "
        "completes it",
        file=sys.stderr,
    )
    sys.exit(2)
