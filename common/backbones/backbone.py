# SPDX-License-Identifier: Apache-2.0
"""The network below every head: embeddings and encoder, from token ids to token vectors."""

from dataclasses import dataclass
from functools import partial

from common.backbones.initializers import LAYERS, PROJECTION, TABLES, WORDS, FreshWeights
from common.kernels.layer_stack import LayerStack
from common.kernels.packed import PackedRows
from common.layers.activations import ACTIVATIONS
from common.layers.dropout import DropoutClock
from common.layers.embeddings import BertEmbeddings
from common.layers.encoder import Encoder


@dataclass(eq=False)
class Backbone:
    """BERT without a head.

    Devlin et al. 2019, section 3. Shapes: B batch, T tokens, D hidden size. A plain object: the
    two layers are attributes of the model, so that weights are named `embeddings/...` and
    `encoder/...` whatever the head is.

    Call:
        features: dict with `input_ids`, `padding_mask` (1 on real tokens), `segment_ids`,
            each <int32>[B, T]; or each <int32>[R, T], with `starts` <int32>[B], of B rows that
            share R long ones, see `PackedRows`.
        first_token_only: bool. The vectors of the other tokens are not needed.
    Returns:
        <float>[B, T, D] in the compute dtype, with first_token_only [B, 1, D]; and the
        padding_mask of the rows, <int32>[B, T].
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

    def __call__(self, features, first_token_only=False, training=False):
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
                first_token_only=first_token_only,
                needs_gradient=self.embeddings.trainable,
                training=training,
            ),
            training=training,
        )  # [B, T, D]; [B, 1, D] where the first token is all that is needed
        if packed is not None and not first_token_only:
            x, padding_mask = packed.unpack(x)
        return x, padding_mask


def make_backbone(cfg, dropout_seed=0, num_streams=1):
    """Returns the Backbone of complete ModelParams; its weights are made by `build`."""
    clock = DropoutClock(dropout_seed)

    def fresh(part, spec=cfg.keras_initializer):
        return FreshWeights(spec, cfg.weight_initialization_seed, part)

    embeddings = BertEmbeddings(
        cfg.vocab_size,
        cfg.hidden_size,
        cfg.max_position_embeddings,
        cfg.word_size,
        use_position_embedding=cfg.use_position_embedding,
        use_segment_embedding=cfg.use_segment_embedding,
        position_embedding_type=cfg.position_embedding_type,
        use_layer_norm=not cfg.use_pre_normalization,
        layer_norm_epsilon=cfg.layer_norm_epsilon,
        dropout_rate=cfg.dropout_rate,
        initializer=fresh(TABLES),
        word_initializer=fresh(WORDS, cfg.keras_embedding_initializer),
        # The original's: a product of two matrices of stddev 0.02 would be too small.
        projection_initializer=fresh(PROJECTION, "glorot_uniform") if cfg.is_factorized else None,
        clock=clock,
        dtype=cfg.dtype_policy,
        name="embeddings",
    )
    encoder = Encoder(
        cfg.num_hidden_layers,
        layer_norm_epsilon=cfg.layer_norm_epsilon,
        use_pre_normalization=cfg.use_pre_normalization,
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
