# SPDX-License-Identifier: Apache-2.0
"""A server of a toy network, whose answers are known by heart, and somebody who asks it.

The logits of a row are its number of tokens and the sum of their ids.
"""

import http.client
import json
import threading
import time
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import numpy as np

from serving.engines.loaded import Loaded
from serving.sources import Version

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "day", "boom"]
SETTINGS = {
    "task": "classification",
    "max_sequence_length": 8,
    "max_position_embeddings": 8,
    "do_lower_case": True,
    "add_special_tokens": True,
    "input_mask_is_of_padding": True,
    "label_names": ["short", "long"],
}
BOOM = VOCAB.index("boom")


class ToyEngine:
    """Attributes: shapes, of each call; gate, which a call waits for."""

    max_rows, num_streams = None, 1

    def __init__(self, scale=1.0):
        self.scale, self.shapes, self.gate = scale, [], threading.Event()
        self.gate.set()

    def run(self, features):
        ids, is_padding = features["input_ids"], features["input_mask"]
        self.shapes.append(ids.shape)
        self.gate.wait(30)
        if (ids == BOOM).any():
            raise ArithmeticError("boom")
        counts = (1 - is_padding).sum(axis=1)
        sums = (ids * (1 - is_padding)).sum(axis=1)
        return {"logits": (np.stack([counts, sums], axis=1) * self.scale).astype(np.float32)}


def toy_model(engine, texts=("text",), **settings):
    """Returns Loaded."""
    return Loaded({**SETTINGS, **settings}, VOCAB, texts, engine)


class Shelf:
    """Versions of models that are served, in place of folders. add: engine or Loaded."""

    def __init__(self):
        self.versions = {}

    def add(self, name, number, model, labels=()):
        self.versions.setdefault(name, {})[number] = (model, labels)

    def find(self, source, broken=()):
        found = self.versions[source.name]
        return {
            number: Version(number, Path(source.name), "toy", labels, (id(model),))
            for number, (model, labels) in sorted(found.items())
        }

    def load(self, version):
        model, _ = self.versions[version.folder.name][version.number]
        return model


class Client:
    """Asks a server, on one connection. All are closed by `close_all`."""

    opened: ClassVar = []

    def __init__(self, url, **headers):
        address = urlsplit(url)
        self.connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
        self.headers = headers
        self.opened.append(self)

    def __call__(self, path, body=None, headers=None, method=None):
        """Returns (code, what the JSON says, or the bytes). body: str, bytes or what JSON holds."""
        if body is not None and not isinstance(body, str | bytes):
            body = json.dumps(body)
        method = method or ("GET" if body is None else "POST")
        self.connection.request(method, path, body, {**self.headers, **(headers or {})})
        response = self.connection.getresponse()
        self.answered = response
        content = response.read()
        if content and response.headers.get("Content-Type") == "application/json":
            content = json.loads(content)
        return response.status, content

    def close(self):
        self.connection.close()

    @classmethod
    def close_all(cls):
        while cls.opened:
            cls.opened.pop().close()


def until(condition):
    """Waits until a condition holds, for a minute at most."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class ToyTags:
    """Logits of tokens: "good" and "day" are of the second and the third label, others of the
    first."""

    max_rows, num_streams = None, 1

    def run(self, features):
        ids = features["input_ids"]
        label = (ids == VOCAB.index("good")) + 2 * (ids == VOCAB.index("day"))
        return {"logits": (10.0 * np.eye(3)[label]).astype(np.float32)}


class ToySpans:
    """An answer begins with "good" and ends with "day"."""

    max_rows, num_streams = None, 1

    def run(self, features):
        ids = features["input_ids"]
        words = {"start_logits": "good", "end_logits": "day"}
        return {k: 10 * (ids == VOCAB.index(v)).astype(np.float32) for k, v in words.items()}


class ToyMasks:
    """The likeliest word for each [MASK] is "good", then "bad"."""

    max_rows, num_streams = None, 1

    def run(self, features):
        shape = features["masked_lm_positions"].shape
        words = np.array([VOCAB.index(word) for word in ("good", "bad")])
        probabilities = np.array([0.75, 0.25], np.float32)
        return {
            "token_ids": np.broadcast_to(words, (*shape, 2)),
            "probabilities": np.broadcast_to(probabilities, (*shape, 2)),
        }


def toys_of_tasks():
    """Returns {task: Loaded}, of tasks that answer for words and places."""
    tags = {"label_names": ["O", "B-MOOD", "I-MOOD"], "has_entities": True}
    tags |= {"word_aggregation": "first", "window_stride": None}
    spans = {"window_stride": 2, "max_query_length": 2, "n_best_size": 3, "max_answer_length": 4}
    spans |= {"version_2_with_negative": False, "null_score_diff_threshold": 0.0}
    pair = ("text_a", "text_b")
    return {
        "tags": toy_model(ToyTags(), task="token_classification", **tags),
        "spans": toy_model(ToySpans(), pair, task="question_answering", **spans),
        "masks": toy_model(ToyMasks(), task="pretraining"),
    }
