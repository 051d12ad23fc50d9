# SPDX-License-Identifier: Apache-2.0
"""The network of a source export in Keras, of any backend: see `geometry.py`."""

import functools

import keras
import numpy as np
from keras import ops
from safetensors.numpy import load_file

from common.export.templates.geometry import HERE, Geometry

MASKED_SCORE = -1e9  # of what no token attends to: the softmax of it is 0


def gelu_erf(x):
    return ops.gelu(x, approximate=False)


def gelu_tanh(x):
    return ops.gelu(x, approximate=True)


def linear(x):
    return x


ACTIVATIONS = {
    "gelu_erf": gelu_erf,
    "gelu_tanh": gelu_tanh,
    "relu": ops.relu,
    "silu": ops.silu,
    "tanh": ops.tanh,
    "linear": linear,
}


def sinusoids(num_positions, size):
    """Returns sines and cosines of every position at several wavelengths: <float32>[P, size].

    Vaswani et al. 2017, section 3.5, with the wavelengths of tensor2tensor.
    """
    n = size // 2
    timescales = 10000.0 ** (np.arange(n) / max(n - 1, 1))
    angles = np.arange(num_positions)[:, None] / timescales  # [P, n]
    table = np.zeros((num_positions, size))
    table[:, 0 : 2 * n : 2], table[:, 1 : 2 * n : 2] = np.sin(angles), np.cos(angles)
    return table.astype("float32")


class Embeddings(keras.layers.Layer):
    """What is known of each token by itself (Devlin et al. 2019, section 3): [B, T, D]."""

    def __init__(self, geometry, **kwargs):
        super().__init__(**kwargs)
        self.geometry = geometry
        width = geometry.embedding_size if geometry.is_factorized else geometry.hidden_size
        self.word_embeddings = keras.layers.Embedding(
            geometry.vocab_size, width, name="word_embeddings"
        )
        if geometry.is_factorized and not geometry.projects_sum:
            width = geometry.hidden_size
        if geometry.position_type == "learned":
            self.position_embeddings = keras.layers.Embedding(
                geometry.max_position_embeddings, width, name="position_embeddings"
            )
        elif geometry.position_type == "fixed":
            self.positions = sinusoids(geometry.max_position_embeddings, width)
        if geometry.num_segments:
            self.segment_embeddings = keras.layers.Embedding(
                geometry.num_segments, width, name="segment_embeddings"
            )
        if geometry.normalizes_embeddings:
            self.layer_norm = keras.layers.LayerNormalization(
                epsilon=geometry.layer_norm_epsilon,
                center=geometry.use_norm_bias,
                name="layer_norm",
            )
        self.dropout = keras.layers.Dropout(geometry.dropout_rate)
        if geometry.is_factorized:
            self.projection = keras.layers.Dense(
                geometry.hidden_size, use_bias=geometry.projects_sum, name="projection"
            )

    def call(self, features):
        input_ids = features["input_ids"]  # [B, T]
        x = self.word_embeddings(input_ids)
        if self.geometry.is_factorized and not self.geometry.projects_sum:
            x = self.projection(x)  # [B, T, D]
        if self.geometry.position_type == "learned":
            positions = ops.arange(ops.shape(input_ids)[1])  # [T], the same in every row
            if self.geometry.first_position:
                positions = positions + self.geometry.first_position
            x = x + self.position_embeddings(positions)
        elif self.geometry.position_type == "fixed":
            x = x + ops.cast(self.positions, x.dtype)[: ops.shape(input_ids)[1]]
        if self.geometry.num_segments == 2:
            x = x + self.segment_embeddings(features["segment_ids"])
        elif self.geometry.num_segments == 1:
            x = x + self.segment_embeddings(ops.zeros_like(input_ids))
        if self.geometry.normalizes_embeddings:
            x = self.layer_norm(x)
        x = self.dropout(x)
        if self.geometry.is_factorized and self.geometry.projects_sum:
            x = self.projection(x)  # [B, T, D]
        return x


