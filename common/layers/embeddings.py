# SPDX-License-Identifier: Apache-2.0
"""BERT's input: the sum of word, position and segment embeddings, normalised, with dropout."""

import keras
from keras import ops

from common.layers.dropout import Dropout

NUM_SEGMENTS = 2  # sentence A and sentence B; BERT knows no third


class BertEmbeddings(keras.layers.Layer):
    """Word plus position plus segment embedding of every token.

    Devlin et al. 2019, section 3 and figure 2. Shapes: B batch, T tokens, D hidden size,
    V vocabulary size, P positions.

    Args:
        vocab_size, hidden_size, max_position_embeddings: int. V, D, P.
        use_position_embedding, use_segment_embedding: bool. Leave out the table where False.
        use_layer_norm: bool. True for post-norm encoders; a pre-norm encoder normalises later.
        layer_norm_epsilon: float > 0, added to the variance.
        dropout_rate: float in [0, 1). Applied to the sum.
        initializer: Keras initializer of the tables.
        clock: DropoutClock.
    Call:
        input_ids: <int32>[B, T] in [0, V).
        segment_ids: <int32>[B, T], 0 or 1.
    Returns:
        <float>[B, T, D] in the compute dtype.
    """

    def __init__(
        self,
        vocab_size,
        hidden_size,
        max_position_embeddings,
        use_position_embedding,
        use_segment_embedding,
        use_layer_norm,
        layer_norm_epsilon,
        dropout_rate,
        initializer,
        clock,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.max_position_embeddings = max_position_embeddings
        self.use_position_embedding = use_position_embedding
        self.use_segment_embedding = use_segment_embedding
        self.initializer = initializer
        self.layer_norm = None
        if use_layer_norm:
            self.layer_norm = keras.layers.LayerNormalization(
                epsilon=layer_norm_epsilon, dtype=self.dtype_policy, name="layer_norm"
            )
        self.dropout = Dropout(dropout_rate, clock, dtype=self.dtype_policy)

    def _add_table(self, name, num_rows):
        # autocast=False: the rows are cast after the look-up. Casting the table first would copy
        # all V rows at every step in mixed precision and make its gradient dense.
        return self.add_weight(
            shape=(num_rows, self.hidden_size),
            initializer=self.initializer,
            autocast=False,
            name=name,
        )

    def build(self, ids_shape):
        self.word_embeddings = self._add_table("word_embeddings", self.vocab_size)
        if self.use_position_embedding:
            self.position_embeddings = self._add_table(
                "position_embeddings", self.max_position_embeddings
            )
        if self.use_segment_embedding:
            self.segment_embeddings = self._add_table("segment_embeddings", NUM_SEGMENTS)
        if self.layer_norm is not None:
            self.layer_norm.build((*ids_shape, self.hidden_size))

    def call(self, input_ids, segment_ids, training=False):
        x = ops.take(self.word_embeddings, input_ids, axis=0)  # [B, T, D]
        if self.use_position_embedding:
            x = x + self.position_embeddings[: ops.shape(input_ids)[1]]  # [T, D] for every row
        if self.use_segment_embedding:
            x = x + ops.take(self.segment_embeddings, segment_ids, axis=0)
        x = ops.cast(x, self.compute_dtype)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return self.dropout(x, training=training)
