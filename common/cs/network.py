# SPDX-License-Identifier: Apache-2.0
"""The networks in PyTorch: the twins of `BertClassifierModel` and of the pre-training task.

The vendor's compiler needs a plain `torch.nn.Module`; its device hooks do not accept a Keras model.
Params, neutral names, weights and results are those of the Keras models: tests/cs/test_twin.py,
tests/cs/test_pretraining.py.
"""

import numpy as np
import torch
from torch import nn

from common.layers.positions import sinusoids
from common.params.pretraining import TASK as PRETRAINING
from common.tasks.answer import ROW_HEAD

NUM_SEGMENTS = 2
MASKED_SCORE = -1e9  # as common/layers/dot_product_attention.py, which imports Keras
# On a CS system attention scores may be 16-bit. There -1e9 is -inf, and a row of padding would give
# NaN; exp(-1e4) is 0 in every type. It is the original's number.
MASKED_SCORE_16_BIT = -1e4

ACTIVATIONS = {
    "gelu_erf": nn.functional.gelu,
    "gelu_tanh": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}


class Embeddings(nn.Module):
    """Word plus position plus segment embedding, as common/layers/embeddings.py.

    Call: input_ids, segment_ids <int>[B, T]. Returns <float>[B, T, D].
    """

    def __init__(self, cfg, num_tokens):
        super().__init__()
        size = cfg.hidden_size
        self.word_embeddings = nn.Embedding(cfg.vocab_size, cfg.word_size)
        self.projection = nn.Linear(cfg.word_size, size, bias=False) if cfg.is_factorized else None
        self.position_embeddings, positions = None, None
        if cfg.use_position_embedding and cfg.position_embedding_type == "learned":
            self.position_embeddings = nn.Embedding(cfg.max_position_embeddings, size)
        elif cfg.use_position_embedding:
            positions = torch.from_numpy(sinusoids(cfg.max_position_embeddings, size)[:num_tokens])
        self.register_buffer("positions", positions, persistent=False)  # sines and cosines, or None
        self.segment_embeddings = (
            nn.Embedding(NUM_SEGMENTS, size) if cfg.use_segment_embedding else None
        )
        self.layer_norm = None
        if not cfg.use_pre_normalization:
            self.layer_norm = nn.LayerNorm(size, eps=cfg.layer_norm_epsilon)
        self.dropout = nn.Dropout(cfg.dropout_rate)

    def forward(self, input_ids, segment_ids):
        x = self.word_embeddings(input_ids)
        if self.projection is not None:
            x = self.projection(x)
        if self.position_embeddings is not None:
            numbers = torch.arange(input_ids.shape[1], device=input_ids.device)
            x = x + self.position_embeddings(numbers.expand(input_ids.shape))
        elif self.positions is not None:
            x = x + self.positions
        if self.segment_embeddings is not None:
            x = x + self.segment_embeddings(segment_ids)
        return self.dropout(x if self.layer_norm is None else self.layer_norm(x))


class Attention(nn.Module):
    """Multi-head attention, as common/layers/attention.py.

    Call:
        x: <float>[B, T, D], for the queries; memory: <float>[B, S, D], for keys and values.
        score_bias: <float>[B, 1, 1, S], 0 on real tokens, very negative on padding.
    Returns <float>[B, T, D].
    """

    def __init__(self, cfg):
        super().__init__()
        size, bias = cfg.hidden_size, cfg.use_projection_bias_in_attention
        self.num_heads, self.head_size = cfg.num_heads, cfg.head_size
        is_scaled = cfg.attention_type == "scaled_dot_product"
        self.scale = cfg.head_size**-0.5 if is_scaled else 1.0
        self.query, self.key, self.value = (nn.Linear(size, size, bias=bias) for _ in range(3))
        self.output = nn.Linear(size, size, bias=cfg.use_ffn_bias_in_attention)
        self.dropout = nn.Dropout(cfg.attention_dropout_rate)

    def _split_heads(self, x):
        return x.view(*x.shape[:2], self.num_heads, self.head_size).transpose(1, 2)

    def forward(self, x, memory, score_bias):
        query = self._split_heads(self.query(x)) * self.scale  # [B, H, T, d]
        key = self._split_heads(self.key(memory))  # [B, H, S, d]
        value = self._split_heads(self.value(memory))
        scores = torch.matmul(query, key.transpose(-1, -2)) + score_bias  # [B, H, T, S]
        probabilities = nn.functional.softmax(scores.float(), dim=-1).to(value.dtype)
        context = torch.matmul(self.dropout(probabilities), value)  # [B, H, T, d]
        return self.output(context.transpose(1, 2).reshape(x.shape))


