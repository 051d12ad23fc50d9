# SPDX-License-Identifier: Apache-2.0
"""How long rows are, and what each max_sequence_length would cut and cost.

The cost is counted in the multiplications of a pass over the training rows, of the batches that
training makes. So it has the packing, the padding, and attention, which grows with the square of a
row's tokens.
"""

import numpy as np

from common.params.words import ANSWERING
from input.batches import row_lengths
from input.row_batches import shapes_of_epoch

MULTIPLE = 8  # of suggested lengths: what matrix products have no remainder at
MAX_CUT = 0.01  # the share of rows that the suggested length may cut
LONGEST = 512  # positions of nearly every BERT, where no checkpoint says how many it has
QUANTILES = (0.5, 0.9, 0.95, 0.99)
TRIED = (0.9, 0.95, 0.99, 0.999, 1.0)  # shares of rows that are whole, to compare
NUM_BARS = 40  # of a histogram, at most


def whole_lengths(tokens, layout):
    """Returns the tokens of each row with its special tokens, before it is cut: int [N]."""
    num_special = layout.num_special_tokens(tokens.texts_per_row)
    return np.maximum(tokens.lengths.sum(axis=1) + num_special, 1)


def describe_lengths(lengths):
    """Returns the figures of lengths: a dict for JSON."""
    width = max(1, -(-int(lengths.max()) // NUM_BARS))
    counts = np.bincount(lengths // width)
    quantiles = np.quantile(lengths, QUANTILES, method="inverted_cdf").tolist()
    return {
        "least": int(lengths.min()),
        "most": int(lengths.max()),
        "mean": float(lengths.mean()),
        "quantiles": {f"{q:g}": int(v) for q, v in zip(QUANTILES, quantiles, strict=True)},
        "bar_width": width,
        "bars": counts.tolist(),  # rows of width * n to width * (n + 1) - 1 tokens
    }


def compare_lengths(params, splits, in_rows, layout, sizes):
    """Compares values of max_sequence_length.

    Args:
        params: Params. splits: {name: Tokens} of texts, those to train on under "train" if any.
        in_rows: (InputParams, Tokens) -> (Tokens, {}), which cuts texts of words into windows.
        layout: Layout.
        sizes: {"hidden_size", "num_hidden_layers", "filter_size", "max_position_embeddings"}: int
            of the network, or None where they are not known.
    Returns:
        dict for JSON: given, suggested, longest, and for each length what it cuts and costs.
    """
    cfg = params.train_input or params.eval_input
    lengths = {name: whole_lengths(tokens, layout) for name, tokens in splits.items()}
    longest = sizes.get("max_position_embeddings") or LONGEST
    suggested = min(max(_covering(each, 1 - MAX_CUT) for each in lengths.values()), longest)
    tried = {min(_covering(each, share), longest) for each in lengths.values() for share in TRIED}
    if cfg.task == ANSWERING:
        least = cfg.max_query_length + 3 + MULTIPLE  # a row has a question and some text
        tried, suggested = {max(each, least) for each in tried}, max(suggested, least)
    tried |= {cfg.max_sequence_length, suggested}
    rows = [
        _of_length(params, length, splits, lengths, in_rows, layout, sizes)
        for length in sorted(tried)
    ]
    given = next(row for row in rows if row["length"] == cfg.max_sequence_length)
    for row in rows:
        has_work = row["work"] is not None and given["work"]
        row["relative"] = row["work"] / given["work"] if has_work else None
    return {
        "given": cfg.max_sequence_length,
        "suggested": suggested,
        "longest": longest,
        "is_windowed": any(tokens.words is not None for tokens in splits.values()),
        "lengths": rows,
    }


def _covering(lengths, share):
    """Returns the least multiple of MULTIPLE that leaves this share of rows whole."""
    length = int(np.quantile(lengths, share, method="inverted_cdf"))
    return -(-max(length, 3) // MULTIPLE) * MULTIPLE


def _of_length(params, length, splits, lengths, in_rows, layout, sizes):
    """Returns what a max_sequence_length cuts and costs: dict for JSON."""
    cut = {name: int((each > length).sum()) for name, each in lengths.items()}
    row = {"length": length, "cut": cut, "lost": 0, "rows": 0, "work": None}
    for name, tokens in splits.items():
        cfg = params.train_input if name == "train" else params.eval_input
        cfg = (cfg or params.eval_input).model_copy(update={"max_sequence_length": length})
        of_length, _ = in_rows(cfg, tokens)
        if tokens.words is None:
            row["lost"] += int((lengths[name] - row_lengths(tokens, length, layout)).sum())
        row["rows"] += len(of_length)
        is_trained = name == "train" and params.train_input is not None
        if is_trained and sizes.get("hidden_size") and len(of_length) >= cfg.batch_size:
            model = params.model.model_copy(update={"hidden_size": sizes["hidden_size"]})
            of_input = params.model_copy(update={"train_input": cfg, "model": model})
            shapes = shapes_of_epoch(of_input, of_length, layout)
            row["work"] = work_of(shapes, sizes)
    return row


def work_of(shapes, sizes):
    """Returns the multiplications of training on batches of these shapes: float.

    A token takes 4 D^2 + 2 D F a layer, and in a row of T tokens 2 T D for attention; the backward
    pass takes twice as many as the forward pass.

    shapes: int [steps, 2]. sizes: as of `compare_lengths`.
    """
    rows, length = np.asarray(shapes, np.float64).T
    width, inner = sizes["hidden_size"], sizes.get("filter_size") or 4 * sizes["hidden_size"]
    of_token = 4 * width**2 + 2 * width * inner + 2 * length * width
    return float(3 * (sizes.get("num_hidden_layers") or 1) * (rows * length * of_token).sum())
