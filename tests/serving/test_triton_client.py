# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's client of the Open Inference Protocol asks our server as it asks Triton."""

import numpy as np
import pytest

from tests.reference.toy_serving import ToyEngine, toy_model

httpclient = pytest.importorskip("tritonclient.http", reason="pip install 'tritonclient[http]'")


@pytest.fixture
def client(serve_toys):
    running, _ = serve_toys({"toy": toy_model(ToyEngine())})
    client = httpclient.InferenceServerClient(running.url.removeprefix("http://"))
    yield client
    client.close()


def test_what_it_learns_of_the_server_and_of_a_model(client):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("toy")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    found = client.get_model_metadata("toy", "1")
    assert (found["name"], found["versions"]) == ("toy", ["1"])
    assert found["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]


@pytest.mark.parametrize("is_binary", [True, False])
def test_it_sends_texts_and_reads_tensors(client, is_binary):
    texts = httpclient.InferInput("text", [2], "BYTES")
    texts.set_data_from_numpy(np.array(["a good day", "bad"], object), binary_data=is_binary)
    names = ("label", "logits")
    outputs = [httpclient.InferRequestedOutput(name, binary_data=is_binary) for name in names]
    answer = client.infer("toy", [texts], request_id="42", outputs=outputs)
    # [CLS] a good day [SEP]: 5 tokens, whose ids add up to 24; [CLS] bad [SEP]: 3, 12.
    assert answer.as_numpy("logits").tolist() == [[5.0, 24.0], [3.0, 12.0]]
    labels = answer.as_numpy("label").tolist()
    assert [each.decode() if is_binary else each for each in labels] == ["long", "long"]
    assert answer.get_response()["id"] == "42"


def test_it_is_told_of_a_model_that_is_not_served(client):
    texts = httpclient.InferInput("text", [1], "BYTES")
    texts.set_data_from_numpy(np.array(["bad"], object))
    exception = pytest.importorskip("tritonclient.utils").InferenceServerException
    with pytest.raises(exception, match="no model 'other' is served; served: toy"):
        client.infer("other", [texts])
