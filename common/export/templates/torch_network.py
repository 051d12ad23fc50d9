# SPDX-License-Identifier: Apache-2.0
"""The network of a source export in PyTorch: see `geometry.py`."""

import functools

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from common.export.templates.geometry import HERE, Geometry

MASKED_SCORE = -1e9  # of what no token attends to: the softmax of it is 0


def gelu_tanh(x):
    return functional.gelu(x, approximate="tanh")


def linear(x):
    return x


ACTIVATIONS = {
    "gelu_erf": functional.gelu,
    "gelu_tanh": gelu_tanh,
    "relu": torch.relu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "linear": linear,
}


def sinusoids(num_positions, size):
    """Returns sines and cosines of every position at several wavelengths: <float32>[P, size].

    Vaswani et al. 2017, section 3.5, with the wavelengths of tensor2tensor.
    """
    n = size // 2
    timescales = 10000.0 ** (torch.arange(n, dtype=torch.float64) / max(n - 1, 1))
    angles = torch.arange(num_positions)[:, None] / timescales  # [P, n]
    table = torch.zeros(num_positions, size)
    table[:, 0 : 2 * n : 2], table[:, 1 : 2 * n : 2] = angles.sin(), angles.cos()
    return table


class Embeddings(nn.Module):
    """What is known of each token by itself (Devlin et al. 2019, section 3): [B, T, D]."""

    def __init__(self, geometry):
        super().__init__()
        self.geometry = geometry
        width = geometry.embedding_size if geometry.is_factorized else geometry.hidden_size
        self.word_embeddings = nn.Embedding(geometry.vocab_size, width)
        if geometry.is_factorized and not geometry.projects_sum:
            width = geometry.hidden_size
        if geometry.position_type == "learned":
            self.position_embeddings = nn.Embedding(geometry.max_position_embeddings, width)
        elif geometry.position_type == "fixed":
            table = sinusoids(geometry.max_position_embeddings, width)
            self.register_buffer("positions", table, persistent=False)
        if geometry.num_segments:
            self.segment_embeddings = nn.Embedding(geometry.num_segments, width)
        if geometry.normalizes_embeddings:
            self.layer_norm = nn.LayerNorm(
                width, eps=geometry.layer_norm_epsilon, bias=geometry.use_norm_bias
            )
        self.dropout = nn.Dropout(geometry.dropout_rate)
        if geometry.is_factorized:
            self.projection = nn.Linear(
                geometry.embedding_size, geometry.hidden_size, bias=geometry.projects_sum
            )

    def forward(self, features):
        input_ids = features["input_ids"]  # [B, T]
        x = self.word_embeddings(input_ids)
        if self.geometry.is_factorized and not self.geometry.projects_sum:
            x = self.projection(x)  # [B, T, D]
        if self.geometry.position_type == "learned":
            positions = torch.arange(input_ids.shape[1], device=x.device)  # [T], of every row
            if self.geometry.first_position:
                positions = positions + self.geometry.first_position
            x = x + self.position_embeddings(positions)
        elif self.geometry.position_type == "fixed":
            x = x + self.positions[: input_ids.shape[1]]
        if self.geometry.num_segments == 2:
            x = x + self.segment_embeddings(features["segment_ids"])
        elif self.geometry.num_segments == 1:
            x = x + self.segment_embeddings(torch.zeros_like(input_ids))
        if self.geometry.normalizes_embeddings:
            x = self.layer_norm(x)
        x = self.dropout(x)
        if self.geometry.is_factorized and self.geometry.projects_sum:
            x = self.projection(x)  # [B, T, D]
        return x


class Attention(nn.Module):
    """Dot-product attention in H heads (Vaswani et al. 2017, section 3.2): [B, T, D]."""

    def __init__(self, geometry):
        super().__init__()
        self.geometry = geometry
        size = geometry.hidden_size
        self.query = nn.Linear(size, size, bias=geometry.use_projection_bias_in_attention)
        self.key = nn.Linear(size, size, bias=geometry.use_projection_bias_in_attention)
        self.value = nn.Linear(size, size, bias=geometry.use_projection_bias_in_attention)
        self.dropout = nn.Dropout(geometry.attention_dropout_rate)
        self.output = nn.Linear(size, size, bias=geometry.use_ffn_bias_in_attention)

    def heads(self, x):
        """[B, T, D] -> [B, H, T, d]."""
        return x.unflatten(-1, (self.geometry.num_heads, -1)).transpose(1, 2)

    def scores(self, query, key):
        """Returns how well each token's key fits each token's query: [B, H, T, T]."""
        if self.geometry.attention_type == "scaled_dot_product":
            query = query / self.geometry.head_size**0.5
        return query @ key.transpose(-1, -2)

    def forward(self, x, padding_scores):
        query, key, value = (self.heads(dense(x)) for dense in (self.query, self.key, self.value))
        weights = (self.scores(query, key) + padding_scores).softmax(dim=-1)  # [B, H, T, T]
        context = self.dropout(weights) @ value  # [B, H, T, d]
        return self.output(context.transpose(1, 2).flatten(2))


