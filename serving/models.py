# SPDX-License-Identifier: Apache-2.0
"""Models, their versions, and how a new version takes the place of one without a failed request.

A new version is loaded and warmed up beside the one that answers. Requests that begin from then on
get the new one; the old one goes when the last of its requests is answered. A version that is
broken takes no other's place: the old one stays, and at the start the one before it answers.
"""

import contextlib
import threading

from common.console import log
from common.errors import RunError, UserError
from serving.batcher import Batcher
from serving.readers import make_reader
from serving.sources import (
    BrokenVersion,
    about_dangling,
    aliases_of,
    find_versions,
    load_version,
    numbers_of,
    unreadable_by,
)

WARM_UP = ((1, 8), (1, 32), (4, 16))  # rows, tokens


class NotFound(Exception):
    """A model or a version that is not served. The message names those that are."""


class Served:
    """A version of a model that answers.

    version: Version. loaded: Loaded. settings: ServingParams. on_batch: of `Batcher`.
    """

    def __init__(self, name, version, loaded, settings, on_batch):
        self.name, self.version, self.loaded = name, version, loaded
        self.reader = make_reader(loaded.settings, loaded.vocab, loaded.texts)
        self.num_users, self.is_retired = 0, False
        self._engine = loaded.engine
        self._attribution, self._making = None, threading.Lock()
        self.batcher = Batcher(
            self.run,
            settings.max_batch_tokens,
            self._engine.max_rows,
            settings.max_queue,
            on_batch,
            self._engine.num_streams,
        )

    @property
    def number(self):
        return self.version.number

    def run(self, rows):
        return self._engine.run(self.reader.network_features(rows))

    def attribution(self):
        """Returns the Attribution of our own checkpoint, made at its first use."""
        with self._making:
            if self._attribution is None:
                from common.training.attribution import Attribution

                self._attribution = Attribution(self.loaded.model, self.reader.pad)
            return self._attribution

    def warm_up(self):
        """Computes some rows, so that the first request finds everything traced and in memory."""
        for count, length in WARM_UP:
            length = min(length, self.reader.settings["max_sequence_length"])
            ids = [self.reader.cls, *[self.reader.pad] * (length - 2), self.reader.sep]
            self.run([(ids, length)] * count)


class Model:
    """A name, and the versions of it that answer: {number: Served}."""

    def __init__(self, source):
        self.source, self.served, self.labels, self.newest = source, {}, {}, None
        self.unserved = {}  # {alias: number} of versions that are not there, or broken
        self.fault = None  # why the version that is on disk does not answer