class FeedForward(nn.Module):
    """Dense, activation, dense, as common/layers/feed_forward.py. Call: x <float>[B, T, D]."""

    def __init__(self, cfg):
        super().__init__()
        self.expand = nn.Linear(cfg.hidden_size, cfg.filter_size, bias=cfg.use_ffn_bias)
        self.project = nn.Linear(cfg.filter_size, cfg.hidden_size, bias=cfg.use_ffn_bias)
        self.activation = ACTIVATIONS[cfg.encoder_nonlinearity]

    def forward(self, x):
        return self.project(self.activation(self.expand(x)))


class EncoderLayer(nn.Module):
    """Attention and feed-forward with residuals and layer norms, as common/layers/encoder.py.

    Call:
        x: <float>[B, T, D]; score_bias: as in Attention.
        take: <float>[B, T, D] -> [B, N, D], the tokens whose output is needed; None: all.
    Returns <float>[B, T, D]; [B, N, D] with take.
    """

    def __init__(self, cfg):
        super().__init__()
        self.use_pre_normalization = cfg.use_pre_normalization
        self.attention = Attention(cfg)
        self.attention_layer_norm = nn.LayerNorm(cfg.hidden_size, eps=cfg.layer_norm_epsilon)
        self.feed_forward = FeedForward(cfg)
        self.feed_forward_layer_norm = nn.LayerNorm(cfg.hidden_size, eps=cfg.layer_norm_epsilon)
        self.dropout = nn.Dropout(cfg.dropout_rate)

    def forward(self, x, score_bias, take=None):
        memory = self.attention_layer_norm(x) if self.use_pre_normalization else x
        queries, residual = (memory, x) if take is None else (take(memory), take(x))
        x = residual + self.dropout(self.attention(queries, memory, score_bias))
        if self.use_pre_normalization:
            return x + self.dropout(self.feed_forward(self.feed_forward_layer_norm(x)))
        x = self.attention_layer_norm(x)
        return self.feed_forward_layer_norm(x + self.dropout(self.feed_forward(x)))


class Encoder(nn.Module):
    """The layers, named `layer_0` onwards; pre-norm ends with one more layer norm."""

    def __init__(self, cfg):
        super().__init__()
        self.num_layers = cfg.num_hidden_layers
        for i in range(self.num_layers):
            self.add_module(f"layer_{i}", EncoderLayer(cfg))
        self.final_layer_norm = None
        if cfg.use_pre_normalization:
            self.final_layer_norm = nn.LayerNorm(cfg.hidden_size, eps=cfg.layer_norm_epsilon)

    def forward(self, x, score_bias, take=None):
        for i in range(self.num_layers):
            is_last = i == self.num_layers - 1
            x = self.get_submodule(f"layer_{i}")(x, score_bias, take if is_last else None)
        return x if self.final_layer_norm is None else self.final_layer_norm(x)


class Twin(nn.Module):
    """Embeddings and encoder, whose heads are those of a subclass.

    Shapes: B batch, T tokens, D hidden size. Attributes are named so that the path of a parameter
    is its neutral name. `inputs` names what `forward` takes of a batch, in order.

    Args:
        cfg: ModelParams, complete.
        num_tokens: int. T, the static length of all batches.
        is_16_bit: bool. Whether matrix products are 16-bit, as on a CS system.
    """

    inputs = ("input_ids", "padding_mask", "segment_ids")
    head: dict  # as of BaseModel
    task = None  # the Session has compared the task with the checkpoint's

    def __init__(self, cfg, num_tokens, is_16_bit=False):
        super().__init__()
        self.masked_score = MASKED_SCORE_16_BIT if is_16_bit else MASKED_SCORE
        self.embeddings = Embeddings(cfg, num_tokens)
        self.encoder = Encoder(cfg)

    def encode(self, input_ids, padding_mask, segment_ids, take=None):
        """Returns <float>[B, T, D], or of the tokens that `take` gives. <int32>[B, T] each;
        padding_mask is 1 on real tokens. take: as of EncoderLayer."""
        x = self.embeddings(input_ids, segment_ids)  # [B, T, D]
        score_bias = self.masked_score * (1 - padding_mask).to(x.dtype)[:, None, None, :]
        return self.encoder(x, score_bias, take)

    def freeze(self, names):
        """Leaves parts untrained. names: of `model.freeze`."""
        for name in names:
            part, _, count = name.partition(":")
            parts = [self.get_submodule(part)] if part != "layers" else []
            parts += [self.encoder.get_submodule(f"layer_{i}") for i in range(int(count or 0))]
            for module in parts:
                module.requires_grad_(False)

    def weights_by_name(self):
        """Returns {neutral name: Weight}, in the order of the network."""
        weights = {}
        for path, module in self.named_modules():
            for kind, parameter in module.named_parameters(recurse=False):
                weight = Weight(path, kind, module, parameter)
                weights[weight.name] = weight
        return weights


