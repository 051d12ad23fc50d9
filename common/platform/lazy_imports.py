# SPDX-License-Identifier: Apache-2.0
"""Parts of large libraries that are read from disk when they are first used, if they ever are.

`import tensorflow` brings its whole API with it, with TensorFlow Lite and all of version 1, and
Keras brings pictures and with them matplotlib: a third of a run's imports, of which it uses little.
"""

import contextlib
import importlib
import importlib.util
import itertools
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _Deferred(ModuleType):
    """Stands for a module until something in it is asked for, and then hands on what it holds.

    The standard library's LazyLoader would do but for TensorFlow: its modules put another object
    into their own place while they run, which LazyLoader refuses.
    """

    def __getattr__(self, name):
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


class _Deferrer:
    """Finds the named modules as Python does, and gives a _Deferred for each, once."""

    def __init__(self, names):
        self.names = dict(names)

    def find_spec(self, name, path=None, target=None):
        if name not in self.names:
            return None
        package = self.names.pop(name)
        if package is not None:
            with contextlib.suppress(ImportError):
                importlib.import_module(package)
        found = PathFinder.find_spec(name, path, target)
        # Not told that it is a package: whoever imports a part of it makes it run.
        return found and ModuleSpec(name, self, origin=found.origin)

    def create_module(self, spec):
        return None  # an ordinary one

    def exec_module(self, module):
        module.__file__ = module.__spec__.origin  # `inspect` asks every module for it
        module.__class__ = _Deferred


@contextlib.contextmanager
def imported_lazily(names):
    """Within it, a module of these names is only noted; the first use of what it holds runs it.

    Modules that are imported already stay as they are, and names of none change nothing.

    Args:
        names: {module: package to import with it, or None}.
    """
    deferrer = _Deferrer(names)
    sys.meta_path.insert(0, deferrer)
    try:
        yield
    finally:
        sys.meta_path.remove(deferrer)


def import_alone(name):
    """Imports a module without running the code of the packages that it is in.

    They import all of their parts, of which it may need few. Whoever imports a package later runs
    it as ever, with the same module in it.

    name: str, such as "package.part.module". Returns the module.
    """
    packages = itertools.accumulate(name.split(".")[:-1], "{}.{}".format)
    absent = [package for package in packages if package not in sys.modules]
    for package in absent:
        stub = ModuleType(package)
        stub.__path__ = importlib.util.find_spec(package).submodule_search_locations
        sys.modules[package] = stub
    try:
        return importlib.import_module(name)
    finally:
        for package in absent:
            del sys.modules[package]
