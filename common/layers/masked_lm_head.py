# SPDX-License-Identifier: Apache-2.0
"""The head that predicts masked words."""

import keras
from keras import ops

from common.layers.dense import Dense
from common.layers.layer_norm import LayerNorm


class MaskedLmHead(keras.layers.Layer):
    """Dense, activation, layer norm, and the product with a table of all words.

    Devlin et al. 2019, section 3.1, task 1, and `get_masked_lm_output` of google-research/bert's
    run_pretraining.py. Shapes: N tokens to predict, D hidden size, E embedding size, V vocabulary
    size. With factorised embeddings (E is not D) a matrix [D, E] without bias comes first, as in
    the original Cerebras model.

    Args:
        hidden_size, embedding_size, vocab_size: int. D, E, V.
        activation: Activation.
        layer_norm_epsilon: float > 0.
        initializer: Keras initializer of the kernels.
        has_own_table: bool. The table is a weight of this layer, `output_embeddings` <float>[V, E];
            else the caller gives that of the word embeddings.
        use_bias, use_output_bias: bool. A bias of the dense layer; one for each word.
        use_norm_bias: bool, as `use_beta` of LayerNorm.
        has_projection: bool. With E other than D there is that matrix; else the dense layer leads
            from D to E, as in ELECTRA and ALBERT's program.
    Call:
        x: <float>[N, D].
        table: <float32>[V, E]; not read where the layer has its own.
    Returns:
        logits, <float32>[N, V].
    """

    def __init__(
        self,
        hidden_size,
        embedding_size,
        vocab_size,
        activation,
        layer_norm_epsilon,
        initializer,
        has_own_table=False,
        use_bias=True,
        use_output_bias=True,
        has_projection=True,
        use_norm_bias=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.sizes = hidden_size, embedding_size, vocab_size
        self.initializer, self.activation = initializer, activation
        self.has_own_table, self.use_output_bias = has_own_table, use_output_bias
        policy = self.dtype_policy
        self.projection = None
        if has_projection and embedding_size != hidden_size:
            self.projection = Dense(
                embedding_size, False, initializer, dtype=policy, name="projection"
            )
        self.transform = Dense(
            embedding_size, use_bias, initializer, dtype=policy, name="transform"
        )
        self.layer_norm = LayerNorm(
            layer_norm_epsilon, use_norm_bias, dtype=policy, name="layer_norm"
        )

    def all_dense(self):  # not a property: Keras would save its layers under that name
        return [self.transform] if self.projection is None else [self.projection, self.transform]

    def build(self, x_shape=None):
        hidden_size, size, vocab_size = self.sizes
        inputs = hidden_size
        for dense in self.all_dense():
            dense.build((None, inputs))
            inputs = size
        self.layer_norm.build((None, size))
        if self.has_own_table:
            self.output_embeddings = self.add_weight(
                (vocab_size, size), self.initializer, autocast=False, name="output_embeddings"
            )
        self.output_bias = None
        if self.use_output_bias:
            self.output_bias = self.add_weight(
                (vocab_size,), "zeros", autocast=False, name="output_bias"
            )

    def vectors(self, x):
        """<float>[N, D] -> <float>[N, E], what the table is multiplied by."""
        if self.projection is not None:
            x = self.projection.product(x)  # [N, E]
        x = self.activation(self.transform.product(x), self.transform.bias_tensor)  # [N, E]
        return self.layer_norm(x)

    def call(self, x, table):
        x = self.vectors(x)
        table = self.output_embeddings if self.has_own_table else table
        table = ops.cast(table, self.compute_dtype)
        logits = ops.cast(ops.matmul(x, ops.transpose(table)), "float32")  # [N, V]
        return logits if self.output_bias is None else logits + self.output_bias
