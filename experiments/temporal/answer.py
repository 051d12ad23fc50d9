# SPDX-License-Identifier: Apache-2.0
"""Keeps the classifier of a model_dir loaded, and answers one line of JSON with another.

    python -m experiments.temporal.answer MODEL_DIR MAX_SEQ_LENGTH cpu|gpu

{"texts": [...]} -> {"predicted_labels": [int], "confidences": [float]}, or {"error": sentence}. It
ends with its standard input.
"""

import json
import os
import sys

from api import Classifier
from common.errors import RunError, UserError


def answer(classifier, question):
    """Returns the answer to a question, a dict."""
    probabilities = classifier.predict_proba(question["texts"])
    labels = probabilities.argmax(axis=1) if len(probabilities) else []
    return {
        "predicted_labels": [int(label) for label in labels],
        "confidences": [float(row.max()) for row in probabilities],
    }


def main(model_dir, max_seq_length, device):
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    keys = {"max_sequence_length": int(max_seq_length)}
    keys |= {"device": "/cpu:0"} if device == "cpu" else {}
    classifier = None
    for line in sys.stdin:
        try:
            classifier = classifier or Classifier.load(model_dir, **keys)
            reply = answer(classifier, json.loads(line))
        except (UserError, RunError, OSError) as error:
            reply = {"error": str(error)}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
