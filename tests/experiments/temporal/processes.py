# SPDX-License-Identifier: Apache-2.0
"""A Temporal server, and workers whose runs count, as processes that tests start and kill.

python -m tests.experiments.temporal.processes ADDRESS STORAGE RUNS_DIR SLOTS PAUSE
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from experiments.temporal.connection import connect, temporal_program
from experiments.temporal.worker import working
from tests.experiments.counting import counting

ROOT = Path(__file__).resolve().parents[3]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """The real server. folder: Path, which holds its database."""

    def __init__(self, folder):
        self.port, self.folder = free_port(), folder
        self.address = f"127.0.0.1:{self.port}"
        self.start()

    def start(self):
        command = [temporal_program(), "server", "start-dev", "--headless", "--ip", "127.0.0.1"]
        command += ["--port", str(self.port), "--db-filename", str(self.folder / "temporal.db")]
        log = open(self.folder / "server.log", "a")  # noqa: SIM115
        with log:
            self.process = subprocess.Popen(
                [*command, "--log-level", "error"], stdout=log, stderr=subprocess.STDOUT
            )
        until = time.monotonic() + 60
        while True:
            try:
                return asyncio.run(connect(self.address))
            except ValueError:
                assert time.monotonic() < until and self.process.poll() is None
                time.sleep(0.2)

    def kill(self):
        self.process.kill()
        self.process.wait()


class Worker:
    """A worker of a Server whose runs count. pause: seconds of a step, or "fails"."""

    def __init__(self, server, runs_dir, storage="here", slots=2, pause="0.05"):
        command = [sys.executable, "-m", __name__, server.address, storage, str(runs_dir)]
        self.process = subprocess.Popen([*command, str(slots), pause], cwd=ROOT)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        return self.process.wait(timeout=60)


async def work(address, storage, runs_dir, slots, pause):
    client = await connect(address)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    options = {"make_command": counting(pause)}
    async with working(client, int(slots), storage, runs_dir, {}, **options):
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:]))
    os._exit(0)
