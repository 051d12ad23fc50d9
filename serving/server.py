# SPDX-License-Identifier: Apache-2.0
"""Listens, loads the models, looks for new versions, and drains at a signal.

A signal to stop: from then on the server is not ready, and new requests are told so (503); those
that have arrived are answered; then the process ends with code 0.
"""

import asyncio
import contextlib
import importlib
import ipaddress
import socket
import threading
import time
from pathlib import Path

from common.checkpoints.small_files import unreadable
from common.console import counted, log
from common.errors import RunError, UserError
from common.signals import Control
from serving.sources import Source

PACKAGES = ("prometheus_client", "starlette", "uvicorn")
NOT_IN_NAMES = set("/:@ ")  # of models: they stand in paths of requests
POLL_SECONDS = 0.05
# Clients on connections that are kept open learn in their next request that the server stops.
FEWEST_DRAIN_SECONDS = 0.5
# Longer than load balancers keep idle connections (60 s): of both, the server ends none under a
# request that is on its way.
KEEP_SECONDS = 75
CLOSE_SECONDS = 2  # for connections that are still open at the end


def sources_of(given, model_dir, engine):
    """Returns the models to serve, list of Source.

    given: list of NAME=PATH; empty: the model of model_dir, under the folder's name.
    """
    if not given:
        name = Path(model_dir).resolve().name
        return [Source("model" if set(name) & NOT_IN_NAMES else name, str(model_dir), engine)]
    sources = []
    for text in given:
        name, _, path = text.partition("=")
        if not name or not path or set(name) & NOT_IN_NAMES:
            raise UserError(
                f"--model {text!r} is not NAME=PATH, such as sentiment=model_dir/mine; a name has "
                "no `/`, `:`, `@` or blank"
            )
        sources.append(Source(name, path, engine))
    names = [source.name for source in sources]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--model names {twice} twice; give each model a name of its own")
    return sources


def check_packages():
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"the server needs the package {name}, which cannot be imported ({error}); "
                "`make setup` brings it, or: pip install 'bert-classifier[serve]'"
            ) from None


def read_token(path):
    """Returns the secret in a file, or None without a file."""
    if path is None:
        return None
    try:
        token = Path(path).read_text("utf-8").strip()
    except (OSError, ValueError):
        raise unreadable(path, "it is no text") from None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"token_file {path} holds no token: one line without blanks is wanted")
    return token


def listen(host, port):
    """Returns a listening socket. Raises UserError where the address cannot be taken."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listening = socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise UserError(
            f"{host}:{port} cannot be listened on: {error.strerror or error}; give another --port "
            "or --host"
        ) from None
    # Connections inherit it. Without it the body of an answer waits 40 ms, until the client has
    # acknowledged the head. asyncio sets it only for sockets that were made with a protocol.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def serve(sources, settings, control, on_listening=None):
    """Serves until the Control asks to stop. Returns the exit code.

    sources: list of Source. settings: ServingParams. on_listening: URL -> None, or None.
    Raises UserError, RunError: a model cannot be loaded at the start.
    """
    check_packages()
    from serving.app import App
    from serving.figures import Figures
    from serving.models import Models

    figures = Figures()
    models = Models(sources, settings, figures)
    models.check()
    token, is_local = read_token(settings.token_file), is_loopback(settings.host)
    app = App(models, settings, figures, token, shows_rows=is_local or token is not None)
    with listen(settings.host, settings.port) as listening:
        port = listening.getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{host}:{port}"
        log(f"Listening at {url}; loading {', '.join(models.names)}")
        if not is_local and token is None:
            log("Whoever reaches this address may ask; --token_file asks them for a secret")
        if on_listening is not None:
            on_listening(url)
        return asyncio.run(_serve(app, listening, control, url))


def is_loopback(host):
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


async def _serve(app, listening, control, url):
    import uvicorn

    class Server(uvicorn.Server):
        def capture_signals(self):
            """They are the Control's."""
            return contextlib.nullcontext()

    config = uvicorn.Config(
        app.asgi,
        log_config=None,
        log_level="error",  # it would print a line for whatever is no HTTP
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=KEEP_SECONDS,
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    server = Server(config)
    control.has_unsaved = True  # a signal is obeyed here, by draining
    answering = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        loading = asyncio.get_running_loop().run_in_executor(None, _load, app, url)
        await _until(control, loading)
        if loading.done():
            await loading  # raises what it raised
            await _watch(app, control)
        num_left = await _drain(app)
    finally:
        server.should_exit = True
        await answering
    await asyncio.get_running_loop().run_in_executor(None, app.models.close)
    if num_left:
        log(f"Stopped; {counted(num_left, 'request')} had no answer within the time to drain")
        return 1
    log("Stopped; every request that had arrived is answered")
    return 0


def _load(app, url):
    from serving.app import READY, STARTING

    started = time.monotonic()
    app.models.load()
    if app.state == STARTING:
        app.state = READY
    served = [served for model in app.models for served in model.served.values()]
    listed = ", ".join(f"{each.name} {each.number} ({each.version.engine})" for each in served)
    log(f"Ready after {time.monotonic() - started:.1f} s at {url}: {listed}")


async def _until(control, future):
    """Waits for a future, or a signal."""
    while not future.done() and control.stopped_by is None:
        await asyncio.wait({future}, timeout=POLL_SECONDS)


async def _watch(app, control):
    """Looks for new versions until a signal."""
    loop = asyncio.get_running_loop()
    while control.stopped_by is None:
        begun = loop.time()
        looking = loop.run_in_executor(None, app.models.refresh)
        await _until(control, looking)
        while loop.time() - begun < app.settings.watch_seconds and control.stopped_by is None:
            await asyncio.sleep(POLL_SECONDS)


async def _drain(app):
    """Waits until every request is answered. Returns how many are not when the time is over."""
    from serving.app import STOPPING

    app.state = STOPPING
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while loop.time() - begun < app.settings.drain_seconds:
        is_over = loop.time() - begun >= FEWEST_DRAIN_SECONDS
        if not app.num_requests and is_over:
            return 0
        await asyncio.sleep(POLL_SECONDS)
    return app.num_requests


class Running:
    """A server in a thread of its own. url: str, where it answers once it is ready."""

    def __init__(self, sources, settings):
        self.url, self._control, self._fault = None, Control(), None
        listening = threading.Event()

        def on_listening(url):
            self.url = url
            listening.set()

        def work():
            try:
                serve(sources, settings, self._control, on_listening)
            except (UserError, RunError, OSError) as error:
                self._fault = error
            finally:
                listening.set()

        self._thread = threading.Thread(target=work, name="server", daemon=True)
        self._thread.start()
        listening.wait()
        if self._fault is not None:
            raise self._fault

    def stop(self):
        """Answers what has arrived, and ends."""
        self._control.request_stop()
        self._thread.join()
        if self._fault is not None:
            raise self._fault

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
