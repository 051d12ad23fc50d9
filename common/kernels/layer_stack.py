# SPDX-License-Identifier: Apache-2.0
"""What is put around the layers of an encoder: the same results in less time or memory.

`layers/encoder.py` states what is computed, layer by layer. `LayerStack.around` replaces its layers
by functions that compute a batch in streams, share each kernel between them, recompute a layer in
the backward pass, or compute the last layer for the tokens alone that a head reads.
"""

import contextlib
from functools import partial

import keras
from keras import ops

from common.kernels.needed_tokens import ALL_TOKENS, FIRST_TOKEN, tokens_at
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
        self.record = None  # the Record, inside `recorded` of `record.py`

    def around(
        self,
        layers,
        x,
        attention_mask,
        packed=None,
        needed=ALL_TOKENS,
        needs_gradient=True,
        training=False,
    ):
        """Returns functions to call in place of the layers, and the arguments of the first.

        Args:
            layers: list of EncoderLayer, in which the same one may stand several times.
            x, attention_mask, training: as of Encoder.
            packed: PackedRows where several rows share each row of x, or None.
            needed: of `needed_tokens.py`. The last layer is computed for these tokens only; for
                first tokens that saves a seventh of all products with 6 layers.
            needs_gradient: bool. Something that x comes from is trained, or somebody may ask for
                its gradient. Else nothing is computed backwards below the first trained layer.
        Returns:
            functions (xs, masks, training) -> xs, where xs and masks are lists with one tensor for
            each stream; and the xs and masks of the first. The last function returns
            <float>[B, T, D]; with FIRST_TOKEN [B, 1, D], of B packed rows too; with SomeTokens
            [1, N, D], what `SomeTokens.split` takes.
        """
        xs, masks = [x], [attention_mask]
        if training:
            xs, masks = (self._split(tensor) for tensor in (x, attention_mask))
        inputs = [x]  # of the layers so far, in the first stream
        functions = []
        for i, layer in enumerate(layers):
            depth = layers[:i].count(layer)
            functions.append(partial(self._run, layer, depth, inputs, needs_gradient))
            needs_gradient = needs_gradient or layer.trainable
        run_last = functions.pop()

        def run_last_and_join(xs, masks, training):
            if needed is ALL_TOKENS:
                x = _join(run_last(xs, masks, training))
            elif needed is not FIRST_TOKEN:
                x = self._some_tokens(run_last, xs, masks, training, needed, packed)
            elif packed is None:
                x = _join(run_last(xs, masks, training, select=_first_token))
            else:
                x = ops.swapaxes(_packed_first_tokens(run_last, xs, training, packed), 0, 1)
            return x if needs_gradient else ops.stop_gradient(x)

        return [*functions, run_last_and_join], xs, masks

    def _some_tokens(self, run_last, xs, masks, training, needed, packed):
        """Returns <float>[1, N, D]: the first tokens of B rows, if needed, then those of each row
        of xs at its positions."""
        positions = self._split(needed.positions) if training else [needed.positions]
        if packed is not None:
            masks = [tokens_at(mask, each) for mask, each in zip(masks, positions, strict=True)]
        elif needed.with_first:
            positions = [ops.pad(each, [[0, 0], [1, 0]]) for each in positions]
        select = [partial(tokens_at, positions=each) for each in positions]
        x = _join(run_last(xs, masks, training, select=select))  # [R, P, D], or [B, 1 + P, D]
        first = None
        if needed.with_first and packed is None:
            first, x = x[:, 0][None], x[:, 1:]
        elif needed.with_first:
            first = _packed_first_tokens(run_last, xs, training, packed)
        x = ops.reshape(x, (1, -1, x.shape[-1]))
        return x if first is None else ops.concatenate([first, x], axis=1)

    def _run(self, layer, depth, inputs, needs_gradient, xs, masks, training, select=None):
        """Runs a layer on every stream. depth: how often it runs before; needs_gradient: whether xs
        do; select: as of EncoderLayer, or a list with one for each stream."""
        is_recomputed = self.recompute and training and (needs_gradient or layer.trainable)
        after = inputs[-1]  # what went into the layer before
        inputs.append(xs[0])
        ys, selects = [], select if isinstance(select, list) else [select] * len(xs)
        with (
            share_kernels(layer.all_dense(), len(xs), after)
            if training and not is_recomputed
            else contextlib.nullcontext()
        ):
            for x, mask, rows, each in zip(xs, masks, _rows_of(xs), selects, strict=True):
                run = partial(self._run_stream, layer, depth, mask, rows, each, training)
                x = x if needs_gradient else ops.stop_gradient(x)
                ys.append((keras.remat(run) if is_recomputed else run)(x))
        return ys

    def _run_stream(self, layer, depth, mask, rows, select, training, x):
        self.clock.rows, self.clock.depth = rows, depth
        try:
            y = layer(x, mask, select=select, training=training)
            if self.record is not None:
                self.record.add_layer(x, mask, y)
            return y
        finally:
            self.clock.rows, self.clock.depth = None, 0

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


def _packed_first_tokens(run_last, xs, training, packed):
    """<float>[1, B, D], the first token of every packed row.

    As one row of all tokens: with so few queries, masked attention over the tokens of all rows is
    cheaper than gathering the keys and values of each row.
    """
    xs, masks = [packed.as_one_row(_join(xs))], [packed.first_tokens_mask()]
    (x,) = run_last(xs, masks, training, select=packed.first_tokens)
    return x


def _first_token(x):
    """<float>[B, T, D] -> <float>[B, 1, D]."""
    return x[:, :1]
