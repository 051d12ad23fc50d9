# SPDX-License-Identifier: Apache-2.0
"""What `pip install .` installs: puts the tree under one package, `bert_classifier`.

The files at the root have names that the original fixed, such as `utils.py` and `data.py`, and
installed as they are they would hide the user's own. So the wheel has them below `bert_classifier`,
where each import of a module of the tree, and each string that names one, has the package in front.
Everything else is the same byte for byte.
"""

import ast

PACKAGE = "bert_classifier"
MODULES = ("BertClassifierModel", "api", "data", "model", "run", "session", "utils")
ROOMS = ("common", "experiments", "extras/neural", "input", "serving")
# Read at run time: the package list of `common/platform/packages.py` and the version; the files
# that `--params configs/...` names.
DATA = ("pyproject.toml", "LICENSE", "configs/**/*.yaml", "configs/*.json")
IN_ROOMS = ("*.py", "samples/*", "page/*")

INIT = '''# SPDX-License-Identifier: Apache-2.0
"""BERT from one YAML file or a few lines of Python: `bert-classifier --help`, `Classifier`."""

from bert_classifier.api import (
    Classifier,
    MaskedLanguageModel,
    QuestionAnswerer,
    TokenClassifier,
)

__all__ = ["Classifier", "MaskedLanguageModel", "QuestionAnswerer", "TokenClassifier"]
'''
MAIN = '''# SPDX-License-Identifier: Apache-2.0
"""`python -m bert_classifier` and `bert-classifier`: run.py."""

import runpy


def main():
    runpy.run_module("bert_classifier.run", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
'''


def sources(root):
    """Returns the Paths of the files that the package is made of, in order."""
    found = [root / f"{module}.py" for module in MODULES]
    found += [path for room in ROOMS for kind in IN_ROOMS for path in (root / room).rglob(kind)]
    found += [path for kind in DATA for path in root.glob(kind)]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def package_files(root):
    """Returns {path in the package: bytes}."""
    files = {str(path.relative_to(root)): path.read_bytes() for path in sources(root)}
    modules = {
        name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for name in files
        if name.endswith(".py")
    }
    for name, content in files.items():
        if name.endswith(".py"):
            files[name] = below_package(content, modules, name)
    return files | {"__init__.py": INIT.encode(), "__main__.py": MAIN.encode()}


def below_package(source, modules, name):
    """Returns the source of a module with its imports of `modules` below the package.

    source: bytes. modules: dotted names of the tree. Raises ValueError where an import has a form
    that would bind another name: `import a.b`.
    """
    dotted = {each for each in modules if "." in each}
    edits = []  # (line, column in bytes, what is put there)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module in modules:
            at = node.col_offset + len("from ")
            edits.append((node.lineno, at, f"{PACKAGE}."))
        elif isinstance(node, ast.Import):
            ours = [alias.name for alias in node.names if alias.name in modules]
            if any("." in each for each in ours) or (ours and len(node.names) > 1):
                raise ValueError(
                    f"{name}:{node.lineno}: write `from package import module`, one in a line, "
                    f"in place of `import {', '.join(ours)}`"
                )
            if ours:
                edits.append((node.lineno, node.col_offset, f"from {PACKAGE} "))
        elif isinstance(node, ast.Constant) and node.value in dotted:
            edits.append((node.lineno, node.col_offset + 1, f"{PACKAGE}."))
    lines = source.split(b"\n")
    for number, column, text in sorted(edits, reverse=True):
        line = lines[number - 1]
        lines[number - 1] = line[:column] + text.encode() + line[column:]
    return b"\n".join(lines)
