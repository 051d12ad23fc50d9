# SPDX-License-Identifier: Apache-2.0
"""Load on the server: requests a second and latencies by engine and number of clients.

    python benchmarks/serving.py --model_dir model_dir/mine --engines onnx onnx_int8 saved_model

Each request is a sentence of the embedded sample, one in ten of them five sentences long. wrk makes
the load, on the same cores (`apt-get install wrk`). `--peer` names a Python with litserve
(benchmarks/requirements-serving.txt), which serves the same ONNX file beside it. `alone` is the
engine in a loop of one process, a row at a time, without HTTP.
"""

import argparse
import csv
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SAMPLE = ROOT / "input" / "samples" / "sst2_validation.tsv"
LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local bodies = {}
for line in io.lines("%s") do bodies[#bodies + 1] = line end
local n = 0
request = function()
  n = n + 1
  return wrk.format(nil, "/predict", nil, bodies[(n * 37) %% #bodies + 1])
end
"""


def sample_texts():
    """Returns sentences, one in ten of them five sentences long."""
    with open(SAMPLE, encoding="utf-8", newline="") as file:
        texts = [row["sentence"] for row in csv.DictReader(file, delimiter="\t")]
    return [" ".join(texts[n : n + 5]) if n % 10 == 0 else text for n, text in enumerate(texts)]


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def start(command, port):
    """Starts a server and waits until it answers. Returns the process."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if process.poll() is not None:
            sys.exit(process.stderr.read().decode())
        try:
            body = json.dumps({"inputs": "a text"}).encode()
            url, kind = f"http://127.0.0.1:{port}/predict", {"Content-Type": "application/json"}
            urllib.request.urlopen(urllib.request.Request(url, body, kind), timeout=10)
            return process
        except OSError:
            time.sleep(0.2)
    process.kill()
    sys.exit(f"{command} does not answer")


def load(script, port, clients, seconds):
    """Returns requests a second, and the latencies p50 and p99 in ms, by wrk."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}", "--latency", "--timeout", "30"]
    done = subprocess.run(
        [*command, "-s", script, f"http://127.0.0.1:{port}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        sys.exit(done.stdout)
    scale = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    latencies = [
        float(value) * scale[unit]
        for value, unit in re.findall(r"(?:50|99)%\s+([\d.]+)(us|ms|s)\b", done.stdout)
    ]
    return float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)[1]), *latencies


def alone(model_dir, engine, texts, seconds):
    """Returns rows a second of an engine in this process, one at a time."""
    from serving.readers import make_reader
    from serving.sources import Source, find_versions, load_version

    ((_, version),) = find_versions(Source("m", model_dir, engine)).items()
    loaded = load_version(version)
    reader = make_reader(loaded.settings, loaded.vocab, loaded.texts)
    rows = [reader.prepare((text,)).rows for text in texts]
    for row in rows[:20]:
        loaded.engine.run(reader.network_features(row))
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        loaded.engine.run(reader.network_features(rows[count % len(rows)]))
        count += 1
    return count / (time.monotonic() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--engines", nargs="+", default=["onnx", "onnx_int8", "saved_model"])
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--peer", help="a Python with litserve")
    parser.add_argument("--alone", action="store_true", help="only the engines without HTTP")
    args = parser.parse_args()
    texts = sample_texts()
    if args.alone:
        for engine in args.engines:
            print(f"{engine:12} alone {alone(args.model_dir, engine, texts, args.seconds):7.1f}")
        return 0
    if shutil.which("wrk") is None:
        print("no wrk on this machine: apt-get install wrk", file=sys.stderr)
        return 2
    commands = {}
    for engine in args.engines:
        flags = ["--model", f"m={args.model_dir}", "--engine", engine, "--port"]
        commands[engine] = [sys.executable, "run.py", "--mode", "serve", *flags]
    if args.peer:
        export = f"{args.model_dir}/export/onnx"
        commands["litserve"] = [args.peer, "benchmarks/peer_litserve.py", "--export", export]
        commands["litserve"].append("--port")
    print("engine       clients    req/s   p50 ms   p99 ms")
    with tempfile.TemporaryDirectory() as folder:
        bodies, script = Path(folder) / "bodies", Path(folder) / "load.lua"
        bodies.write_text("".join(json.dumps({"inputs": text}) + "\n" for text in texts), "utf-8")
        script.write_text(LUA % bodies, "utf-8")
        for engine, command in commands.items():
            port = free_port()
            process = start([*command, str(port)], port)
            try:
                load(script, port, 4, 2)
                for clients in args.clients:
                    rate, p50, p99 = load(script, port, clients, args.seconds)
                    print(f"{engine:12} {clients:7} {rate:8.1f} {p50:8.1f} {p99:8.1f}", flush=True)
            finally:
                process.terminate()
                process.wait(60)
    return 0


if __name__ == "__main__":
    sys.exit(main())
