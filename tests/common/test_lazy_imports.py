# SPDX-License-Identifier: Apache-2.0
"""Modules that run when they are first used, and what a run of ours leaves unread."""

import subprocess
import sys

import pytest

from common.lazy_imports import imported_lazily


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose part `rare` notes that it has run."""
    folder = tmp_path / "lazy_example"
    folder.mkdir()
    (folder / "__init__.py").write_text("ran = []\nfrom lazy_example import often, rare\n")
    (folder / "often.py").write_text("import lazy_example\nlazy_example.ran.append('often')\n")
    (folder / "rare.py").write_text(
        "import lazy_example\nlazy_example.ran.append('rare')\nvalue = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("lazy_example")]:
        del sys.modules[name]


def test_a_named_module_runs_at_its_first_use_and_the_others_at_once(package):
    finders = list(sys.meta_path)
    with imported_lazily(["lazy_example.rare", "lazy_example.absent"]):
        import lazy_example

        with pytest.raises(ImportError):
            import lazy_example.absent
    assert lazy_example.ran == ["often"]
    assert lazy_example.rare.value == 3
    assert lazy_example.ran == ["often", "rare"]
    assert sys.meta_path == finders


def test_a_run_imports_neither_pictures_nor_version_1_nor_tensorflow_text_and_can_still_use_them():
    program = """
import sys
import run
run.import_quietly()
import data, model
import common.compile.programs, common.training.estimator
unused = ["matplotlib", "tensorflow_text", "tensorflow.lite.python"]
unused += ["tensorflow._api.v2.compat.v1.io"]
print([name for name in unused if name in sys.modules])
import gc
print(gc.isenabled(), gc.get_freeze_count() > 100_000)  # what is imported is not looked through
import tensorflow as tf
print(tf.compat.v1.GraphDef.__name__, tf.lite.Interpreter.__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "True True", "GraphDef Interpreter"], done.stderr