class Models:
    """All models of a server.

    sources: list of Source. settings: ServingParams. figures: Figures.
    """

    def __init__(self, sources, settings, figures):
        self._models = {source.name: Model(source) for source in sources}
        self._settings, self._figures = settings, figures
        self._lock = threading.Lock()

    def __iter__(self):
        return iter(self._models.values())

    def __getitem__(self, name):
        return self._models[name]

    @property
    def names(self):
        return list(self._models)

    @property
    def default(self):
        """The name of the first model."""
        return next(iter(self._models))

    @property
    def is_ready(self):
        return all(model.newest is not None for model in self)

    def check(self):
        """Raises UserError where a path holds no model."""
        for model in self:
            self._sound(model, lambda found: None)

    def load(self):
        """Loads every model; where its newest version is broken, that before it, and says so.
        Raises UserError."""
        for model in self:
            broken = self._sound(model, lambda found, model=model: self._update(model, found))
            faults = [self._stays(model, error) for error in broken]
            for fault in faults:
                log(fault)
            model.fault = next(iter(faults), None)  # which `refresh` meets again

    def _sound(self, model, use):
        """Calls `use` with the versions of a model, without broken ones while others are left.

        Returns the BrokenVersions. Raises UserError.
        """
        broken = {}
        while True:
            try:
                use(find_versions(model.source, broken))
                return list(broken.values())
            except BrokenVersion as error:
                broken[error.number] = error
                if not set(numbers_of(model.source)) - broken.keys():
                    raise next(iter(broken.values())) from None

    def _stays(self, model, error):
        advice = "; mend it, or delete its folder" * isinstance(error, BrokenVersion)
        return f"model {model.source.name} stays at version {model.newest}: {error}{advice}"

    def refresh(self):
        """Looks for new versions, and puts them in place. Faults are printed."""
        for model in self:
            fault = None
            try:
                self._update(model, find_versions(model.source))
            except (UserError, RunError, OSError) as error:  # or it is still being written
                fault = self._stays(model, error)
            if fault is not None and fault != model.fault:
                log(fault)
            model.fault = fault

    def _update(self, model, found):
        """Serves the versions {number: Version} of a model and no others."""
        new = {}
        try:
            for number, version in found.items():
                former = model.served.get(number)
                is_same = former is not None and (former.version.stamp, former.version.folder) == (
                    version.stamp,
                    version.folder,
                )
                new[number] = former if is_same else self._load(model.source.name, version)
        except BaseException:
            for number, served in new.items():
                if served is not model.served.get(number):
                    served.batcher.close()
            raise
        labels = {label: version.number for version in found.values() for label in version.labels}
        self._note_unserved(model, labels)
        with self._lock:
            gone = [served for served in model.served.values() if served not in new.values()]
            is_swap = bool(model.served) and any(
                served not in model.served.values() for served in new.values()
            )
            # Of NAME/ the newest; of an alias or a model_dir the only one.
            model.served, model.labels, model.newest = new, labels, max(new)
            for served in gone:
                served.is_retired = True
            idle = [served for served in gone if not served.num_users]
        for served in idle:
            served.batcher.close()
        self._figures.version.labels(model.source.name).set(model.newest)
        if is_swap:
            self._figures.swaps.labels(model.source.name).inc()
            log(f"model {model.source.name} is at version {model.newest} now")

    def _note_unserved(self, model, labels):
        """Keeps the aliases that no request can name, and tells once of those without a version."""
        found = aliases_of(model.source)
        unserved = {alias: number for alias, number in found.items() if alias not in labels}
        there = set(numbers_of(model.source)) if unserved else ()
        for alias, number in unserved.items():
            if number not in there and model.unserved.get(alias) != number:
                log(about_dangling(model.source, alias, number))
        model.unserved = unserved

    def _load(self, name, version):
        try:
            loaded = load_version(version)
            on_batch = self._figures.on_batch(name)
            served = Served(name, version, loaded, self._settings, on_batch)
            try:
                served.warm_up()
            except BaseException:
                served.batcher.close()
                raise
        except RunError:
            raise
        except (UserError, OSError) as error:
            raise BrokenVersion(name, version.number, error) from error
        except Exception as error:  # of a library, on a damaged file
            raise BrokenVersion(name, version.number, unreadable_by(version, error)) from error
        return served

    @contextlib.contextmanager
    def borrow(self, name=None, number=None, label=None):
        """Gives the Served of a model, which stays until it is given back.

        name: None is the first model. number: int; None is the version of the label, else the
        newest. Raises NotFound.
        """
        name = self.default if name is None else name
        with self._lock:
            served = self._find(name, number, label)
            served.num_users += 1
        try:
            yield served
        finally:
            with self._lock:
                served.num_users -= 1
                is_over = served.is_retired and not served.num_users
            if is_over:  # its thread has nothing left to compute, and ends at once
                served.batcher.close()

    def _find(self, name, number, label):
        model = self._models.get(name)
        if model is None:
            raise NotFound(f"no model {name!r} is served; served: {', '.join(self._models)}")
        if label is not None:
            number = model.labels.get(label)
            if number is None and label in model.unserved:
                number = model.unserved[label]
                raise NotFound(
                    f"model {name} has a label {label!r} of version {number}, which is not served"
                )
            if number is None:
                listed = ", ".join(model.labels) or "none"
                raise NotFound(f"model {name} has no label {label!r}; it has {listed}")
        number = model.newest if number is None else number
        if number not in model.served:
            listed = ", ".join(map(str, model.served)) or "none yet"
            raise NotFound(f"model {name} has no version {number} that is served; served: {listed}")
        return model.served[number]

    def close(self):
        """Ends the threads, after what they have begun."""
        for model in self:
            for served in model.served.values():
                served.batcher.close()
