# SPDX-License-Identifier: Apache-2.0
"""BERT with the classifier head in plain NumPy, float64: what the network's tests compare with.

Written from the papers, one example and one head at a time, and shares no code with the network.
Weights go by their neutral names. Letters: T tokens, D hidden size, d head size, C classes.
"""

import math

import numpy as np

erf = np.vectorize(math.erf, otypes=[np.float64])

# Hendrycks & Gimpel 2016, section 2: x * P(X <= x), and its approximation.
ACTIVATIONS = {
    "gelu_erf": lambda x: x * 0.5 * (1 + erf(x / np.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.where(x > 0, x, 0.0),
}


class BertNumpy:
    """The network without dropout.

    Args:
        weights: dict of neutral name to array; without a table or a bias it does without.
        num_hidden_layers, num_heads, activation, layer_norm_epsilon, use_pre_normalization,
            attention_type, pooler_type: as in the params; activation is a key of ACTIVATIONS.
        has_sinusoids: bool. Add those to the embeddings.
    Call:
        features: {"input_ids", "padding_mask" (1 on real tokens), "segment_ids"}, int [B, T]; each
            row has at least one real token.
    Returns:
        dict of float64 arrays: sequence [B, T, D], pooled [B, D], logits [B, C].
    """

    def __init__(
        self,
        weights,
        num_hidden_layers,
        num_heads,
        activation,
        layer_norm_epsilon,
        use_pre_normalization=False,
        attention_type="scaled_dot_product",
        pooler_type="first",
        has_sinusoids=False,
    ):
        self.weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
        self.num_hidden_layers = num_hidden_layers
        self.num_heads = num_heads
        self.activation = ACTIVATIONS[activation]
        self.epsilon = layer_norm_epsilon
        self.use_pre_normalization = use_pre_normalization
        self.is_scaled = attention_type == "scaled_dot_product"
        self.pooler_type = pooler_type
        self.has_sinusoids = has_sinusoids

    def __call__(self, features):
        names = ("input_ids", "padding_mask", "segment_ids")
        rows = zip(*(np.asarray(features[name]) for name in names), strict=True)
        sequence = np.stack([self.run(*row) for row in rows])
        vectors = [
            pool(x[mask == 1], self.pooler_type)
            for x, mask in zip(sequence, np.asarray(features["padding_mask"]), strict=True)
        ]
        pooled = np.tanh(self.dense(np.stack(vectors), "pooler"))
        return {
            "sequence": sequence,
            "pooled": pooled,
            "logits": self.dense(pooled, "classifier"),
        }

    def run(self, input_ids, padding_mask, segment_ids):
        """One example, each argument int [T]. Returns [T, D]. Devlin et al. 2019, figure 2."""
        x = self.weights["embeddings/word_embeddings"][input_ids]
        if "embeddings/projection/kernel" in self.weights:
            x = x @ self.weights["embeddings/projection/kernel"]
        if self.has_sinusoids:
            x = x + sinusoids(*x.shape)
        if "embeddings/position_embeddings" in self.weights:
            x = x + self.weights["embeddings/position_embeddings"][: len(input_ids)]
        if "embeddings/segment_embeddings" in self.weights:
            x = x + self.weights["embeddings/segment_embeddings"][segment_ids]
        if not self.use_pre_normalization:
            x = self.norm(x, "embeddings/layer_norm")
        for i in range(self.num_hidden_layers):
            layer = f"encoder/layer_{i}"
            if self.use_pre_normalization:  # Xiong et al. 2020, figure 1 (b)
                normed = self.norm(x, f"{layer}/attention_layer_norm")
                x = x + self.attention(normed, padding_mask, f"{layer}/attention")
                normed = self.norm(x, f"{layer}/feed_forward_layer_norm")
                x = x + self.feed_forward(normed, f"{layer}/feed_forward")
            else:  # figure 1 (a)
                attended = self.attention(x, padding_mask, f"{layer}/attention")
                x = self.norm(x + attended, f"{layer}/attention_layer_norm")
                expanded = self.feed_forward(x, f"{layer}/feed_forward")
                x = self.norm(x + expanded, f"{layer}/feed_forward_layer_norm")
        return self.norm(x, "encoder/final_layer_norm") if self.use_pre_normalization else x

    def dense(self, x, name):
        return x @ self.weights[f"{name}/kernel"] + self.weights.get(f"{name}/bias", 0.0)

    def norm(self, x, name):
        """Ba et al. 2016, over the last axis."""
        mean = x.mean(axis=-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
        normed = (x - mean) / np.sqrt(variance + self.epsilon)
        return normed * self.weights[f"{name}/gamma"] + self.weights[f"{name}/beta"]

    def attention(self, x, padding_mask, name):
        """Vaswani et al. 2017, section 3.2. x: [T, D]."""
        query, key, value = (self.dense(x, f"{name}/{p}") for p in ("query", "key", "value"))
        size = x.shape[-1] // self.num_heads  # d
        heads = []
        for head in range(self.num_heads):
            columns = slice(head * size, (head + 1) * size)
            scores = query[:, columns] @ key[:, columns].T  # [T, T]
            if self.is_scaled:
                scores /= np.sqrt(size)
            scores[:, padding_mask == 0] = -np.inf  # no token attends to padding
            heads.append(softmax(scores) @ value[:, columns])  # [T, d]
        return self.dense(np.concatenate(heads, axis=-1), f"{name}/output")

    def feed_forward(self, x, name):
        """Vaswani et al. 2017, section 3.3. x: [T, D]."""
        return self.dense(self.activation(self.dense(x, f"{name}/expand")), f"{name}/project")


def pool(x, pooler_type):
    """One vector of the real tokens of a row, x: [N, D]. Returns [D]."""
    by_type = {"first": x[0], "last": x[-1], "mean": x.mean(axis=0)}
    by_type |= {"max": x.max(axis=0), "sum": x.sum(axis=0)}
    return by_type[pooler_type]


def sinusoids(num_positions, size):
    """Position vectors [P, D], D even, entry by entry.

    Vaswani et al. 2017, section 3.5, with the wavelengths of tensor2tensor: the last is 10,000.
    """
    table = np.zeros((num_positions, size))
    for position in range(num_positions):
        for i in range(size // 2):
            angle = position * 10_000 ** (-i / (size // 2 - 1))
            table[position, 2 * i] = math.sin(angle)
            table[position, 2 * i + 1] = math.cos(angle)
    return table


def softmax(scores):
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def cross_entropy(logits, labels):
    """Mean over the batch. logits: [B, C]; labels: int [B]."""
    probabilities = softmax(np.asarray(logits, np.float64))
    return -np.mean(np.log(probabilities[np.arange(len(labels)), labels]))
