# SPDX-License-Identifier: Apache-2.0
"""What is put around the layers of an encoder: the same results in less time or memory.

`layers/encoder.py` states what is computed, layer by layer. `LayerStack.around` replaces its layers
by functions that compute a batch in streams, share each kernel between them, recompute a layer in
the backward pass, or compute the last layer for first tokens only.
"""

import contextlib
from functools import partial

import keras
from keras import ops

from common.kernels.shared_kernels import share_kernels


class LayerStack:
    """How the layers of one network run.

    Args:
        clock: DropoutClock of the layers.
        num_streams: int. In training the rows of a batch are divided into this many parts, which
            depend on each other only through the weights, so that TensorFlow computes them side by
            side, each on one core. Two cores on one product wait for each other.
        recompute: bool. Keep only the input of each layer for the backward pass, which then
            computes the layer again (Chen et al. 2016, arXiv:1604.06174): memory for time.
            Dropout draws the same masks again, as they depend on (seed, layer, step) alone.
    """

    def __init__(self, clock, num_streams=1, recompute=False):
        self.clock = clock
        self.num_streams = num_streams
        self.recompute = recompute

    def around(
        self,
        layers,
        x,
        attention_mask,
        packed=None,
        first_token_only=False,
        needs_gradient=True,
        training=False,
    ):
        """Returns functions to call in place of the layers, and the arguments of the first.

        Args:
            layers: list of EncoderLayer.
            x, attention_mask, training: as of Encoder.
            packed: PackedRows where several rows share each row of x, or None.
            first_token_only: bool. Compute the last layer for the first token of every row only,
                which saves a seventh of all products with 6 layers.
            needs_gradient: bool. Something that x comes from is trained. Where it is not, nothing
                is computed backwards below the first layer that is trained.
        Returns:
            functions (xs, masks, training) -> xs, where xs and masks are lists with one tensor for
            each stream; and the xs and masks of the first. The last function returns
            <float>[B, T, D], or with first_token_only [B, 1, D], of B packed rows too.
        """
        xs, masks = [x], [attention_mask]
        if training:
            xs, masks = (self._split(tensor) for tensor in (x, attention_mask))
        inputs = [x]  # of the layers so far, in the first stream
        functions = []
        for layer in layers:
            functions.append(partial(self._run, layer, inputs, needs_gradient))
            needs_gradient = needs_gradient or layer.trainable
        run_last = functions.pop()

        def run_last_and_join(xs, masks, training):
            if not first_token_only:
                x = _join(run_last(xs, masks, training))
            elif packed is None:
                x = _join(run_last(xs, masks, training, select=_first_token))
            else:
                # As one row of all tokens: with so few queries, masked attention over the tokens of
                # all rows is cheaper than gathering the keys and values of each row.
                xs, masks = [packed.as_one_row(_join(xs))], [packed.first_tokens_mask()]
                (x,) = run_last(xs, masks, training, select=packed.first_tokens)
                x = ops.swapaxes(x, 0, 1)  # [B, 1, D]
            return x if needs_gradient else ops.stop_gradient(x)

        return [*functions, run_last_and_join], xs, masks

    def _run(self, layer, inputs, needs_gradient, xs, masks, training, select=None):
        """Runs a layer on every stream. needs_gradient: whether xs do."""
        is_recomputed = self.recompute and training and (needs_gradient or layer.trainable)
        after = inputs[-1]  # what went into the layer before
        inputs.append(xs[0])
        ys = []
        with (
            share_kernels(layer.all_dense(), len(xs), after)
            if training and not is_recomputed
            else contextlib.nullcontext()
        ):
            for x, mask, rows in zip(xs, masks, _rows_of(xs), strict=True):
                run = partial(self._run_stream, layer, mask, rows, select, training)
                x = x if needs_gradient else ops.stop_gradient(x)
                ys.append((keras.remat(run) if is_recomputed else run)(x))
        return ys

    def _run_stream(self, layer, mask, rows, select, training, x):
        self.clock.rows = rows
        try:
            return layer(x, mask, select=select, training=training)
        finally:
            self.clock.rows = None

    def _split(self, tensor):
        """Returns parts of a tensor whose numbers of rows differ by at most one."""
        total = tensor.shape[0]
        firsts = sorted({total * i // self.num_streams for i in range(self.num_streams)})
        return [tensor] if len(firsts) == 1 else ops.split(tensor, firsts[1:], axis=0)


def _rows_of(xs):
    """Returns the `rows` of DropoutClock for each stream: (first, total), None for the only one."""
    if len(xs) == 1:
        return [None]
    sizes = [x.shape[0] for x in xs]
    return [(sum(sizes[:i]), sum(sizes)) for i in range(len(sizes))]


def _join(xs):
    """[<float>[B', K, D]] -> <float>[B, K, D]."""
    return xs[0] if len(xs) == 1 else ops.concatenate(xs)


def _first_token(x):
    """<float>[B, T, D] -> <float>[B, 1, D]."""
    return x[:, :1]
