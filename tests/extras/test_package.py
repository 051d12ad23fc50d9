# SPDX-License-Identifier: Apache-2.0
"""The installed package, in a folder whose own files have the names of the tree's."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from extras.package.build import below_package, package_files

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder as pip fills site-packages."""
    folder = tmp_path_factory.mktemp("site-packages")
    for name, content in package_files(ROOT).items():
        path = folder / "bert_classifier" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def desk(installed, tmp_path):
    """Runs Python in a user's folder, which has a utils.py, a data.py and an input/ of its own."""
    for name in ("utils", "data", "model", "session", "common"):
        (tmp_path / f"{name}.py").write_text(f"OWNER = 'the user, {name}'\n")

    def python(*words):
        environment = os.environ | {"PYTHONPATH": str(installed)}
        return subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    return python


def test_the_users_own_modules_stay_the_users(desk):
    code = (
        "import utils, data, common; from bert_classifier import Classifier, TokenClassifier\n"
        "import bert_classifier.session, bert_classifier.utils\n"
        "assert utils.OWNER == 'the user, utils' and data.OWNER == 'the user, data'\n"
        "assert Classifier.__module__ == 'bert_classifier.api'\n"
        "import sys; ours = {'input', 'session', 'model', 'run', 'experiments', 'api'}\n"
        "assert not ours & set(sys.modules), ours & set(sys.modules)\n"
    )
    done = desk("-c", code)
    assert done.returncode == 0, done.stderr


def test_the_program_runs_and_finds_its_configs_from_any_folder(desk):
    done = desk("-m", "bert_classifier", "--help")
    assert done.returncode == 0 and "--train_file" in done.stdout, done.stderr
    file = "configs/experiments/sample_rates.yaml"
    done = desk(
        "-m", "bert_classifier", "--mode", "experiment", "--params", file, "--validate_only"
    )
    assert done.returncode == 0 and "4 runs: 2 combinations" in done.stdout, done.stderr
    done = desk("-m", "bert_classifier", "--mode", "train", "--params", "configs/no.yaml")
    assert done.returncode == 2 and "configs/no.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_package_reads_networks_in_the_other_language(desk, tmp_path):
    (tmp_path / "x.neural").write_text("network N { }\nnetwork M { }\n", "utf-8")
    done = desk("-m", "bert_classifier", "--mode", "train", "--params", "x.neural")
    assert done.returncode == 2 and "x.neural: line 2: 2 networks" in done.stderr, done.stderr


def test_every_module_of_the_package_names_modules_that_are_there(installed, desk):
    """Imports of other modules that the tree has: all lie below the package."""
    names = sorted(
        ".".join(path.relative_to(installed).with_suffix("").parts)
        for path in (installed / "bert_classifier").rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    )
    code = (
        "import ast, importlib.util, sys\n"
        "rooms = {'common', 'experiments', 'input', 'api', 'run', 'session', 'utils', 'model'}\n"
        "for name in sys.argv[1:]:\n"
        "    for node in ast.walk(ast.parse(open(importlib.util.find_spec(name).origin).read())):\n"
        "        if isinstance(node, ast.ImportFrom):\n"
        "            assert node.module.split('.')[0] not in rooms, (name, node.lineno)\n"
        "            if node.module.startswith('bert_classifier.'):\n"
        "                assert importlib.util.find_spec(node.module), (name, node.module)\n"
    )
    done = desk("-c", code, *names)
    assert done.returncode == 0, done.stderr
    assert len(names) > 150


def test_imports_and_names_of_modules_go_below_the_package_and_nothing_else_changes():
    source = (
        "import os, json\nimport session\nfrom common.errors import UserError\n"
        "def f():\n    é = 'common.errors'; from input import summary as s\n"
        "    return 'common.errors is bad', 'input'  # from common.errors import x\n"
    )
    expected = (
        "import os, json\nfrom bert_classifier import session\n"
        "from bert_classifier.common.errors import UserError\n"
        "def f():\n    é = 'bert_classifier.common.errors'; "
        "from bert_classifier.input import summary as s\n"
        "    return 'common.errors is bad', 'input'  # from common.errors import x\n"
    )
    modules = {"session", "common.errors", "input", "common"}
    assert below_package(source.encode(), modules, "x.py").decode() == expected
    with pytest.raises(ValueError, match=r"x.py:1: write `from package import module`"):
        below_package(b"import common.errors", modules, "x.py")


@pytest.mark.slow
def test_pip_makes_a_wheel_of_about_a_megabyte(tmp_path):
    tree = tmp_path / "tree"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tree)], check=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(tree)]
    subprocess.run(pip, check=True, timeout=600)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 1.5e6  # 1.1 MB of code, configs and the samples; no tests
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
        assert top == {"bert_classifier", "bert_classifier-0.1.0.dist-info"}
        entry = archive.read("bert_classifier-0.1.0.dist-info/entry_points.txt").decode()
    assert "bert-classifier = bert_classifier.__main__:main" in entry
