# SPDX-License-Identifier: Apache-2.0
"""Saves checkpoints in the background: training waits for the copy to the host's memory alone."""

import contextlib
import threading

import numpy as np

from common.checkpoints import store
from common.checkpoints.formats import ours


class CheckpointWriter:
    """Copies what is to be saved, and lets a thread write it; one save is under way at a time.

    The memory of the copies is kept from one save to the next: memory that is new to a process
    costs six times the copy itself.

    Args:
        model_dir: path-like.
    """

    def __init__(self, model_dir):
        self.model_dir = model_dir
        self._copies = {}
        self._reserving = None
        self._thread = None
        self._error = None
        self._lock = threading.Lock()
        self._is_writing = False
        self._followers = []

    def reserve(self, tensors):
        """Begins to take the memory that saves need, while training goes on. tensors: of `save`."""
        self._wait_for_memory()
        kinds = {name: (view.shape, view.dtype) for name, view in _views_of(tensors).items()}

        def take():
            with contextlib.suppress(MemoryError):  # the save itself meets it, and says so
                for name, kind in kinds.items():
                    if name not in self._copies:
                        self._copies[name] = np.ones(*kind)

        self._reserving = threading.Thread(target=take, name="reserve", daemon=True)
        self._reserving.start()

    def _wait_for_memory(self):
        if self._reserving is not None:
            self._reserving.join()
            self._reserving = None

    def save(self, step, weights, state, config, vocab, keep_max=0, keep=()):
        """Begins a save of what the tensors hold now, once the one before is finished.

        Args:
            weights, state: {name: NumPy array or eager tensor}.
            step, config, vocab, keep_max, keep: as in `ours.save_checkpoint`.
        Raises:
            RunError: the save before has failed, or the disk has no room for this one.
        """
        self.wait()
        self._wait_for_memory()
        views = [_views_of(part) for part in (weights, state)]
        store.check_space(self.model_dir, sum(v.nbytes for part in views for v in part.values()))
        weights, state = (
            {name: self._copy(name, view) for name, view in part.items()} for part in views
        )
        arguments = (self.model_dir, step, weights, state, config, vocab, keep_max, keep)
        self._is_writing = True
        self._thread = threading.Thread(target=self._write, args=arguments, name="save")
        self._thread.daemon = True  # a process that is told to end at once does
        self._thread.start()

    def then(self, function):
        """Calls a function once every save is whole on disk: in the thread, or at once."""
        with self._lock:
            if self._is_writing:
                self._followers.append(function)
                return
        self.wait()
        function()

    def poll(self):
        """Raises the RunError of a save that has failed; waits for none."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self):
        """Waits until the save under way is whole on disk. Raises RunError where it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _copy(self, name, view):
        copy = self._copies.get(name)
        if copy is None or (copy.shape, copy.dtype) != (view.shape, view.dtype):
            copy = self._copies[name] = np.empty(view.shape, view.dtype)
        np.copyto(copy, view)
        return copy

    def _write(self, *arguments):
        try:
            ours.save_checkpoint(*arguments)
            while (function := self._next_follower()) is not None:
                function()
        except BaseException as error:  # raised again where training can hear of it
            self._error = error
            with self._lock:
                self._followers, self._is_writing = [], False

    def _next_follower(self):
        with self._lock:
            self._is_writing = bool(self._followers)
            return self._followers.pop(0) if self._followers else None


class NoWriter:
    """In the place of a CheckpointWriter where another process saves."""

    def reserve(self, tensors):
        pass

    def save(self, step, weights, state, config, vocab, keep_max=0, keep=()):
        pass

    def then(self, function):
        pass

    def poll(self):
        pass

    def wait(self):
        pass


def _views_of(tensors):
    return {name: _view(tensor) for name, tensor in tensors.items()}


def _view(tensor):
    """A tensor as an array that shares its memory, where it is in the host's."""
    try:
        return np.asarray(memoryview(tensor))
    except (TypeError, ValueError, BufferError):  # of a dtype that only NumPy's own way knows
        return np.asarray(tensor)