class Attention(keras.layers.Layer):
    """Dot-product attention in H heads (Vaswani et al. 2017, section 3.2): [B, T, D]."""

    def __init__(self, geometry, **kwargs):
        super().__init__(**kwargs)
        self.geometry = geometry
        self.query = keras.layers.Dense(
            geometry.hidden_size, use_bias=geometry.use_projection_bias_in_attention, name="query"
        )
        self.key = keras.layers.Dense(
            geometry.hidden_size, use_bias=geometry.use_projection_bias_in_attention, name="key"
        )
        self.value = keras.layers.Dense(
            geometry.hidden_size, use_bias=geometry.use_projection_bias_in_attention, name="value"
        )
        self.dropout = keras.layers.Dropout(geometry.attention_dropout_rate)
        self.project = keras.layers.Dense(
            geometry.hidden_size, use_bias=geometry.use_ffn_bias_in_attention, name="output"
        )

    def heads(self, x):
        """[B, T, D] -> [B, H, T, d]."""
        shape = -1, ops.shape(x)[1], self.geometry.num_heads, self.geometry.head_size
        return ops.transpose(ops.reshape(x, shape), (0, 2, 1, 3))

    def scores(self, query, key):
        """Returns how well each token's key fits each token's query: [B, H, T, T]."""
        if self.geometry.attention_type == "scaled_dot_product":
            query = query / self.geometry.head_size**0.5
        return ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))

    def call(self, x, padding_scores):
        query, key, value = (self.heads(dense(x)) for dense in (self.query, self.key, self.value))
        weights = ops.softmax(self.scores(query, key) + padding_scores)  # [B, H, T, T]
        context = ops.matmul(self.dropout(weights), value)  # [B, H, T, d]
        context = ops.reshape(ops.transpose(context, (0, 2, 1, 3)), ops.shape(x))
        return self.project(context)


@functools.cache
def rotary_angles(geometry, theta):
    """Returns cosine and sine of what each pair of a head is turned by: <float32>[P, d / 2] each.

    Su et al. 2021, section 3.2.2: pair i at place p is turned by p / theta^(2i / d).
    """
    frequencies = theta ** (-np.arange(0, geometry.head_size, 2) / geometry.head_size)
    angles = np.outer(np.arange(geometry.max_position_embeddings), frequencies)
    return np.cos(angles).astype("float32"), np.sin(angles).astype("float32")