class BertClassifier(Twin):
    """Embeddings, encoder, one vector a row, dense(D, tanh), dropout, dense(C). C: classes.

    Call: `inputs`, <int32>[B, T]. Returns logits, <float32>[B, C].
    """

    head = ROW_HEAD

    def __init__(self, cfg, num_tokens, is_16_bit=False):
        super().__init__(cfg, num_tokens, is_16_bit)
        self.pooler_type = cfg.pooler_type
        self.take = first_token if cfg.pooler_type == "first" else None
        self.pooler = nn.Linear(cfg.hidden_size, cfg.hidden_size)
        self.dropout = nn.Dropout(cfg.cls_dropout_rate)
        self.classifier = nn.Linear(cfg.hidden_size, cfg.num_cls_classes)
        self.freeze(cfg.freeze)

    def forward(self, input_ids, padding_mask, segment_ids):
        x = self.encode(input_ids, padding_mask, segment_ids, self.take)
        pooled = torch.tanh(self.pooler(pool(x, padding_mask, self.pooler_type)))  # [B, D]
        return self.classifier(self.dropout(pooled)).float()


class MaskedLmHead(nn.Module):
    """Dense, activation, layer norm, product with a table, as common/layers/masked_lm_head.py.

    E is the width of the word table, V its rows.

    Call:
        x: <float>[B, P, D]; table: <float>[V, E], of the word embeddings, which is not read where
        the head has its own.
    Returns <float32>[B, P, V].
    """

    def __init__(self, cfg):
        super().__init__()
        size, word_size = cfg.hidden_size, cfg.word_size
        self.projection = nn.Linear(size, word_size, bias=False) if cfg.is_factorized else None
        self.transform = nn.Linear(word_size, word_size, bias=cfg.use_ffn_bias_in_mlm)
        self.activation = ACTIVATIONS[cfg.mlm_activation]
        self.layer_norm = nn.LayerNorm(word_size, eps=cfg.layer_norm_epsilon)
        self.output_embeddings = self.output_bias = None
        if not cfg.share_embedding_weights:
            self.output_embeddings = nn.Parameter(torch.zeros(cfg.vocab_size, word_size))
        if cfg.use_output_bias_in_mlm:
            self.output_bias = nn.Parameter(torch.zeros(cfg.vocab_size))

    def forward(self, x, table):
        if self.projection is not None:
            x = self.projection(x)
        x = self.layer_norm(self.activation(self.transform(x)))  # [B, P, E]
        table = table if self.output_embeddings is None else self.output_embeddings
        logits = torch.matmul(x, table.transpose(0, 1)).float()
        return logits if self.output_bias is None else logits + self.output_bias


