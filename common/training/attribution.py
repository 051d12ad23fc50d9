# SPDX-License-Identifier: Apache-2.0
"""Integrated gradients: how much each token of a row moved its answer.

Sundararajan et al. 2017, arXiv:1703.01365, on the word embeddings, from a row whose text is [PAD].
The shares of all tokens add up to the difference between both answers, but for the error of the sum
over `NUM_STEPS` points (the midpoint rule).
"""

from types import SimpleNamespace

import tensorflow as tf

from common.BaseModel import PREDICT

NUM_STEPS = 32


class Attribution:
    """Of a task that answers once for a row (`common/tasks/row_task.py`), with weights.

    One program for rows of any length. pad_id: int.
    """

    def __init__(self, model, pad_id):
        self._model, self._pad_id = model, pad_id
        ids = tf.TensorSpec([1, None], tf.int32)
        names = ("input_ids", "input_mask", "segment_ids")
        specs = {name: ids for name in names}, tf.TensorSpec([1, None], tf.bool)
        program = tf.function(self._shares, autograph=False)
        # Points of unknown number, as nothing of it is to be compiled by XLA: see `is_compiled`.
        points = tf.TensorSpec([None], tf.float32)
        target = tf.TensorSpec([], tf.int32)
        self._program = program.get_concrete_function(*specs, target, points)

    def __call__(self, features, is_text, target):
        """Returns the share of each token, <float32>[T], and the answers of both rows: float.

        Args:
            features: {"input_ids", "input_mask", "segment_ids": int32 [1, T]}.
            is_text: bool [1, T]. False on special tokens, which both rows have.
            target: int, the output whose probability is explained; of a regression the value.
        """
        features = {name: tf.constant(each, tf.int32) for name, each in features.items()}
        # The midpoints, and both ends, for their answers.
        points = tf.constant([*((n + 0.5) / NUM_STEPS for n in range(NUM_STEPS)), 1.0, 0.0])
        target = tf.constant(target, tf.int32)
        found = self._program(features, tf.constant(is_text), target, points)
        shares, answer, baseline = (each.numpy() for each in found)
        return shares, float(answer), float(baseline)

    def _shares(self, features, is_text, target, points):
        table = self._model.embeddings.word_embeddings
        row = tf.gather(table, features["input_ids"])  # [1, T, E]
        padding = tf.gather(table, [[self._pad_id]])  # [1, 1, E]
        baseline = tf.where(is_text[:, :, None], padding, row)
        vectors = baseline + points[:, None, None] * (row - baseline)  # [S + 2, T, E]
        repeats = [tf.size(points), 1]
        features = {name: tf.tile(each, repeats) for name, each in features.items()}
        embeddings = self._model.embeddings
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            # While this is traced the vectors stand in for the look-up in the table.
            embeddings.shared = SimpleNamespace(look_up=lambda ids: vectors)
            try:
                logits = self._model.build_model(features, PREDICT)["logits"]
            finally:
                embeddings.shared = None
            answers = self._answers(logits)[:, target]  # [S + 2]
            total = tf.reduce_sum(answers[:NUM_STEPS])
        gradients = tape.gradient(total, vectors)[:NUM_STEPS]  # [S, T, E]
        shares = tf.reduce_mean(gradients, axis=0) * (row - baseline)[0]
        return tf.reduce_sum(shares, axis=-1), answers[NUM_STEPS], answers[NUM_STEPS + 1]

    def _answers(self, logits):
        how = self._model.answer.probabilities
        if how == "softmax":
            return tf.nn.softmax(logits)
        return tf.sigmoid(logits) if how == "sigmoid" else logits
