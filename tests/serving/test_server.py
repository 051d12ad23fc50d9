# SPDX-License-Identifier: Apache-2.0
"""Bodies, limits and codes, on real sockets, of a network whose answers are known by heart."""

import gc
import json
import shlex
import socket
import struct
import threading
import weakref
from urllib.parse import urlsplit

import numpy as np
import pytest

from serving.server import listen
from tests.reference.toy_serving import Client, ToyEngine, toy_model, until

# "a good day" is [CLS] a good day [SEP]: 5 tokens, 2 + 5 + 6 + 8 + 3 = 24; "bad": 3, 12.
LOGITS = {"a good day": [5.0, 24.0], "bad": [3.0, 12.0]}
IDS = {"a good day": [2, 5, 6, 8, 3], "bad": [2, 7, 3]}


@pytest.fixture
def toy(serve_toys):
    running, _ = serve_toys({"toy": toy_model(ToyEngine())})
    return Client(running.url)


def answer(text):
    probabilities = np.exp(np.array(LOGITS[text]) - max(LOGITS[text]))
    probabilities /= probabilities.sum()
    return {
        "label": "long",
        "label_names": ["short", "long"],
        "probabilities": pytest.approx(probabilities.tolist(), abs=1e-7),
        "logits": LOGITS[text],
    }


def test_tensorflow_servings_bodies(toy):
    """https://www.tensorflow.org/tfx/serving/api_rest"""
    path, texts = "/v1/models/toy:predict", list(LOGITS)
    rows = [answer(text) for text in texts]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    ids = [{"input_ids": IDS[text]} for text in texts]
    padded = {
        "input_ids": [[2, 5, 6, 8, 3], [2, 7, 3, 0, 0]],
        "input_mask": [[0] * 5, [0, 0, 0, 1, 1]],
        "segment_ids": [[0] * 5] * 2,
    }
    for given, expected in (
        ({"instances": texts}, {"predictions": rows}),
        ({"instances": [{"text": text} for text in texts]}, {"predictions": rows}),
        ({"instances": [{"b64": "YmFk"}]}, {"predictions": rows[1:]}),
        ({"signature_name": "serving_default", "instances": texts}, {"predictions": rows}),
        ({"inputs": {"text": texts}}, {"outputs": columns}),
        ({"inputs": texts}, {"outputs": columns}),
        ({"instances": list(IDS.values())}, {"predictions": rows}),
        ({"signature_name": "token_ids", "instances": ids}, {"predictions": rows}),
        ({"inputs": padded}, {"outputs": columns}),
        ({"inputs": padded["input_ids"]}, {"outputs": columns}),
    ):
        assert toy(path, given) == (200, expected), given
    assert toy("/v1/models/toy/versions/1:predict", {"instances": texts})[0] == 200
    ok = {"error_code": "OK", "error_message": ""}
    status = {"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": ok}]}
    assert toy("/v1/models/toy") == toy("/v1/models/toy/versions/1") == (200, status)
    assert toy("/v1/models/toy", method="HEAD") == (200, b"")
    code, said = toy("/v1/models/toy/metadata")
    assert code == 200 and said["model_spec"]["version"] == "1"
    signatures = said["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"]["inputs"]["text"]["dtype"] == "DT_STRING"
    assert list(signatures["token_ids"]["inputs"]) == ["input_ids", "input_mask", "segment_ids"]


def test_the_open_inference_protocol(toy):
    """https://github.com/open-inference/open-inference-protocol"""
    assert toy("/v2/health/live") == (200, {"live": True})
    assert toy("/v2/health/ready")[1]["ready"] is True
    assert toy("/v2")[1]["extensions"] == ["binary_tensor_data"]
    assert toy("/v2/models/toy/ready") == (200, {"name": "toy", "ready": True})
    (text,) = toy("/v2/models/toy/versions/1")[1]["inputs"]
    assert text == {"name": "text", "datatype": "BYTES", "shape": [-1]}
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": list(LOGITS)}
    code, said = toy("/v2/models/toy/infer", {"id": "42", "inputs": [tensor]})
    assert code == 200 and (said["id"], said["model_name"]) == ("42", "toy")
    label, names, _, logits = said["outputs"]
    assert label == {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["long"] * 2}
    assert names["shape"] == [2, 2]
    assert logits == {
        "name": "logits",
        "datatype": "FP32",
        "shape": [2, 2],
        "data": [5.0, 24.0, 3.0, 12.0],
    }
    ids = {"name": "input_ids", "shape": [1, 3], "datatype": "INT64", "data": [[2, 7, 3]]}
    asked = {"inputs": [ids], "outputs": [{"name": "logits"}]}
    assert toy("/v2/models/toy/infer", asked)[1]["outputs"][0]["data"] == [3.0, 12.0]


