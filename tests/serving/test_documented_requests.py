# SPDX-License-Identifier: Apache-2.0
"""Every request that docs/serving.md tells a user to send is answered."""

from urllib.parse import urlsplit

from tests.reference.documented_commands import documented_commands
from tests.reference.toy_serving import Client, ToyEngine, toy_model

PATHS = ("/predict", "/v1/classify", "/v1/models/mine:predict", "/v2/models/mine/infer")


def test_the_documented_requests_are_answered(serve_toys, tmp_path):
    running, _ = serve_toys({"mine": toy_model(ToyEngine())})
    client = Client(running.url)
    words = [c.words for c in documented_commands(tmp_path) if c.page == "docs/serving.md"]
    requests = [rest for program, *rest in words if program == "curl"]
    for url, *rest in requests:
        assert rest[:-1] in ([], ["-d"])
        code, said = client(urlsplit(url).path, rest[-1] if rest else None)
        assert code == 200, (url, said)
    assert [urlsplit(url).path for url, *_ in requests] == [*PATHS, "/v1/models"]
