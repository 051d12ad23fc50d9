# SPDX-License-Identifier: Apache-2.0
"""Saves checkpoints in the background: training waits only for the copy to the host's memory."""

import contextlib
import threading

import numpy as np

from common.checkpoints import store
from common.checkpoints.formats import ours


class CheckpointWriter:
    """Copies the tensors and writes the copy in a thread, one save at a time.

    The memory of the copies is reused: the first use of new memory takes six times as long as the
    copy itself. model_dir: path-like.
    """

    def __init__(self, model_dir):
        self.model_dir = model_dir
        self._copies = {}
        self._thread = None
        self._error = None
        self._lock = threading.Lock()
        self._is_writing = False
        self._followers = []

    def reserve(self, tensors):
        """Allocates the memory for saves in a thread. tensors: as of `save`."""
        self.wait()
        kinds = {name: (view.shape, view.dtype) for name, view in _views_of(tensors).items()}
        self._start(self._allocate, kinds)

    def _allocate(self, kinds):
        with contextlib.suppress(MemoryError):  # the save itself reports it
            for name, kind in kinds.items():
                if name not in self._copies:
                    self._copies[name] = np.ones(*kind)

    def save(self, step, weights, state, config, vocab, keep_max=0, keep=()):
        """Starts a save of the current values, after the previous save has finished.

        Args:
            weights, state: {name: NumPy array or eager tensor}.
            step, config, vocab, keep_max, keep: as in `ours.save_checkpoint`.
        Raises:
            RunError: the previous save failed, or the disk has no room for this one.
        """
        self.wait()
        views = [_views_of(part) for part in (weights, state)]
        store.check_space(self.model_dir, sum(v.nbytes for part in views for v in part.values()))
        weights, state = (
            {name: self._copy(name, view) for name, view in part.items()} for part in views
        )
        arguments = (self.model_dir, step, weights, state, config, vocab, keep_max, keep)
        self._is_writing = True
        self._start(self._write, *arguments)

    def _start(self, function, *arguments):
        self._thread = threading.Thread(target=function, args=arguments, name="save")
        self._thread.daemon = True  # it does not keep a process alive that is to end at once
        self._thread.start()

    def then(self, function):
        """Calls a function when every save is on disk: in the thread, or immediately."""
        with self._lock:
            if self._is_writing:
                self._followers.append(function)
                return
        self.wait()
        function()

    def poll(self):
        """Raises the RunError of a save that has failed. Does not wait."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self):
        """Waits until the current save is on disk. Raises RunError if it failed."""
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
        except BaseException as error:  # `wait` and `poll` raise it in the training thread
            self._error = error
            with self._lock:
                self._followers, self._is_writing = [], False

    def _next_follower(self):
        with self._lock:
            self._is_writing = bool(self._followers)
            return self._followers.pop(0) if self._followers else None


class NoWriter:
    """Replaces CheckpointWriter in processes that do not save."""

    def _do_nothing(self, *arguments, **keywords):
        pass

    reserve = save = then = poll = wait = _do_nothing


def _views_of(tensors):
    """Tensors as arrays, without a copy of those that are in the host's memory."""
    views = {}
    for name, tensor in tensors.items():
        try:
            views[name] = np.asarray(memoryview(tensor))
        except (TypeError, ValueError, BufferError):  # a dtype that only np.asarray converts
            views[name] = np.asarray(tensor)
    return views