def test_tensors_as_bytes_behind_the_json(toy):
    texts = [text.encode() for text in LOGITS]
    content = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    size = {"binary_data_size": len(content)}
    tensor = {"name": "text", "shape": [2, 1], "datatype": "BYTES", "parameters": size}
    outputs = [{"name": "logits", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    header = {"Inference-Header-Content-Length": str(len(head))}
    code, said = toy("/v2/models/toy/infer", head + content, header)
    assert code == 200
    size = int(toy.answered.headers["Inference-Header-Content-Length"])
    (output,) = json.loads(said[:size])["outputs"]
    assert output["shape"] == [2, 2] and output["parameters"] == {"binary_data_size": 16}
    assert np.frombuffer(said[size:], "<f4").tolist() == [5.0, 24.0, 3.0, 12.0]
    for rest, length in ((content[:-1], len(head)), (content, len(head) + 1000)):
        header = {"Inference-Header-Content-Length": str(length)}
        assert toy("/v2/models/toy/infer", head + rest, header)[0] == 400


def test_the_short_bodies(toy):
    expected = answer("bad")["probabilities"].expected
    scored = [
        {"label": "long", "score": pytest.approx(expected[1], abs=1e-7)},
        {"label": "short", "score": pytest.approx(expected[0], abs=1e-7)},
    ]
    assert toy("/predict", {"inputs": "bad"}) == (200, scored)
    assert toy("/predict", {"inputs": ["bad", "bad"], "model": "toy"}) == (200, [scored] * 2)
    assert toy("/predict", {"inputs": [["bad"]]}) == (200, [scored])
    code, said = toy("/v1/classify", {"model": "toy", "input": list(LOGITS)})
    assert code == 200 and said["usage"]["prompt_tokens"] == 8
    assert [(row["index"], row["label"], row["num_classes"]) for row in said["data"]] == [
        (0, "long", 2),
        (1, "long", 2),
    ]


def tensor(name="text", shape=(0,), datatype="INT64", data=()):
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


REFUSED = (
    ("/predict", "{", 400, "no JSON"),
    ("/predict", b'{"inputs": "\xff"}', 400, "not UTF-8"),
    ("/predict", "[" * 100_000, 400, "nested too deeply"),
    ("/predict", {}, 400, "`inputs`"),
    ("/predict", {"inputs": 5}, 422, "row 0 is a number; a text is wanted"),
    ("/predict", {"inputs": ["bad", None]}, 422, "row 1 is null"),
    ("/predict", {"inputs": []}, 422, "empty list"),
    ("/predict", '{"inputs": "\\ud800"}', 422, "lone surrogate"),
    ("/predict", {"inputs": "bad", "model": "no"}, 404, "served: toy"),
    ("/predict", {"inputs": ["bad"] * 129}, 413, "129 texts; 128"),
    ("/predict", {"inputs": "boom"}, 424, "ArithmeticError"),
    ("/v1/classify", {"input": [["a", "b"]]}, 422, "a text is wanted"),
    ("/v1/models/toy:predict", {"instances": [], "inputs": []}, 400, "either"),
    ("/v1/models/toy:predict", {"instances": [[2, 10, 3]]}, 422, "wanted are 0 to 9"),
    ("/v1/models/toy:predict", {"instances": [[2, True]]}, 422, "whole numbers"),
    ("/v1/models/toy:predict", {"instances": [[2] * 9]}, 422, "at most 8"),
    ("/v1/models/toy:predict", {"instances": [{"txt": "a"}]}, 422, "takes text"),
    ("/v1/models/toy:predict", {"signature_name": "x", "instances": [1]}, 400, "token_ids"),
    ("/v1/models/toy/versions/7:predict", {"instances": ["a"]}, 404, "no version 7"),
    ("/v1/models/toy/labels/old:predict", {"instances": ["a"]}, 404, "no label 'old'"),
    ("/v1/models/other", None, 404, "no model 'other'"),
    ("/v2/models/toy/infer", {"inputs": [{"name": "text"}]}, 400, "shape"),
    ("/v2/models/toy/infer", "[]", 400, "`inputs`"),
    ("/v2/models/toy/infer", {"inputs": [tensor(datatype=["BYTES"])]}, 422, "none of BYTES"),
    ("/v2/models/toy/infer", {"inputs": [tensor("input_ids", [0, 0])]}, 422, "have no rows"),
    ("/v2/models/toy/infer", {"inputs": [tensor(), tensor()]}, 400, "twice"),
    ("/page/explain", {"inputs": "a " * 10_001}, 422, "20,000 characters"),
    ("/nothing", None, 404, "nothing here"),
    ("/predict", None, 405, "/predict takes POST, not GET: curl http://"),
    ("/v2/models/toy", {}, 405, "/v2/models/toy takes GET, HEAD, not POST; docs/serving.md"),
    ("/v1/models/toy", {}, 405, "/v1/models/toy takes GET, HEAD, not POST"),
)  # path, body, code, what the sentence says


def test_what_is_refused_and_why(toy):
    for path, body, code, told in REFUSED:
        found, said = toy(path, body)
        assert (found, told in said["error"]) == (code, True), (path, said)
        assert toy("/predict", {"inputs": "bad"})[0] == 200  # and goes on


def test_whoever_takes_another_method_is_given_a_request_that_works(toy):
    paths = ("/predict", "/page/explain", "/v1/classify", "/v1/models/toy:predict")
    for path in (*paths, "/v2/models/toy/infer", "/v2/models/toy/versions/1/infer"):
        code, said = toy(f"{path}?x=1")
        assert code == 405 and toy.answered.headers["Allow"] == "POST"
        program, url, flag, body = shlex.split(said["error"].partition(": ")[2])
        assert (program, flag) == ("curl", "-d")
        assert toy(urlsplit(url).path, body)[0] == 200, path


def test_all_models_are_listed_with_their_versions_and_aliases(serve_toys):
    running, shelf = serve_toys({"toy": toy_model(ToyEngine()), "other": toy_model(ToyEngine())})
    shelf.add("toy", 3, toy_model(ToyEngine()), labels=("champion",))
    client = Client(running.url)
    until(lambda: client("/v2/models/toy")[1]["versions"] == ["1", "3"])
    code, said = client("/v1/models")
    toy, other = said["data"]
    assert code == 200 and said["object"] == "list"
    of_both = {"object": "model", "task": "classification"}
    assert toy == of_both | {
        "id": "toy",
        "version": "3",
        "versions": ["1", "3"],
        "aliases": {"champion": "3"},
    }
    assert other == of_both | {"id": "other", "version": "1", "versions": ["1"], "aliases": {}}


def answer_to_begun(running, content):
    """What the server says to a request of which no more comes, until it ends the connection."""
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\n" + content)
        with connection.makefile("rb") as said:
            return said.read()


def test_the_body_of_an_answer_does_not_wait_until_the_client_has_its_head():
    with (
        listen("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_body_that_is_too_large_is_not_read(serve_toys):
    running, _ = serve_toys({"toy": toy_model(ToyEngine())}, max_body_bytes=1000)
    said = answer_to_begun(running, b"Content-Length: 1001\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 413 ") and b"1000 bytes" in said
    parts = (b"258\r\n" + b"x" * 600 + b"\r\n") * 2  # without a length: in parts, 600 is 0x258
    said = answer_to_begun(running, b"Transfer-Encoding: chunked\r\n\r\n" + parts)
    assert said.startswith(b"HTTP/1.1 413 ")


def test_a_slow_body_and_a_slow_network_come_to_an_end(serve_toys):
    engine = ToyEngine()
    running, _ = serve_toys({"toy": toy_model(engine)}, request_timeout=1)
    said = answer_to_begun(running, b"Content-Length: 100\r\n\r\n{")
    assert said.startswith(b"HTTP/1.1 408 ")
    engine.gate.clear()
    code, said = Client(running.url)("/predict", {"inputs": "bad"})
    engine.gate.set()
    assert code == 504 and "1 seconds" in said["error"]


def figure(client, name):
    """What /metrics says: float."""
    lines = client("/metrics")[1].decode().splitlines()
    (line,) = (line for line in lines if line.startswith((f"{name}{{", f"{name} ")))
    return float(line.split()[-1])


def test_a_full_queue_says_when_to_come_again_and_who_has_left_is_forgotten(serve_toys):
    engine = ToyEngine()
    running, _ = serve_toys({"toy": toy_model(engine)}, max_queue=4)
    engine.gate.clear()
    first, gone, full, last = (Client(running.url) for _ in range(4))
    body = json.dumps({"inputs": ["bad"] * 4})
    first.connection.request("POST", "/predict", json.dumps({"inputs": "a"}))
    until(lambda: engine.shapes)  # it is at work
    gone.connection.request("POST", "/predict", body)
    until(lambda: figure(full, "serving_waiting_rows") == 4)
    assert full("/predict", body)[0] == 429
    assert full.answered.headers["Retry-After"] == "1"
    gone.close()
    until(lambda: figure(full, "serving_requests_in_flight") == 1)  # the first
    last.connection.request("POST", "/predict", json.dumps({"inputs": ["bad"] * 3}))
    until(lambda: figure(full, "serving_waiting_rows") == 3)  # it was let in
    engine.gate.set()
    assert first.connection.getresponse().status == 200
    assert last.connection.getresponse().status == 200
    assert engine.shapes == [(1, 3), (3, 3)]  # not the four of who has left


def test_bad_texts_among_good_ones_of_others_fail_none_of_these(serve_toys):
    engine = ToyEngine()
    running, _ = serve_toys({"toy": toy_model(engine)})
    engine.gate.clear()
    answers = {}

    def ask(number):
        text = "boom" if number % 4 == 0 else "bad"
        answers[number] = text, Client(running.url)("/predict", {"inputs": text})[0]

    before = len(engine.shapes)
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    threads[0].start()
    until(lambda: len(engine.shapes) > before)  # it is at work, alone
    for thread in threads[1:]:
        thread.start()
    client = Client(running.url)
    until(lambda: figure(client, "serving_waiting_rows") == 15)
    engine.gate.set()
    for thread in threads:
        thread.join()
    assert {answers[n] for n in range(16)} == {("bad", 200), ("boom", 424)}
    assert (15, 3) in engine.shapes  # they were computed together


def test_a_secret_is_asked_for(serve_toys, tmp_path):
    (tmp_path / "token").write_text("s3cret\n")
    running, _ = serve_toys(
        {"toy": toy_model(ToyEngine())}, token_file=str(tmp_path / "token"), waits=True
    )
    for path, body in (
        ("/predict", {"inputs": "bad"}),
        ("/metrics", None),
        ("/v1/models/toy", None),
    ):
        assert Client(running.url)(path, body)[0] == 401
        assert Client(running.url, Authorization="Bearer no")(path, body)[0] == 401
        assert Client(running.url, Authorization="Basic s3cret")(path, body)[0] == 401
        assert Client(running.url, Authorization="Bearer s3cret")(path, body)[0] == 200
        assert Client(running.url, Authorization="bearer s3cret")(path, body)[0] == 200
    assert Client(running.url)("/healthz")[0] == 200


def test_a_new_version_takes_the_place_of_one_without_a_failed_request(serve_toys, capfd):
    engine = ToyEngine()
    running, shelf = serve_toys({"toy": toy_model(engine)})
    is_kept = weakref.ref(engine)
    del engine
    codes, scales, is_over = [], set(), threading.Event()

    def ask():
        client = Client(running.url)
        while not is_over.is_set():
            code, said = client("/v1/models/toy:predict", {"instances": ["bad"]})
            codes.append(code)
            scales.add(said["predictions"][0]["logits"][0] / 3)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    client = Client(running.url)
    until(lambda: 1.0 in scales)
    shelf.versions["toy"] = {}
    shelf.add("toy", 2, toy_model(ToyEngine(scale=2.0)), labels=("champion",))
    until(lambda: client("/v1/models/toy")[1]["model_version_status"][0]["version"] == "2")
    assert client("/v1/models/toy/labels/champion:predict", {"instances": ["bad"]})[0] == 200

    until(lambda: 2.0 in scales)
    is_over.set()
    for thread in threads:
        thread.join()
    assert set(codes) == {200} and scales == {1.0, 2.0}
    assert client("/v1/models/toy/versions/1")[0] == 404
    said = []
    until(lambda: said.append(capfd.readouterr().err) or "toy is at version 2 now" in "".join(said))
    gc.disable()
    try:  # its memory is freed without the garbage collector
        until(lambda: is_kept() is None)
    finally:
        gc.enable()


def test_while_it_loads_and_when_it_stops_it_says_so(serve_toys, monkeypatch):
    from serving import models
    from serving.server import Running

    is_loaded = threading.Event()
    engine = ToyEngine()
    make = models.make_reader

    def slow_make(*arguments):
        is_loaded.wait(60)
        return make(*arguments)

    monkeypatch.setattr(models, "make_reader", slow_make)
    running, _ = serve_toys({"toy": toy_model(engine)}, waits=False, drain_seconds=60)
    client = Client(running.url)
    assert client("/readyz") == (503, {"ready": False, "state": "starting"})
    assert client("/healthz")[0] == 200
    code, _ = client("/predict", {"inputs": "bad"})
    assert (code, client.answered.headers["Retry-After"]) == (503, "1")
    is_loaded.set()
    until(lambda: client("/readyz")[0] == 200)
    engine.gate.clear()
    answers = []
    asking = threading.Thread(
        target=lambda: answers.append(Client(running.url)("/predict", {"inputs": "bad"})[0])
    )
    asking.start()
    until(lambda: engine.shapes)
    stopping = threading.Thread(target=running.stop)
    stopping.start()
    until(lambda: client("/readyz")[0] == 503)
    assert client("/predict", {"inputs": "bad"})[0] == 503
    assert client.answered.headers["Connection"] == "close"
    engine.gate.set()
    stopping.join(60)
    asking.join(60)
    assert answers == [200]
    assert isinstance(running, Running)


def test_figures_and_no_texts(serve_toys, capfd):
    running, _ = serve_toys({"toy": toy_model(ToyEngine())})
    client = Client(running.url)
    client("/predict", {"inputs": "a good day"})
    client("/predict", {"inputs": "boom"})
    client("/predict", '{"inputs": "a secret')
    lines = client("/metrics")[1].decode().splitlines()
    assert 'serving_requests_total{code="200",model="toy",protocol="predict"} 1.0' in lines
    assert 'serving_requests_total{code="424",model="toy",protocol="predict"} 1.0' in lines
    assert 'serving_tokens_total{model="toy"} 8.0' in lines  # 5, and 3 of the row that fails
    assert 'serving_model_version{model="toy"} 1.0' in lines
    assert not any("not served" in line for line in lines)
    said = capfd.readouterr()
    assert not {"good", "boom", "secret"} & set((said.out + said.err).split())


PROTOCOLS = ("predict", "classify", "tf_serving", "open_inference")


def test_figures_count_a_request_under_its_own_model(serve_toys):
    running, _ = serve_toys({"toy": toy_model(ToyEngine()), "other": toy_model(ToyEngine())})
    client = Client(running.url)
    for name in ("no", "nor", "other"):
        client("/v1/classify", {"input": [], "model": name})
        client("/predict", {"inputs": [], "model": name})
        client(f"/v1/models/{name}")
        client(f"/v2/models/{name}")
    lines = client("/metrics")[1].decode().splitlines()
    counts = {line for line in lines if line.startswith("serving_requests_total{")}
    expected = {
        *((protocol, "404", "not served", 2) for protocol in PROTOCOLS),
        *((protocol, "422", "other", 1) for protocol in ("predict", "classify")),
        *((protocol, "200", "other", 1) for protocol in ("tf_serving", "open_inference")),
    }
    assert counts == {
        f'serving_requests_total{{code="{code}",model="{model}",protocol="{protocol}"}} {count}.0'
        for protocol, code, model, count in expected
    }


def test_a_fault_of_the_program_is_told_without_the_text(serve_toys, monkeypatch, capfd):
    from serving.protocols import short

    def read(body, reader):
        raise TypeError(body["inputs"])

    monkeypatch.setattr(short, "read_predict", read)
    running, _ = serve_toys({"toy": toy_model(ToyEngine())})
    code, said = Client(running.url)("/predict", {"inputs": "a secret"})
    assert (code, said) == (500, {"error": "the server failed: TypeError"})
    told = capfd.readouterr().err
    assert "A request failed: TypeError at test_server.py:" in told and "secret" not in told
