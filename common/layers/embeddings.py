# SPDX-License-Identifier: Apache-2.0
"""BERT's input: the sum of word, position and segment embeddings, normalised, with dropout."""

import keras
from keras import ops

from common.layers.dropout import Dropout
from common.layers.layer_norm import LayerNorm
from common.layers.positions import sinusoids

NUM_SEGMENTS = 2  # sentence A and sentence B


class BertEmbeddings(keras.layers.Layer):
    """Word plus position plus segment embedding of every token.

    Devlin et al. 2019, section 3 and figure 2. Shapes: B batch, T tokens, D hidden size,
    E embedding size, V vocabulary size, P positions.

    Args:
        vocab_size, hidden_size, max_position_embeddings: int. V, D, P.
        embedding_size: int. E, width of the word table; if it is not D, a matrix [E, D] without
            bias follows (Lan et al. 2020, arXiv:1909.11942, section 3.1). The position and
            segment tables have width D, as in the original Cerebras model; see `projects_sum`.
        use_position_embedding, use_segment_embedding: bool. Whether there is such a table.
        position_embedding_type: "learned", or "fixed": see `positions.sinusoids`.
        use_layer_norm: bool. False before a pre-norm encoder, which normalises later.
        use_norm_bias: bool, as `use_beta` of LayerNorm.
        layer_norm_epsilon: float > 0, added to the variance.
        dropout_rate: float in [0, 1). Applied to the sum.
        initializer, word_initializer, projection_initializer: Keras initializers, of the position
            and segment tables, the word table and the matrix.
        clock: DropoutClock.
        first_position: int. The row of the position table that position 0 takes.
        num_segments: int. Rows of the segment table; with one, every token takes it.
        projects_sum: bool. All tables have width E, and the matrix, with a bias, is applied to
            their normalised sum, after dropout: ELECTRA, and ALBERT's program.
    Call:
        input_ids: <int32>[B, T] in [0, V).
        segment_ids: <int32>[B, T], 0 or 1; not read where the segment table has one row.
        positions: <int32>[B, T] in [0, P - first_position), of each token in its row; None: 0, 1,
            ..., T - 1.
    Returns:
        <float>[B, T, D] in the compute dtype.
    """

    def __init__(
        self,
        vocab_size,
        hidden_size,
        max_position_embeddings,
        embedding_size,
        use_position_embedding,
        use_segment_embedding,
        position_embedding_type,
        use_layer_norm,
        layer_norm_epsilon,
        dropout_rate,
        initializer,
        word_initializer,
        projection_initializer,
        clock,
        first_position=0,
        num_segments=NUM_SEGMENTS,
        projects_sum=False,
        use_norm_bias=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.max_position_embeddings = max_position_embeddings
        self.use_position_embedding = use_position_embedding
        self.use_segment_embedding = use_segment_embedding
        self.position_embedding_type = position_embedding_type
        self.first_position, self.num_segments = first_position, num_segments
        self.projects_sum = projects_sum
        self.initializer = initializer
        self.word_initializer = word_initializer
        self.embedding_size = embedding_size
        self.shared = None  # the SharedTable, inside `share_table` of `kernels/vocabulary.py`
        self.projection = None
        if embedding_size != hidden_size:
            self.projection = keras.layers.Dense(
                hidden_size,
                use_bias=projects_sum,
                kernel_initializer=projection_initializer,
                dtype=self.dtype_policy,
                name="projection",
            )
        self.layer_norm = None
        if use_layer_norm:
            self.layer_norm = LayerNorm(
                layer_norm_epsilon, use_norm_bias, dtype=self.dtype_policy, name="layer_norm"
            )
        self.dropout = Dropout(dropout_rate, clock, dtype=self.dtype_policy)

    def _add_table(self, name, num_rows, size, initializer):
        # autocast=False: rows are cast after the look-up. Casting the table first would copy all V
        # rows at every step in mixed precision and make its gradient dense.
        shape = num_rows, size
        return self.add_weight(shape, initializer, autocast=False, name=name)

    def build(self, ids_shape):
        positions, size = self.max_position_embeddings, self.hidden_size
        size = self.embedding_size if self.projects_sum else size  # of the sum
        self.word_embeddings = self._add_table(
            "word_embeddings", self.vocab_size, self.embedding_size, self.word_initializer
        )
        if self.use_position_embedding and self.position_embedding_type == "learned":
            self.position_embeddings = self._add_table(
                "position_embeddings", positions, size, self.initializer
            )
        elif self.use_position_embedding:
            self.position_embeddings = sinusoids(positions, size)
        if self.use_segment_embedding:
            self.segment_embeddings = self._add_table(
                "segment_embeddings", self.num_segments, size, self.initializer
            )
        if self.projection is not None:
            self.projection.build((*ids_shape, self.embedding_size))
        if self.layer_norm is not None:
            self.layer_norm.build((*ids_shape, size))

    def call(self, input_ids, segment_ids, positions=None, training=False):
        if self.shared is None:
            x = ops.take(self.word_embeddings, input_ids, axis=0)  # [B, T, E]
        else:
            x = self.shared.look_up(input_ids)
        if self.projection is not None and not self.projects_sum:
            x = ops.cast(self.projection(x), x.dtype)  # [B, T, D]
        if self.use_position_embedding:
            table = ops.convert_to_tensor(self.position_embeddings)
            table = table[self.first_position :] if self.first_position else table
            if positions is None:
                x = x + table[: ops.shape(input_ids)[1]]  # [T, D] for every row
            else:
                # The padding behind the last of packed rows may lie beyond the table.
                last = self.max_position_embeddings - self.first_position - 1
                x = x + ops.take(table, ops.minimum(positions, last), axis=0)
        if self.use_segment_embedding and self.num_segments == 1:
            x = x + ops.convert_to_tensor(self.segment_embeddings)[0]
        elif self.use_segment_embedding:
            x = x + ops.take(self.segment_embeddings, segment_ids, axis=0)
        x = ops.cast(x, self.compute_dtype)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        x = self.dropout(x, training=training)
        if self.projection is not None and self.projects_sum:
            x = self.projection(x)  # [B, T, D]
        return x
