# SPDX-License-Identifier: Apache-2.0
"""Imports that read less from disk: modules that are run at their first use, or without packages.

`import tensorflow` imports its whole API, with TensorFlow Lite and all of version 1, and Keras
imports its visualization and with it matplotlib: a third of a run's imports, of which it uses
little.
"""

import contextlib
import importlib
import importlib.util
import itertools
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _Deferred(ModuleType):
    """Stands for a module until one of its attributes is used, then runs it and passes them on.

    The standard library's LazyLoader refuses modules that replace themselves in sys.modules while
    they run, as TensorFlow's do.
    """

    def __getattr__(self, name):
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


class _Deferrer:
    """A finder of the named modules that makes a _Deferred of each, once."""

    def __init__(self, names):
        self.names = dict(names)

    def find_spec(self, name, path=None, target=None):
        if name not in self.names:
            return None
        package = self.names.pop(name)
        if package is not None:
            with contextlib.suppress(ImportError):
                importlib.import_module(package)
        spec = PathFinder.find_spec(name, path, target)
        # Not marked as a package, so that an import of one of its parts runs it.
        return spec and ModuleSpec(name, self, origin=spec.origin)

    def create_module(self, spec):
        return None  # the default

    def exec_module(self, module):
        module.__file__ = module.__spec__.origin  # `inspect` reads it of every module
        module.__class__ = _Deferred


@contextlib.contextmanager
def imported_lazily(names):
    """Defers modules that are imported within it: the first use of an attribute runs them.

    Modules that are imported already stay as they are. Names without a module change nothing.
    names: {module: package to import with it, or None}.
    """
    deferrer = _Deferrer(names)
    sys.meta_path.insert(0, deferrer)
    try:
        yield
    finally:
        sys.meta_path.remove(deferrer)


def import_alone(name):
    """Imports a module without running the packages that contain it.

    These would import all of their parts. A later import of such a package runs it as usual, and
    finds the same module in it.

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
