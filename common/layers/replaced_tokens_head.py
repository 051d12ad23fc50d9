# SPDX-License-Identifier: Apache-2.0
"""The head that tells which tokens another word has replaced."""

import keras


class ReplacedTokensHead(keras.layers.Layer):
    """Dense, activation, dense(1) on every token.

    Clark et al. 2020, section 2, and `_get_discriminator_output` of google-research/electra's
    run_pretraining.py. Shapes: R rows of T tokens, D hidden size.

    Args:
        hidden_size: int. D.
        activation: callable on <float>[..., D].
        initializer: Keras initializer of the kernels.
    Call:
        x: <float>[R, T, D].
    Returns:
        logits, <float32>[R, T]: above 0 where a token is more likely another one's replacement.
    """

    def __init__(self, hidden_size, activation, initializer, **kwargs):
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.transform = keras.layers.Dense(
            hidden_size,
            activation,
            kernel_initializer=initializer,
            dtype=self.dtype_policy,
            name="transform",
        )
        # float32 under every policy: logits feed a sigmoid. An attribute `output` is Keras' own.
        self.last = keras.layers.Dense(
            1, kernel_initializer=initializer, dtype="float32", name="output"
        )

    def build(self, x_shape=None):
        self.transform.build((None, None, self.hidden_size))
        self.last.build((None, None, self.hidden_size))

    def call(self, x):
        return self.last(self.transform(x))[:, :, 0]
