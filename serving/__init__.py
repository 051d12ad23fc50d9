# SPDX-License-Identifier: Apache-2.0
"""The server: models over HTTP.

server.py          listens, loads, drains at a signal
app.py             from a request to an answer: paths, limits, codes
protocols/         bodies of TensorFlow Serving, of the Open Inference Protocol, and short ones
models.py          models, their versions, and how a new version takes the place of one
sources.py         what a path holds, and which versions of it
readers.py         texts to rows of ids, outputs to answers, task by task
batcher.py         rows that wait, and which of them are computed together
engines/           what computes: a checkpoint, a SavedModel, ONNX Runtime, OpenVINO
bulk.py            the same for many rows at once: `--mode predict --engine`
figures.py         what /metrics shows
try_page.py, page/ the page to try a model on; explain.py: which words moved a label
"""