def rotate(x, angles):
    """Turns each pair (i, i + d / 2) of x, [B, H, T, d]. angles: of `rotary_angles`."""
    cos, sin = (ops.cast(each, x.dtype)[: ops.shape(x)[2]] for each in angles)  # [T, d / 2]
    first, second = ops.split(x, 2, axis=-1)
    return ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class RotaryAttention(Attention):
    """Attention that knows how far tokens are apart; most layers attend to nearby ones alone."""

    def __init__(self, geometry, number, **kwargs):
        super().__init__(geometry, **kwargs)
        self.is_global = number % geometry.global_attention_every == 0
        theta = geometry.global_rope_theta if self.is_global else geometry.local_rope_theta
        self.angles = rotary_angles(geometry, theta)

    def scores(self, query, key):
        scores = super().scores(rotate(query, self.angles), rotate(key, self.angles))
        if self.is_global:
            return scores
        places = ops.arange(ops.shape(query)[2])  # [T]
        distances = ops.abs(places[:, None] - places[None, :])
        return ops.where(distances <= self.geometry.local_attention // 2, scores, MASKED_SCORE)


class FeedForward(keras.layers.Layer):
    """Two dense layers, at each token by itself (Vaswani et al. 2017, section 3.3): [B, T, D]."""

    def __init__(self, geometry, **kwargs):
        super().__init__(**kwargs)
        self.geometry = geometry
        self.expand = keras.layers.Dense(
            geometry.filter_size, use_bias=geometry.use_ffn_bias, name="expand"
        )
        if geometry.is_gated:
            self.gate = keras.layers.Dense(
                geometry.filter_size, use_bias=geometry.use_ffn_bias, name="gate"
            )
        self.project = keras.layers.Dense(
            geometry.hidden_size, use_bias=geometry.use_ffn_bias, name="project"
        )

    def call(self, x):
        expanded = ACTIVATIONS[self.geometry.encoder_nonlinearity](self.expand(x))  # [B, T, F]
        if self.geometry.is_gated:
            expanded = expanded * self.gate(x)  # Shazeer 2020
        return self.project(expanded)


class EncoderLayer(keras.layers.Layer):
    """Attention and feed-forward, each with dropout, residual and layer norm: [B, T, D]."""

    def __init__(self, geometry, number):
        super().__init__(name=f"layer_{number}")
        self.geometry = geometry
        if geometry.position_type == "rotary":
            self.attention = RotaryAttention(geometry, number, name="attention")
        else:
            self.attention = Attention(geometry, name="attention")
        self.feed_forward = FeedForward(geometry, name="feed_forward")
        self.dropout = keras.layers.Dropout(geometry.dropout_rate)
        if geometry.use_pre_normalization and geometry.normalizes_embeddings and number == 0:
            self.attention_layer_norm = keras.layers.Identity()  # that of the embeddings does it
        else:
            self.attention_layer_norm = keras.layers.LayerNormalization(
                epsilon=geometry.layer_norm_epsilon,
                center=geometry.use_norm_bias,
                name="attention_layer_norm",
            )
        self.feed_forward_layer_norm = keras.layers.LayerNormalization(
            epsilon=geometry.layer_norm_epsilon,
            center=geometry.use_norm_bias,
            name="feed_forward_layer_norm",
        )

    def call(self, x, padding_scores):
        if self.geometry.use_pre_normalization:
            attended = self.attention(self.attention_layer_norm(x), padding_scores)
            x = x + self.dropout(attended)
            return x + self.dropout(self.feed_forward(self.feed_forward_layer_norm(x)))
        else:
            attended = self.attention(x, padding_scores)
            x = self.attention_layer_norm(x + self.dropout(attended))
            return self.feed_forward_layer_norm(x + self.dropout(self.feed_forward(x)))


class Encoder(keras.layers.Layer):
    """The encoder layers, one after the other: [B, T, D]."""

    def __init__(self, geometry, **kwargs):
        super().__init__(**kwargs)
        self.geometry = geometry
        if geometry.shares_layers:
            self.layers = [EncoderLayer(geometry, 0)] * geometry.num_hidden_layers  # one layer
        else:
            self.layers = [EncoderLayer(geometry, n) for n in range(geometry.num_hidden_layers)]
        if geometry.use_pre_normalization:
            self.final_layer_norm = keras.layers.LayerNormalization(
                epsilon=geometry.layer_norm_epsilon,
                center=geometry.use_norm_bias,
                name="final_layer_norm",
            )

    def call(self, x, padding_scores):
        for layer in self.layers:
            x = layer(x, padding_scores)
        if self.geometry.use_pre_normalization:
            x = self.final_layer_norm(x)
        return x


def last_token(x, is_token):
    places = ops.cast(ops.arange(ops.shape(x)[1]), x.dtype)[:, None]  # [T, 1]
    is_last = ops.equal(places, ops.max(places * is_token, axis=1, keepdims=True))  # [B, T, 1]
    return ops.sum(x * ops.cast(is_last, x.dtype), axis=1)


def mean_of_tokens(x, is_token):
    return ops.sum(x * is_token, axis=1) / ops.sum(is_token, axis=1)


def sum_of_tokens(x, is_token):
    return ops.sum(x * is_token, axis=1)


def maximum_of_tokens(x, is_token):
    return ops.max(ops.where(is_token > 0, x, -float("inf")), axis=1)


# One vector a row, [B, D], of x [B, T, D] and is_token [B, T, 1], 0 on padding.
POOLERS = {
    "last": last_token,
    "mean": mean_of_tokens,
    "sum": sum_of_tokens,
    "max": maximum_of_tokens,
}


class MaskedWordHead(keras.layers.Layer):
    """A logit of every word of the vocabulary for each token: [B, T, V].

    Devlin et al. 2019, section 3.1, task 1.
    """

    def __init__(self, geometry, **kwargs):
        super().__init__(**kwargs)
        self.geometry = geometry
        width = geometry.embedding_size if geometry.is_factorized else geometry.hidden_size
        if geometry.has_mlm_projection:
            self.projection = keras.layers.Dense(width, use_bias=False, name="projection")
        self.transform = keras.layers.Dense(
            width, use_bias=geometry.use_ffn_bias_in_mlm, name="transform"
        )
        self.layer_norm = keras.layers.LayerNormalization(
            epsilon=geometry.layer_norm_epsilon, center=geometry.use_norm_bias, name="layer_norm"
        )

    def build(self, x_shape):
        super().build(x_shape)
        if not self.geometry.share_embedding_weights:
            shape = self.geometry.vocab_size, self.transform.units
            self.table = self.add_weight(shape, "glorot_uniform", name="output_embeddings")
        if self.geometry.use_output_bias_in_mlm:
            shape = (self.geometry.vocab_size,)
            self.bias = self.add_weight(shape, "zeros", name="output_bias")

    def call(self, x, table):
        if not self.geometry.share_embedding_weights:
            table = self.table
        if self.geometry.has_mlm_projection:
            x = self.projection(x)
        x = self.layer_norm(ACTIVATIONS[self.geometry.mlm_activation](self.transform(x)))
        logits = ops.matmul(x, ops.transpose(table))
        return logits + self.bias if self.geometry.use_output_bias_in_mlm else logits


class Network(keras.Model):
    """Embeddings, encoder and head.

    Call: {"input_ids", "padding_mask" (1 on tokens, 0 on padding)} and, where there are segments,
    "segment_ids": <int32>[B, T] each, as `encode` returns them.
    """

    def __init__(self, geometry):
        super().__init__(name="network")
        self.geometry = geometry
        self.embeddings = Embeddings(geometry, name="embeddings")
        self.encoder = Encoder(geometry, name="encoder")
        if geometry.has_pooler:
            self.pooler = keras.layers.Dense(
                geometry.hidden_size, use_bias=geometry.use_pooler_bias, name="pooler"
            )
        if geometry.has_normalized_head:
            self.pooler_layer_norm = keras.layers.LayerNormalization(
                epsilon=geometry.layer_norm_epsilon, center=False, name="pooler_layer_norm"
            )
        if geometry.reads == "masks":
            self.mlm = MaskedWordHead(geometry, name="mlm")
            if geometry.has_next_sentence:
                self.nsp = keras.layers.Dense(2, use_bias=geometry.use_pooler_bias, name="nsp")
        elif geometry.reads == "spans":
            self.qa = keras.layers.Dense(2, name="qa")
        else:
            self.dropout = keras.layers.Dropout(geometry.head_dropout_rate)
            self.classifier = keras.layers.Dense(geometry.num_outputs, name="classifier")

    def call(self, features, training=False):  # Keras gives `training` to the layers
        mask = features["padding_mask"]  # [B, T]
        padding_scores = MASKED_SCORE * ops.cast(1 - mask, "float32")[:, None, None, :]
        x = self.embeddings(features)  # [B, T, D]
        x = self.encoder(x, padding_scores)  # [B, T, D]
        if self.geometry.reads == "rows" and self.geometry.pooler_type == "first":
            x = x[:, 0]  # [B, D], the vector of the first token
        elif self.geometry.reads == "rows":
            # The first place counts in any case, so that a row of padding alone has a vector.
            mask = ops.concatenate([ops.ones_like(mask[:, :1]), mask[:, 1:]], axis=1)
            is_token = ops.cast(mask, x.dtype)[:, :, None]
            x = POOLERS[self.geometry.pooler_type](x, is_token)  # [B, D]
        if self.geometry.head_dropout_first:
            x = self.dropout(x)
        if self.geometry.reads == "masks":
            logits = self.mlm(x, self.embeddings.word_embeddings.embeddings)  # [B, T, V]
            if self.geometry.has_next_sentence:
                pooled = ACTIVATIONS[self.geometry.head_activation](self.pooler(x[:, 0]))  # [B, D]
                return {"mlm_logits": logits, "nsp_logits": self.nsp(pooled)}
            else:
                return logits
        elif self.geometry.has_pooler:
            x = ACTIVATIONS[self.geometry.head_activation](self.pooler(x))
        if self.geometry.has_normalized_head:
            x = self.pooler_layer_norm(x)
        if self.geometry.reads == "spans":
            logits = self.qa(x)  # [B, T, 2]
            if self.geometry.span_softmax == "tokens":
                logits = ops.where(mask[:, :, None] > 0, logits, -1e30)
            return {"start_logits": logits[:, :, 0], "end_logits": logits[:, :, 1]}
        elif self.geometry.reads == "words":
            return self.classifier(self.dropout(x))  # [B, T, C]
        elif self.geometry.reads == "rows":
            return self.classifier(self.dropout(x))  # [B, C]


def tensor(rows):
    return np.array(rows, "int32")


def softmax(logits):
    return ops.convert_to_numpy(ops.softmax(logits)).tolist()


def sigmoid(logits):
    return ops.convert_to_numpy(ops.sigmoid(logits)).tolist()


def to_list(values):
    return ops.convert_to_numpy(values).tolist()


def load():
    """Returns the Network with the weights of model.safetensors."""
    network = Network(Geometry())
    row = tensor([[0, 0]])
    network({"input_ids": row, "padding_mask": row + 1, "segment_ids": row})  # makes the weights
    weights = load_file(HERE / "model.safetensors")
    for variable in network.weights:
        variable.assign(weights.pop(variable.path.removeprefix("network/")))
    assert not weights, f"the network has no {', '.join(weights)}"
    return network
