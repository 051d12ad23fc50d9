# SPDX-License-Identifier: Apache-2.0
"""Modules that are run at their first use, and which modules a run does not import."""

import subprocess
import sys

import pytest

from common.platform.lazy_imports import import_alone, imported_lazily


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose parts add their names to a list when they are run."""
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


def test_a_named_module_is_run_at_its_first_use_and_the_others_at_once(package):
    finders = list(sys.meta_path)
    with imported_lazily(dict.fromkeys(["lazy_example.rare", "lazy_example.absent"])):
        import lazy_example

        with pytest.raises(ImportError):
            import lazy_example.absent
    assert lazy_example.ran == ["often"]
    assert lazy_example.rare.value == 3
    assert lazy_example.ran == ["often", "rare"]
    assert sys.meta_path == finders


@pytest.fixture
def nested(tmp_path, monkeypatch):
    """A package within a package, whose code imports all of its parts."""
    inner = tmp_path / "alone_example" / "inner"
    inner.mkdir(parents=True)
    (inner.parent / "__init__.py").write_text("from alone_example.inner import *\n")
    (inner / "__init__.py").write_text("from alone_example.inner import heavy, light\n")
    (inner / "heavy.py").write_text("")
    (inner / "light.py").write_text("from alone_example.inner.base import number\n")
    (inner / "base.py").write_text("number = 3\n")
    (inner / "broken.py").write_text("import alone_example.inner.absent\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: {name for name in sys.modules if name.startswith("alone_example")}
    for name in [name for name in sys.modules if name.startswith("alone_example")]:
        del sys.modules[name]


def test_a_module_is_imported_without_the_rest_of_its_packages(nested):
    light = import_alone("alone_example.inner.light")
    assert light.number == 3
    assert nested() == {"alone_example.inner.light", "alone_example.inner.base"}
    with pytest.raises(ImportError):
        import_alone("alone_example.inner.broken")
    with pytest.raises(ImportError):
        import_alone("alone_example.inner.absent")
    assert nested() == {"alone_example.inner.light", "alone_example.inner.base"}
    import alone_example.inner

    assert alone_example.inner.light is light and "alone_example.inner.heavy" in nested()
    assert import_alone("alone_example.inner.light") is light
    assert sys.modules["alone_example.inner"] is alone_example.inner


def test_a_run_imports_neither_pictures_nor_version_1_nor_tensorflow_text_and_can_still_use_them():
    program = """
import sys
from common.platform.quiet_imports import import_quietly
import_quietly()
import data, model
import common.platform.kept_programs, common.training.trainer
unused = ["matplotlib", "tensorflow_text", "tensorflow.lite.python"]
unused += ["tensorflow._api.v2.compat.v1.io"]
print([name for name in unused if name in sys.modules])
import gc
print(gc.isenabled(), gc.get_freeze_count() > 100_000)  # garbage collection skips imports
import tensorflow as tf
print(tf.compat.v1.GraphDef.__name__, tf.lite.Interpreter.__name__)
from input.tokenizers.wordpiece import WordPieceTokenizer
tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"], do_lower=True)
print(tokenizer.tokenize(tf.constant(["a b"])).to_list())
libraries = open("/proc/self/maps").read()
print("_fast_wordpiece_tokenizer.so" in libraries, "_sentencepiece_tokenizer.so" in libraries)
import tensorflow_text
print(tensorflow_text.BertTokenizer.__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        *("[]", "True True", "GraphDef Interpreter"),
        *("[[5, 1]]", "True False", "BertTokenizer"),
    ], done.stderr
