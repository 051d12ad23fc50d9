# SPDX-License-Identifier: Apache-2.0
"""`make temporal-demo`: a server, an experiment of four runs, and a worker that is killed.

    python -m experiments.temporal.demo [--model_dir DIR]

The first worker is killed as its first run trains; the run saves and ends, a second worker goes on
with it, and the experiment ends with the table that it would have had. Exit codes: those of the
experiment.
"""

import argparse
import contextlib
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from common.console import log
from common.errors import RunError, UserError
from common.platform.standard_streams import end_at_once
from experiments.child import ROOT
from experiments.temporal import check_installed
from experiments.temporal.known_names import MINILM_PACKAGE, installed

FILE = ROOT / "configs" / "experiments" / "temporal_demo.yaml"
WAIT_SECONDS = 300  # for the first steps, on a machine that does much else


@contextlib.contextmanager
def process(command, log_path, **options):
    """Runs a command while open, and ends it. log_path: of the file with what it prints, or None:
    it prints here."""
    with contextlib.nullcontext() if log_path is None else open(log_path, "ab") as stream:
        started = subprocess.Popen(command, stdout=stream, stderr=stream, **options)
    try:
        yield started
    finally:
        started.terminate()
        started.wait()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(condition, what, *processes):
    """Waits until condition() is true. Raises RunError after WAIT_SECONDS, or as a process ends."""
    until = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > until or any(each.poll() is not None for each in processes):
            raise RunError(f"{what} was waited for in vain")
        time.sleep(0.2)


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def demo(folder):
    """Returns the exit code of the experiment. folder: Path of its model_dir."""
    from experiments.temporal.connection import temporal_program

    if find_spec(MINILM_PACKAGE) is None:
        raise UserError("the demo takes a vocabulary from the package of `make setup`; call that")
    vocab = Path(installed("all-MiniLM-L6-v2")) / "vocab.txt"
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    address = f"127.0.0.1:{port}"
    server = [temporal_program(), "server", "start-dev", "--headless", "--ip", "127.0.0.1"]
    server += ["--port", str(port), "--db-filename", str(folder / "temporal.db")]
    worker = [sys.executable, "-m", "experiments.temporal.worker", "--temporal_address", address]
    client = [sys.executable, "run.py", "--mode", "experiment", "--executor", "temporal"]
    client += ["--temporal_address", address, "--params", str(FILE), "--model_dir", str(folder)]
    client += ["--override", f"*_input.vocab_file={vocab}", "--data_dir", str(folder / "data")]
    server += ["--log-level", "error"]
    with contextlib.ExitStack() as stack:
        serving = stack.enter_context(process(server, folder / "server.log"))
        wait_for(lambda: answers(port), "the server", serving)
        log(f"A server at {address}, its database in {folder}")
        with process(worker, folder / "worker.log", cwd=ROOT) as first:
            experiment = stack.enter_context(process(client, None, cwd=ROOT))
            metrics = folder / "temporal_demo-run-0-bert_tiny" / "metrics.jsonl"
            wait_for(metrics.exists, "the first step", serving, first, experiment)
            first.kill()
            log("The worker is killed; its run saves and ends. Another worker starts")
        with process(worker, folder / "worker.log", cwd=ROOT):
            return experiment.wait()


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m experiments.temporal.demo")
    parser.add_argument("--model_dir", default="model_dir/temporal_demo", metavar="DIR")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        check_installed()
        return demo(Path(args.model_dir).absolute())
    except UserError as error:
        log(str(error))
        return 2
    except RunError as error:
        log(f"The demo failed: {error}")
        return 1
    except (SystemExit, KeyboardInterrupt):  # the processes have ended
        return 130


if __name__ == "__main__":
    end_at_once(main())
