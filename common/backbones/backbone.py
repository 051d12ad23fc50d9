# SPDX-License-Identifier: Apache-2.0
"""The network below every head: embeddings and encoder, from token ids to token vectors."""

from dataclasses import dataclass
from functools import partial

from common.backbones.initializers import LAYERS, PROJECTION, TABLES, WORDS, FreshWeights
from common.kernels.layer_stack import LayerStack
from common.kernels.needed_tokens import ALL_TOKENS, SomeTokens
from common.kernels.packed import PackedRows
from common.layers.activations import ACTIVATIONS
from common.layers.dropout import DropoutClock
from common.layers.embeddings import BertEmbeddings
from common.layers.encoder import Encoder


@dataclass(eq=False)
class Backbone:
    """BERT without a head, or a network of its families.

    Devlin et al. 2019, section 3; `common/params/families.py` has what other families change.
    Shapes: B batch, T tokens, D hidden size. A plain object: the
    two layers are attributes of the model, so that weights are named `embeddings/...` and
    `encoder/...` whatever the head is.

    Call:
        features: dict with `input_ids`, `padding_mask` (1 on real tokens), `segment_ids`,
            each <int32>[B, T]; or each <int32>[R, T], with `starts` <int32>[B], of B rows that
            share R long ones, see `PackedRows`.
        needed: which vectors a head reads, ALL_TOKENS, FIRST_TOKEN or SomeTokens of
            `kernels/needed_tokens.py`; the others are not computed in the last layer.
    Returns:
        <float>[B, T, D] in the compute dtype, with FIRST_TOKEN [B, 1, D], with SomeTokens what its
        `split` returns; and the padding_mask of the rows, <int32>[B, T].
    """

    embeddings: BertEmbeddings
    encoder: Encoder
    clock: DropoutClock  # of their dropout, and of the head's
    layer_stack: LayerStack  # of the same clock, how the layers of the encoder run

    @property
    def hidden_size(self):
        return self.embeddings.hidden_size

    def build(self):
        self.embeddings.build((None, None))
        self.encoder.build((None, None, self.hidden_size))

    def __call__(self, features, needed=ALL_TOKENS, training=False):
        x, packed = self.in_long_rows(features, needed, training)
        padding_mask = features["padding_mask"]
        if isinstance(needed, SomeTokens):
            return needed.split(x), padding_mask
        if packed is not None and needed is ALL_TOKENS:
            x, padding_mask = packed.unpack(x)
        return x, padding_mask

    def in_long_rows(self, features, needed=ALL_TOKENS, training=False):
        """Returns the vectors as they are computed, <float>[R, T, D] with ALL_TOKENS, and the
        PackedRows of packed rows, else None: for a head that unpacks what it makes of them."""
        padding_mask, packed = features["padding_mask"], None
        if "starts" in features:
            packed = PackedRows(features["starts"], padding_mask)
        x = self.embeddings(
            features["input_ids"],
            features["segment_ids"],
            positions=None if packed is None else packed.positions,
            training=training,
        )  # [B, T, D]
        x = self.encoder(
            x,
            padding_mask if packed is None else packed.attention_mask,
            around=partial(
                self.layer_stack.around,
                packed=packed,
                needed=needed,
                needs_gradient=self.embeddings.trainable or not training,
                training=training,
            ),
            training=training,
        )  # [B, T, D]; [B, 1, D] where the first token is all that is needed
        return x, packed


def make_backbone(cfg, dropout_seed=0, num_streams=1):
    """Returns the Backbone of complete ModelParams; its weights are made by `build`."""
    clock, family = DropoutClock(dropout_seed), cfg.family

    def fresh(part, spec=cfg.keras_initializer):
        return FreshWeights(spec, cfg.weight_initialization_seed, part)

    # The original's: a product of two matrices of stddev 0.02 would be too small, unless a layer
    # norm stands between them.
    of_projection = cfg.keras_initializer if family.projects_sum else "glorot_uniform"
    embeddings = BertEmbeddings(
        cfg.vocab_size,
        cfg.hidden_size,
        cfg.max_position_embeddings,
        cfg.word_size,
        use_position_embedding=cfg.use_position_embedding,
        use_segment_embedding=cfg.use_segment_embedding,
        position_embedding_type=cfg.position_embedding_type,
        use_layer_norm=family.normalizes_embeddings or not cfg.use_pre_normalization,
        layer_norm_epsilon=cfg.layer_norm_epsilon,
        dropout_rate=cfg.dropout_rate,
        initializer=fresh(TABLES),
        word_initializer=fresh(WORDS, cfg.keras_embedding_initializer),
        projection_initializer=fresh(PROJECTION, of_projection) if cfg.is_factorized else None,
        clock=clock,
        first_position=family.first_position,
        num_segments=family.num_segments,
        projects_sum=family.projects_sum,
        use_norm_bias=family.use_norm_bias,
        dtype=cfg.dtype_policy,
        name="embeddings",
    )
    encoder = Encoder(
        cfg.num_hidden_layers,
        layer_norm_epsilon=cfg.layer_norm_epsilon,
        use_pre_normalization=cfg.use_pre_normalization,
        shares_layers=family.shares_layers,
        of_layer=partial(arguments_of_layer, cfg) if family.is_rotary else None,
        use_norm_bias=family.use_norm_bias,
        is_gated=family.is_gated,
        hidden_size=cfg.hidden_size,
        num_heads=cfg.num_heads,
        filter_size=cfg.filter_size,
        activation=ACTIVATIONS[cfg.encoder_nonlinearity],
        dropout_rate=cfg.dropout_rate,
        attention_dropout_rate=cfg.attention_dropout_rate,
        initializer=fresh(LAYERS),
        clock=clock,
        use_ffn_bias=cfg.use_ffn_bias,
        attention_type=cfg.attention_type,
        use_projection_bias_in_attention=cfg.use_projection_bias_in_attention,
        use_ffn_bias_in_attention=cfg.use_ffn_bias_in_attention,
        dtype=cfg.dtype_policy,
    )
    return Backbone(embeddings, encoder, clock, LayerStack(clock, num_streams, cfg.recompute))


def arguments_of_layer(cfg, number):
    """What layer `number` of a network with rotary positions has of its own: dict, of arguments of
    EncoderLayer."""
    is_global = number % cfg.global_attention_every == 0
    return {
        "rotary_theta": cfg.global_rope_theta if is_global else cfg.local_rope_theta,
        "reach": None if is_global else cfg.local_attention // 2,
        "has_attention_norm": number > 0,
    }
