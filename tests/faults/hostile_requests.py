# SPDX-License-Identifier: Apache-2.0
"""Thousands of requests to one server, some of them hostile, with a new version and a SIGTERM.

    python tests/faults/hostile_requests.py --model model_dir/mine/export/onnx --requests 10000

After a third of the requests a new version takes the place of the first; after two thirds the
server is stopped by SIGTERM and started again. A good request fails where its answer is not the one
that the server gave before, or where its connection ends without one; one that is told to come
again (503), or finds nobody listening, is asked again. Exit code 1: a good request failed.
"""

import argparse
import atexit
import collections
import csv
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.reference.toy_serving import Client  # noqa: E402

SAMPLE = ROOT / "input" / "samples" / "sst2_validation.tsv"
HOSTILE_SHARE, NUM_TEXTS = 0.05, 60


def start(place):
    """Starts a server of a folder of versions. Returns the process and its URL."""
    flags = ["--mode", "serve", "--model", f"films={place}", "--port", "0"]
    flags += ["--watch_seconds", "0.5", "--request_timeout", "5"]
    process = subprocess.Popen(
        [sys.executable, "run.py", *flags], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    url = re.search(r"http://[^\s;]+", next(process.stderr))[0]
    for line in process.stderr:
        if line.startswith("Ready"):
            break
    threading.Thread(target=lambda: collections.deque(process.stderr, 0), daemon=True).start()
    return process, url


def memory_of(process):
    """Returns the resident memory of a process in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def raw(url, content, waits=0.0, reads=True):
    """Sends bytes on a connection of its own; returns the code of the answer, or 0."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        for part in content:
            connection.sendall(part)
            time.sleep(waits)
        if not reads:
            return 0
        head = connection.recv(100).split(b" ")
        return int(head[1]) if len(head) > 1 else 0


def request(body, length=None):
    length = len(body) if length is None else length
    return b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length + body


def hostile(url, kind):
    """Sends a request of a kind. Returns the code, 0 where none was waited for."""
    if kind == "huge":
        return raw(url, [request(b"", 10**10)])
    if kind == "deep":
        return raw(url, [request(b"[" * 500_000)])
    if kind == "bad utf-8":
        return raw(url, [request(b'{"inputs": "\xff\xfe"}')])
    if kind == "wrong types":
        body = random.choice([{"inputs": {"a": 1}}, {"inputs": [1, None]}, [], {"inputs": [[]]}])
        return raw(url, [request(json.dumps(body).encode())])
    if kind == "slow":
        return raw(url, [request(b"", 100), *[b"x"] * 8], waits=0.05, reads=False)
    if kind == "broken":
        return raw(url, [request(b'{"inputs": "a tex', 40)], reads=False)
    if kind == "left":
        return raw(url, [request(b'{"inputs": "a text that nobody waits for"}')], reads=False)
    return raw(url, [os.urandom(200) + b"\r\n\r\n"])


KINDS = ("huge", "deep", "bad utf-8", "wrong types", "slow", "broken", "left", "noise")


class Asker(threading.Thread):
    """Asks one request after the other, and counts what it is told in its Run, under `lock`."""

    lock = threading.Lock()

    def __init__(self, run, seed):
        super().__init__(daemon=True)
        self.run_state, self.random = run, random.Random(seed)

    def run(self):
        state, client, client_url = self.run_state, None, None
        while True:
            with self.lock:
                state.number += 1
                if state.number > state.total:
                    return
            is_hostile = self.random.random() < HOSTILE_SHARE
            text = self.random.choice(state.texts)
            kind = self.random.choice(KINDS)
            while True:
                url = state.url
                try:
                    if is_hostile:
                        said = f"hostile, {kind}: {hostile(url, kind)}"
                        break
                    if client_url != url:
                        client, client_url = Client(url), url
                    code, answer = client("/predict", {"inputs": text})
                except ConnectionRefusedError:
                    client_url = None
                    self.count("asked again: nobody listened")
                    time.sleep(0.1)
                    continue
                except OSError as error:
                    if is_hostile:
                        said = f"hostile, {kind}: {type(error).__name__}"
                        break
                    if state.url != url or state.is_stopping:
                        self.count("good, connection ended while stopping")
                    said, client_url = f"FAILED: {type(error).__name__}", None
                    break
                if code == 503:
                    client_url = None
                    self.count("asked again: 503")
                    time.sleep(0.1)
                    continue
                if code != 200:
                    said = f"FAILED: {code}"
                else:
                    near = abs(answer[0]["score"] - state.expected[text]) < 1e-4
                    said = "good: 200" if near else "FAILED: another answer"
                break
            self.count(said)

    def count(self, said):
        with self.lock:
            self.run_state.counts[said] += 1


class Run:
    def __init__(self, total, texts):
        self.total, self.texts, self.number = total, texts, 0
        self.counts, self.expected = collections.Counter(), {}
        self.url, self.is_stopping, self.server = None, False, None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="an export, or a model_dir, of sentences")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    args = parser.parse_args()
    with open(SAMPLE, encoding="utf-8", newline="") as file:
        texts = [row["sentence"] for row in csv.DictReader(file, delimiter="\t")][:NUM_TEXTS]
    state = Run(args.requests, texts)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "films"
        shutil.copytree(args.model, place / "1")
        process, state.url = start(place)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        atexit.register(lambda: state.server.kill())
        state.server = process
        client = Client(state.url)
        for text in texts:
            state.expected[text] = client("/predict", {"inputs": text})[1][0]["score"]
        memory = [memory_of(process)]
        askers = [Asker(state, seed) for seed in range(args.clients)]
        began = time.monotonic()
        for asker in askers:
            asker.start()
        wait_for(state, args.requests // 3)
        memory.append(memory_of(process))
        shutil.copytree(args.model, Path(folder) / "next")
        os.rename(Path(folder) / "next", place / "2")
        wait_for(state, 2 * args.requests // 3)
        version = Client(state.url)("/v1/models/films")[1]["model_version_status"][0]["version"]
        memory.append(memory_of(process))
        state.is_stopping = True
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        process, state.url = start(place)
        state.server, state.is_stopping = process, False
        for asker in askers:
            asker.join()
        seconds = time.monotonic() - began
        memory.append(memory_of(process))
        process.terminate()
        process.wait(60)
    Client.close_all()
    for said, count in sorted(state.counts.items()):
        print(f"{count:7,}  {said}")
    print(f"{seconds:.0f} s; version {version} after the swap; exit code at SIGTERM: {code}")
    print("memory in MB: " + ", ".join(f"{each:.0f}" for each in memory))
    failed = sum(count for said, count in state.counts.items() if said.startswith("FAILED"))
    print(f"{failed} good requests failed")
    return 1 if failed or code or version != "2" else 0


def wait_for(state, number):
    while state.number < number:
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