@functools.cache
def rotary_angles(geometry, theta):
    """Returns cosine and sine of what each pair of a head is turned by: <float32>[P, d / 2] each.

    Su et al. 2021, section 3.2.2: pair i at place p is turned by p / theta^(2i / d).
    """
    powers = torch.arange(0, geometry.head_size, 2, dtype=torch.float64) / geometry.head_size
    angles = torch.outer(torch.arange(geometry.max_position_embeddings), theta**-powers)
    return angles.cos().float(), angles.sin().float()


def rotate(x, angles):
    """Turns each pair (i, i + d / 2) of x, [B, H, T, d]. angles: of `rotary_angles`."""
    cos, sin = (each[: x.shape[2]].to(x) for each in angles)  # [T, d / 2]
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class RotaryAttention(Attention):
    """Attention that knows how far tokens are apart; most layers attend to nearby ones alone."""

    def __init__(self, geometry, number):
        super().__init__(geometry)
        self.is_global = number % geometry.global_attention_every == 0
        theta = geometry.global_rope_theta if self.is_global else geometry.local_rope_theta
        self.angles = rotary_angles(geometry, theta)

    def scores(self, query, key):
        scores = super().scores(rotate(query, self.angles), rotate(key, self.angles))
        if self.is_global:
            return scores
        places = torch.arange(query.shape[2], device=query.device)
        distances = (places[:, None] - places[None, :]).abs()  # [T, T]
        return scores.masked_fill(distances > self.geometry.local_attention // 2, MASKED_SCORE)


class FeedForward(nn.Module):
    """Two dense layers, at each token by itself (Vaswani et al. 2017, section 3.3): [B, T, D]."""

    def __init__(self, geometry):
        super().__init__()
        self.geometry = geometry
        size, inner = geometry.hidden_size, geometry.filter_size
        self.expand = nn.Linear(size, inner, bias=geometry.use_ffn_bias)
        if geometry.is_gated:
            self.gate = nn.Linear(size, inner, bias=geometry.use_ffn_bias)
        self.project = nn.Linear(inner, size, bias=geometry.use_ffn_bias)

    def forward(self, x):
        expanded = ACTIVATIONS[self.geometry.encoder_nonlinearity](self.expand(x))  # [B, T, F]
        if self.geometry.is_gated:
            expanded = expanded * self.gate(x)  # Shazeer 2020
        return self.project(expanded)


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each with dropout, residual and layer norm: [B, T, D]."""

    def __init__(self, geometry):
        super().__init__()
        self.geometry = geometry
        self.attention = Attention(geometry)
        self.feed_forward = FeedForward(geometry)
        self.dropout = nn.Dropout(geometry.dropout_rate)
        size, epsilon = geometry.hidden_size, geometry.layer_norm_epsilon
        self.attention_layer_norm = nn.LayerNorm(size, eps=epsilon, bias=geometry.use_norm_bias)
        self.feed_forward_layer_norm = nn.LayerNorm(size, eps=epsilon, bias=geometry.use_norm_bias)

    def forward(self, x, padding_scores):
        if self.geometry.use_pre_normalization:
            attended = self.attention(self.attention_layer_norm(x), padding_scores)
            x = x + self.dropout(attended)
            return x + self.dropout(self.feed_forward(self.feed_forward_layer_norm(x)))
        else:
            attended = self.attention(x, padding_scores)
            x = self.attention_layer_norm(x + self.dropout(attended))
            return self.feed_forward_layer_norm(x + self.dropout(self.feed_forward(x)))


class RotaryEncoderLayer(EncoderLayer):
    """One that knows its number, as its attention depends on it."""

    def __init__(self, geometry, number):
        super().__init__(geometry)
        self.attention = RotaryAttention(geometry, number)
        if number == 0:
            self.attention_layer_norm = nn.Identity()  # that of the embeddings does it


class Encoder(nn.Module):
    """The encoder layers, one after the other: [B, T, D]."""

    def __init__(self, geometry):
        super().__init__()
        self.geometry = geometry
        numbers = range(1 if geometry.shares_layers else geometry.num_hidden_layers)
        if geometry.position_type == "rotary":
            self.layers = nn.ModuleList(RotaryEncoderLayer(geometry, n) for n in numbers)
        else:
            self.layers = nn.ModuleList(EncoderLayer(geometry) for _ in numbers)
        if geometry.use_pre_normalization:
            self.final_layer_norm = nn.LayerNorm(
                geometry.hidden_size, eps=geometry.layer_norm_epsilon, bias=geometry.use_norm_bias
            )

    def forward(self, x, padding_scores):
        if self.geometry.shares_layers:
            for _ in range(self.geometry.num_hidden_layers):
                x = self.layers[0](x, padding_scores)
        else:
            for layer in self.layers:
                x = layer(x, padding_scores)
        if self.geometry.use_pre_normalization:
            x = self.final_layer_norm(x)
        return x


def last_token(x, is_token):
    places = torch.arange(x.shape[1], device=x.device)[:, None]  # [T, 1]
    is_last = places == (places * is_token).amax(dim=1, keepdim=True)  # [B, T, 1]
    return (x * is_last).sum(dim=1)


def mean_of_tokens(x, is_token):
    return (x * is_token).sum(dim=1) / is_token.sum(dim=1)


def sum_of_tokens(x, is_token):
    return (x * is_token).sum(dim=1)


def maximum_of_tokens(x, is_token):
    return x.masked_fill(is_token == 0, -torch.inf).amax(dim=1)


# One vector a row, [B, D], of x [B, T, D] and is_token [B, T, 1], 0 on padding.
POOLERS = {
    "last": last_token,
    "mean": mean_of_tokens,
    "sum": sum_of_tokens,
    "max": maximum_of_tokens,
}


class MaskedWordHead(nn.Module):
    """A logit of every word of the vocabulary for each token: [B, T, V].

    Devlin et al. 2019, section 3.1, task 1.
    """

    def __init__(self, geometry):
        super().__init__()
        self.geometry = geometry
        size = geometry.hidden_size
        width = geometry.embedding_size if geometry.is_factorized else geometry.hidden_size
        if geometry.has_mlm_projection:
            self.projection = nn.Linear(size, width, bias=False)
            size = width
        self.transform = nn.Linear(size, width, bias=geometry.use_ffn_bias_in_mlm)
        self.layer_norm = nn.LayerNorm(
            width, eps=geometry.layer_norm_epsilon, bias=geometry.use_norm_bias
        )
        if not geometry.share_embedding_weights:
            self.output_embeddings = nn.Parameter(torch.zeros(geometry.vocab_size, width))
        if geometry.use_output_bias_in_mlm:
            self.output_bias = nn.Parameter(torch.zeros(geometry.vocab_size))

    def forward(self, x, table):
        if not self.geometry.share_embedding_weights:
            table = self.output_embeddings
        if self.geometry.has_mlm_projection:
            x = self.projection(x)
        x = self.layer_norm(ACTIVATIONS[self.geometry.mlm_activation](self.transform(x)))
        logits = x @ table.T
        return logits + self.output_bias if self.geometry.use_output_bias_in_mlm else logits


class Network(nn.Module):
    """Embeddings, encoder and head.

    Call: {"input_ids", "padding_mask" (1 on tokens, 0 on padding)} and, where there are segments,
    "segment_ids": <int64>[B, T] each, as `encode` returns them.
    """

    def __init__(self, geometry):
        super().__init__()
        self.geometry = geometry
        self.embeddings = Embeddings(geometry)
        self.encoder = Encoder(geometry)
        if geometry.has_pooler:
            self.pooler = nn.Linear(
                geometry.hidden_size, geometry.hidden_size, bias=geometry.use_pooler_bias
            )
        if geometry.has_normalized_head:
            self.pooler_layer_norm = nn.LayerNorm(
                geometry.hidden_size, eps=geometry.layer_norm_epsilon, bias=False
            )
        if geometry.reads == "masks":
            self.mlm = MaskedWordHead(geometry)
            if geometry.has_next_sentence:
                self.nsp = nn.Linear(geometry.hidden_size, 2, bias=geometry.use_pooler_bias)
        elif geometry.reads == "spans":
            self.qa = nn.Linear(geometry.hidden_size, 2)
        else:
            self.dropout = nn.Dropout(geometry.head_dropout_rate)
            self.classifier = nn.Linear(geometry.hidden_size, geometry.num_outputs)

    def forward(self, features):
        mask = features["padding_mask"]  # [B, T]
        padding_scores = MASKED_SCORE * (1.0 - mask.float())[:, None, None, :]
        x = self.embeddings(features)  # [B, T, D]
        x = self.encoder(x, padding_scores)  # [B, T, D]
        if self.geometry.reads == "rows" and self.geometry.pooler_type == "first":
            x = x[:, 0]  # [B, D], the vector of the first token
        elif self.geometry.reads == "rows":
            # The first place counts in any case, so that a row of padding alone has a vector.
            mask = torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], dim=1)
            x = POOLERS[self.geometry.pooler_type](x, mask[:, :, None].float())  # [B, D]
        if self.geometry.head_dropout_first:
            x = self.dropout(x)
        if self.geometry.reads == "masks":
            logits = self.mlm(x, self.embeddings.word_embeddings.weight)  # [B, T, V]
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
                logits = logits.masked_fill(mask[:, :, None] == 0, -1e30)
            return {"start_logits": logits[:, :, 0], "end_logits": logits[:, :, 1]}
        elif self.geometry.reads == "words":
            return self.classifier(self.dropout(x))  # [B, T, C]
        elif self.geometry.reads == "rows":
            return self.classifier(self.dropout(x))  # [B, C]


def tensor(rows):
    return torch.tensor(rows)


def softmax(logits):
    return logits.softmax(dim=-1).tolist()


def sigmoid(logits):
    return logits.sigmoid().tolist()


def to_list(values):
    return values.tolist()


def load():
    """Returns the Network with the weights of model.safetensors, in evaluation mode."""
    network = Network(Geometry())
    network.load_state_dict(load_file(HERE / "model.safetensors"))
    return network.eval()