class BertForPreTraining(Twin):
    """Embeddings, encoder, the masked-word head on the tokens to predict, the next-sentence head on
    `[CLS]`, as common/tasks/pretraining.py.

    Call: `inputs`, <int32>[B, T], and of the last [B, P], the positions to predict.
    Returns:
        tuple of the logits of the masked words, <float32>[B, P, V], and with the next-sentence head
        of its own, <float32>[B, 2].
    """

    inputs = (*Twin.inputs, "masked_lm_positions")

    def __init__(self, cfg, num_tokens, is_16_bit=False):
        super().__init__(cfg, num_tokens, is_16_bit)
        self.has_nsp, size = not cfg.disable_nsp, cfg.hidden_size
        self.head = {"mlm": None}
        self.mlm = MaskedLmHead(cfg)
        if self.has_nsp:
            self.head = {"pooler": None, "nsp": None, "mlm": None}
            self.pooler = nn.Linear(size, size, bias=cfg.use_nsp_bias)
            self.activation = ACTIVATIONS[cfg.nsp_activation]
            self.nsp = nn.Linear(size, 2, bias=cfg.use_nsp_bias)
        self.freeze(cfg.freeze)

    def forward(self, input_ids, padding_mask, segment_ids, positions):
        if self.has_nsp:  # [CLS] first
            positions = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
        x = self.encode(
            input_ids, padding_mask, segment_ids, lambda x: tokens_at(x, positions)
        )  # [B, 1 + P, D]; without the next-sentence head [B, P, D]
        table = self.embeddings.word_embeddings.weight
        if not self.has_nsp:
            return (self.mlm(x, table),)
        pooled = self.activation(self.pooler(x[:, 0]))  # [B, D]
        return self.mlm(x[:, 1:], table), self.nsp(pooled).float()


def make_twin(params, num_tokens, is_16_bit=False):
    """Returns the Twin of complete Params. Others: as of Twin."""
    network = BertForPreTraining if params.task == PRETRAINING else BertClassifier
    return network(params.model, num_tokens, is_16_bit)


NEUTRAL = {
    (nn.Linear, "weight"): "kernel",
    (nn.LayerNorm, "weight"): "gamma",
    (nn.LayerNorm, "bias"): "beta",
    (nn.Embedding, "weight"): None,  # the path is the name
}


class Weight:
    """A parameter under its neutral name, with the interface that common/checkpoints/load.py uses.

    PyTorch stores the kernel of nn.Linear as [out, in]; neutral weights are [in, out].

    Args:
        path: str, of its module, such as encoder.layer_0.attention.query.
        kind: str, its name within the module, such as "weight" or "bias".
    Attributes:
        name, shape: str and tuple of int, of the neutral weight.
    """

    def __init__(self, path, kind, module, parameter):
        self.parameter = parameter
        self.is_transposed = isinstance(module, nn.Linear) and kind == "weight"
        # A parameter of PyTorch's modules has another name; one of a module here has its own.
        last = NEUTRAL.get((type(module), kind), kind)
        self.name = "/".join([*path.split("."), *([last] if last else [])])
        shape = tuple(parameter.shape)
        self.shape = shape[::-1] if self.is_transposed else shape

    def assign(self, array):
        """Sets the values. array: float array of `shape`."""
        with torch.no_grad():
            self.parameter.copy_(self.as_stored(array))

    def as_stored(self, array):
        """Returns a copy of an array of `shape` as a tensor in PyTorch's layout."""
        array = np.asarray(array, np.float32)
        return torch.from_numpy(np.array(array.T if self.is_transposed else array, order="C"))

    def as_neutral(self, tensor):
        """Returns a value, gradient or slot in the parameter's layout as a neutral NumPy array."""
        array = tensor.detach().cpu().numpy()
        return np.ascontiguousarray(array.T) if self.is_transposed else array


def first_token(x):
    """<float>[B, T, D] -> [B, 1, D]."""
    return x[:, :1]


def tokens_at(x, positions):
    """<float>[B, T, D] -> [B, N, D], of each row the tokens at its positions, <int32>[B, N]."""
    return torch.gather(x, 1, positions.long()[:, :, None].expand(-1, -1, x.shape[-1]))


def pool(x, padding_mask, pooler_type):
    """Pools <float>[B, T, D] to <float>[B, D], as common/layers/pooling.py."""
    if pooler_type == "first":
        return x[:, 0]
    positions = torch.arange(x.shape[1], device=x.device)
    if pooler_type == "last":
        index = (positions * padding_mask).amax(dim=1, keepdim=True)  # [B, 1]
        return (x * (positions == index).to(x.dtype)[:, :, None]).sum(dim=1)
    is_real = torch.maximum(padding_mask.float(), (positions == 0).float())[:, :, None]  # [B, T, 1]
    if pooler_type == "max":
        return torch.where(is_real > 0, x, torch.finfo(x.dtype).min).amax(dim=1)
    total = (x.float() * is_real).sum(dim=1)
    return (total / is_real.sum(dim=1) if pooler_type == "mean" else total).to(x.dtype)
