# SPDX-License-Identifier: Apache-2.0
"""Toy models on a shelf, and servers of them."""

import pytest

from tests.common.conftest import make_classifier  # noqa: F401  (a fixture)


@pytest.fixture
def serve_toys(monkeypatch):
    """A function: {name: Loaded}, settings of the server -> (URL, Shelf). All end with the test."""
    for package in ("starlette", "uvicorn", "prometheus_client"):
        pytest.importorskip(package, reason="the extra `serve` is not installed")
    from common.params.serving import serving_params
    from serving import models, server
    from serving.server import Running
    from serving.sources import Source
    from tests.reference.toy_serving import Client, Shelf, until

    started = []

    def serve(toys, waits=True, **settings):
        shelf = Shelf()
        for name, model in toys.items():
            shelf.add(name, 1, model)
        monkeypatch.setattr(models, "find_versions", shelf.find)
        monkeypatch.setattr(models, "load_version", shelf.load)
        monkeypatch.setattr(models, "WARM_UP", ())
        monkeypatch.setattr(server, "FEWEST_DRAIN_SECONDS", 0)
        given = {"port": 0, "watch_seconds": 0.05, "drain_seconds": 5, **settings}
        running = Running([Source(name, name) for name in toys], serving_params(given))
        started.append(running)
        if waits:
            until(lambda: Client(running.url)("/readyz")[0] == 200)
        return running, shelf

    yield serve
    Client.close_all()
    for running in started:
        running.stop()
