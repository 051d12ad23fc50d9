# SPDX-License-Identifier: Apache-2.0
"""Input functions: params -> batches of the documented features (see `input/batches.py`)."""

from pathlib import Path

import tensorflow as tf

from common.errors import UserError
from input.batches import make_batches, row_lengths
from input.epoch_plan import EpochPlan, choose_bucket_lengths
from input.processors import TextDataset
from input.token_cache import load_tokens, tokenize_rows
from input.tokenizer import WordPieceTokenizer

DEFAULT_CACHE_DIR = Path("~/.cache/bert_classifier")


def get_tokenizer(cfg):
    """Returns the WordPieceTokenizer of InputParams `cfg`, whose vocab_file is known by now."""
    tokenizer = WordPieceTokenizer.from_vocab_file(cfg.vocab_file, do_lower=cfg.do_lower)
    if cfg.vocab_size is not None and cfg.vocab_size != tokenizer.vocab_size:
        raise UserError(
            f"vocab_size is {cfg.vocab_size}, but {cfg.vocab_file} has {tokenizer.vocab_size} "
            "lines; leave vocab_size out, or give the file it was meant for"
        )
    return tokenizer


def _load(cfg, split):
    dataset, tokenizer = TextDataset(cfg), get_tokenizer(cfg)
    cache_dir = Path(cfg.cache_dir or DEFAULT_CACHE_DIR).expanduser()
    tokens = load_tokens(dataset, split, tokenizer, cache_dir)
    num_classes = len(dataset.label_names)
    wrong = [n for n, label in enumerate(tokens.labels) if not 0 <= label < num_classes]
    if wrong:
        raise UserError(
            f"row {wrong[0]} of {dataset.processor.dataset}, split {split}, has label "
            f"{tokens.labels[wrong[0]]} ({len(wrong)} such rows); labels go from 0 to "
            f"{num_classes - 1}. A split without labels cannot be trained on or scored."
        )
    return tokens, tokenizer


def _plan(cfg, tokens, seed):
    lengths = row_lengths(tokens, cfg.max_sequence_length)
    buckets = [cfg.max_sequence_length]
    if cfg.packing == "buckets":
        buckets = choose_bucket_lengths(lengths, cfg.num_buckets)
    return EpochPlan(lengths, cfg.batch_size, buckets, cfg.shuffle, seed)


def train_input_fn(params, first_step, last_step):
    """Returns the Batches of the training steps first_step <= step < last_step.

    The order of rows is a function of (seed, epoch); the step says where in it to begin.
    """
    cfg = params.train_input
    split = TextDataset(cfg).processor.train_split
    tokens, tokenizer = _load(cfg, split)
    if len(tokens) < cfg.batch_size:
        raise UserError(
            f"train_input.batch_size is {cfg.batch_size}, but split {split} has only "
            f"{len(tokens)} rows; choose a batch size of at most that"
        )
    rows, lengths = _plan(cfg, tokens, params.shuffle_seed or 0).steps(first_step, last_step)
    return make_batches(
        tokens, tokenizer, rows, lengths, cfg.max_sequence_length, with_weights=False
    )


def _one_pass(cfg, splits):
    batches = {}
    for split in splits:
        tokens, tokenizer = _load(cfg, split)
        rows, lengths = _plan(cfg, tokens, seed=0).epoch(0, drop_remainder=False)
        batches[split] = make_batches(
            tokens, tokenizer, rows, lengths, cfg.max_sequence_length, with_weights=True
        )
    return batches


def eval_input_fn(params):
    """Returns {split: Batches} of the evaluation splits; every row stands in exactly one batch."""
    cfg = params.eval_input
    return _one_pass(cfg, TextDataset(cfg).processor.eval_splits)


def predict_input_fn(params, texts=()):
    """Returns what to predict, and its texts.

    Args:
        params: complete Params; `predict_input` is read.
        texts: list of tuples of one or two str, given by the user; empty: the evaluation splits.
    Returns:
        {split: Batches}; {split: list of tuples of str}, in row order.
    """
    cfg = params.predict_input
    if not texts:
        dataset = TextDataset(cfg)
        rows = {split: dataset.read_texts(split) for split in dataset.processor.eval_splits}
        return _one_pass(cfg, dataset.processor.eval_splits), rows
    tokenizer = get_tokenizer(cfg)
    rows = tf.data.Dataset.from_tensor_slices(([list(row) for row in texts], [0] * len(texts)))
    tokens = tokenize_rows(rows, tokenizer, len(texts[0]))
    plan = _plan(cfg, tokens, seed=0)
    batches = make_batches(
        tokens,
        tokenizer,
        *plan.epoch(0, drop_remainder=False),
        cfg.max_sequence_length,
        with_weights=True,
    )
    return {"texts": batches}, {"texts": list(texts)}


def read_texts(texts, input_file):
    """Returns the texts of --text and of the lines of --input_file: tuples of one or two str.

    A tab separates the two texts of a pair. Empty lines of a file are left out.

    Raises:
        UserError: the file cannot be read, or some rows are pairs and some are not.
    """
    rows = list(texts)
    if input_file is not None:
        try:
            lines = Path(input_file).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--input_file {input_file} cannot be read: {error}") from None
        rows += [line for line in lines if line.strip()]
        if not rows:
            raise UserError(f"--input_file {input_file} holds no text; write one a line")
    rows = [tuple(row.split("\t")) for row in rows]
    for row in rows:
        if len(row) != len(rows[0]) or len(row) > 2:
            raise UserError(
                f"{' | '.join(row)!r} has {len(row)} texts where the first row has "
                f"{len(rows[0])}; give one text a row, or pairs with one tab between them"
            )
    return rows


def complete_params(params, checkpoint_config, params_path, labels_from_checkpoint=False):
    """Fills in what the params leave to the checkpoint and to the data.

    Args:
        params: Params as read.
        checkpoint_config: dict of `Checkpoint.config`, empty where there is none.
        params_path: str, for messages.
        labels_from_checkpoint: bool. True where no data set is needed: texts to predict.
    Returns:
        complete Params; label names, tuple of str; the vocabulary, list of str.
    """
    params = params.with_vocab_file(checkpoint_config.get("vocab_file"))
    cfg = params.predict_input
    vocab = get_tokenizer(cfg).vocab
    label_names = tuple(checkpoint_config.get("label_names", ()))
    if not (labels_from_checkpoint and label_names):
        label_names = TextDataset(cfg).label_names
    known = {"num_cls_classes": len(label_names), "vocab_size": len(vocab)}
    return params.complete(checkpoint_config, known, params_path), label_names, vocab
