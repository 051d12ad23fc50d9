# SPDX-License-Identifier: Apache-2.0
"""The command that setuptools calls to build: see pyproject.toml."""

import sys
from pathlib import Path

from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # setuptools loads this file alone

from extras.package.build import PACKAGE, package_files, sources

ROOT = Path(__file__).resolve().parents[2]


class BuildPackage(build_py):
    """Writes the package into the build folder, in place of files as they are."""

    def run(self):
        for name, content in package_files(ROOT).items():
            path = Path(self.build_lib) / PACKAGE / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def get_source_files(self):
        return [str(path.relative_to(ROOT)) for path in sources(ROOT)]
