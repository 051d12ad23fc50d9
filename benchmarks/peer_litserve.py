# SPDX-License-Identifier: Apache-2.0
"""Serves an ONNX export with litserve, as a peer of `serving.py`: the same network, tokenizer and
engine, in batches of 32 that wait 3 ms.

    python benchmarks/peer_litserve.py --export model_dir/mine/export/onnx --port 8600
"""

import argparse
import json
from pathlib import Path

import litserve
import numpy as np
import onnxruntime
from tokenizers import BertWordPieceTokenizer


class Sentences(litserve.LitAPI):
    """POST /predict {"inputs": a text} -> [{"label", "score"}]."""

    folder = None

    def setup(self, device):
        manifest = json.loads((self.folder / "export.json").read_text("utf-8"))
        self.labels, rows = manifest["label_names"], manifest["rows"]
        self.tokenizer = BertWordPieceTokenizer(
            str(self.folder / "vocab.txt"), lowercase=rows["do_lower_case"]
        )
        self.tokenizer.enable_truncation(rows["max_sequence_length"])
        self.tokenizer.enable_padding()
        self.session = onnxruntime.InferenceSession(self.folder / "model.onnx")

    def decode_request(self, request):
        return request["inputs"]

    def batch(self, inputs):
        return inputs

    def unbatch(self, output):
        return list(output)

    def predict(self, texts):
        rows = self.tokenizer.encode_batch(texts)
        features = {
            "input_ids": np.array([row.ids for row in rows], np.int32),
            "input_mask": 1 - np.array([row.attention_mask for row in rows], np.int32),
            "segment_ids": np.array([row.type_ids for row in rows], np.int32),
        }
        return self.session.run(["probabilities"], features)[0]

    def encode_response(self, output):
        pairs = zip(self.labels, output.tolist(), strict=True)
        scored = [{"label": label, "score": score} for label, score in pairs]
        return sorted(scored, key=lambda each: -each["score"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--export", required=True, type=Path)
    parser.add_argument("--port", type=int, default=8600)
    args = parser.parse_args()
    api = Sentences(max_batch_size=32, batch_timeout=0.003)
    api.folder = args.export  # of the object, which a worker process is given
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        port=args.port, host="127.0.0.1", generate_client_file=False, log_level="warning"
    )
