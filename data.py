# SPDX-License-Identifier: Apache-2.0
"""Input functions: params -> batches of the documented features (see `input/batches.py`)."""

import functools
from pathlib import Path

import numpy as np
import tensorflow as tf

from common.errors import UserError
from input.batches import make_batches, row_lengths
from input.epoch_plan import EpochPlan, choose_bucket_lengths
from input.features import TextFeatures
from input.processors import TextDataset, get_processor
from input.token_cache import load_tokens, tokenize_rows
from input.tokenizer import WordPieceTokenizer

DEFAULT_CACHE_DIR = Path("~/.cache/bert_classifier")

# Building one takes 0.3 s, and every part of a run asks for the same.
_read_tokenizer = functools.lru_cache(maxsize=2)(WordPieceTokenizer.from_vocab_file)


def get_tokenizer(cfg):
    """Returns the WordPieceTokenizer of InputParams `cfg`, whose vocab_file is known by now."""
    tokenizer = _read_tokenizer(cfg.vocab_file, cfg.do_lower)
    if cfg.vocab_size is not None and cfg.vocab_size != tokenizer.vocab_size:
        raise UserError(
            f"vocab_size is {cfg.vocab_size}, but {cfg.vocab_file} has {tokenizer.vocab_size} "
            "lines; leave vocab_size out, or give the file it was meant for"
        )
    return tokenizer


def _load(cfg, dataset, split):
    cache_dir = Path(cfg.cache_dir or DEFAULT_CACHE_DIR).expanduser()
    try:
        return load_tokens(dataset, split, get_tokenizer(cfg), cache_dir)
    except tf.errors.OpError as error:
        raise UserError(
            f"split {split} of {dataset} cannot be read: {error.message.splitlines()[0]}. "
            "Copy it there again; or delete the folder, and it is prepared anew"
        ) from error


def _check_labels(tokens, dataset, split):
    num_classes = len(dataset.label_names)
    wrong = np.flatnonzero((tokens.labels < 0) | (tokens.labels >= num_classes))
    if len(wrong):
        raise UserError(
            f"row {wrong[0]} of split {split} of {dataset} has label {tokens.labels[wrong[0]]} "
            f"({len(wrong)} such rows); labels go from 0 to {num_classes - 1}. A split without "
            "labels cannot be trained on or scored."
        )


def _plan(cfg, tokens, seed):
    lengths = row_lengths(tokens, cfg.max_sequence_length)
    buckets = [cfg.max_sequence_length]
    if cfg.packing == "buckets":
        buckets = choose_bucket_lengths(lengths, cfg.num_buckets)
    batch_size = min(cfg.batch_size, len(tokens))  # a few texts to predict need no filling
    return EpochPlan(lengths, batch_size, buckets, cfg.shuffle, seed)


def _every_row_once(cfg, tokens):
    rows, lengths = _plan(cfg, tokens, seed=0).epoch(0, drop_remainder=False)
    return make_batches(
        tokens, get_tokenizer(cfg), rows, lengths, cfg.max_sequence_length, with_weights=True
    )


def train_input_fn(params, first_step, last_step):
    """Returns the Batches of the training steps first_step <= step < last_step.

    The order of rows is a function of (seed, epoch); the step says where in it to begin.
    """
    cfg = params.train_input
    dataset = TextDataset(cfg)
    split = dataset.processor.train_split
    tokens = _load(cfg, dataset, split)
    _check_labels(tokens, dataset, split)
    if len(tokens) < cfg.batch_size:
        raise UserError(
            f"train_input.batch_size is {cfg.batch_size}, but split {split} of {dataset} has only "
            f"{len(tokens)} rows; choose a batch size of at most that"
        )
    rows, lengths = _plan(cfg, tokens, params.shuffle_seed or 0).steps(first_step, last_step)
    return make_batches(
        tokens, get_tokenizer(cfg), rows, lengths, cfg.max_sequence_length, with_weights=False
    )


def eval_input_fn(params):
    """Returns {split: Batches} of the evaluation splits; every row stands in exactly one batch."""
    cfg = params.eval_input
    dataset = TextDataset(cfg)
    batches = {}
    for split in dataset.processor.eval_splits:
        tokens = _load(cfg, dataset, split)
        _check_labels(tokens, dataset, split)
        batches[split] = _every_row_once(cfg, tokens)
    return batches


def predict_input_fn(params, texts=()):
    """Returns what to predict, and its texts.

    Args:
        params: complete Params; `predict_input` is read.
        texts: list of tuples of str, given by the user, of as many texts as a row of the
            data_processor has; empty: the evaluation splits, which need no labels here.
    Returns:
        {split: Batches}; {split: list of tuples of str}, in row order.
    Raises:
        UserError: pairs are given to a model of single sentences, or the other way round.
    """
    cfg = params.predict_input
    if not texts:
        dataset = TextDataset(cfg)
        splits = dataset.processor.eval_splits
        batches = {split: _every_row_once(cfg, _load(cfg, dataset, split)) for split in splits}
        return batches, {split: dataset.read_texts(split) for split in splits}
    _check_texts(cfg, texts)
    with tf.device("/cpu:0"):
        no_labels = [0] * len(texts)
        rows = tf.data.Dataset.from_tensor_slices(([list(row) for row in texts], no_labels))
        tokens = tokenize_rows(rows, get_tokenizer(cfg), len(texts[0]))
    return {"texts": _every_row_once(cfg, tokens)}, {"texts": list(texts)}


def _check_texts(cfg, texts):
    """Raises UserError where the texts are not what the data_processor's rows are."""
    keys = get_processor(cfg).text_keys
    if len(texts[0]) != len(keys):
        given = "a single text" if len(texts[0]) == 1 else "a pair of texts (with a tab in it)"
        wanted = (
            f"single texts ({keys[0]}); leave out the tab"
            if len(keys) == 1
            else f"pairs ({', '.join(keys)}); put a tab between the two, in a shell as "
            f"--text $'{keys[0]}\\t{keys[1]}'"
        )
        raise UserError(f"{texts[0][0]!r} is {given}, but {cfg.data_processor} takes {wanted}")


def get_text_features(params):
    """Returns the TextFeatures of complete Params: texts to features as one graph, for exports."""
    cfg = params.predict_input
    texts_per_row = len(get_processor(cfg).text_keys)
    return TextFeatures(get_tokenizer(cfg), texts_per_row, cfg.max_sequence_length)


def read_texts(texts, input_file):
    """Returns the texts of --text and of the lines of --input_file: tuples of one or two str.

    A tab separates the two texts of a pair. Empty lines of a file are left out.

    Raises:
        UserError: the file cannot be read, a text is not UTF-8, or some rows are pairs and some
            are not.
    """
    rows = list(texts)
    for text in texts:
        if text != text.encode("utf-8", "ignore").decode("utf-8"):  # from bytes of another encoding
            raise UserError(f"--text {text!a} is not UTF-8; set the terminal's encoding to it")
    if input_file is not None:
        try:
            content = Path(input_file).read_bytes().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--input_file {input_file} cannot be read: {error}") from None
        lines = [line.removesuffix("\r") for line in content.split("\n") if line.strip()]
        if not lines:
            raise UserError(f"--input_file {input_file} holds no text; write one a line")
        rows += lines
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
    _check_tokenizers(params, checkpoint_config)
    vocab = get_tokenizer(cfg).vocab
    label_names = tuple(checkpoint_config.get("label_names", ()))
    if not (labels_from_checkpoint and label_names):
        label_names = TextDataset(cfg).label_names
    known = {"num_cls_classes": len(label_names), "vocab_size": len(vocab)}
    return params.complete(checkpoint_config, known, params_path), label_names, vocab


def _check_tokenizers(params, checkpoint_config):
    """Raises UserError where two inputs, or the checkpoint, mean different ids for a text."""
    wanted = get_tokenizer(params.predict_input).fingerprint
    for name in ("train_input", "eval_input"):
        cfg = getattr(params, name)
        if cfg is not None and get_tokenizer(cfg).fingerprint != wanted:
            raise UserError(
                f"{name} cuts text into other tokens than predict_input: {cfg.vocab_file} with "
                f"do_lower {cfg.do_lower}, {params.predict_input.vocab_file} with do_lower "
                f"{params.predict_input.do_lower}; give every input the same"
            )
    do_lower = checkpoint_config.get("do_lower_case")
    if do_lower is not None and do_lower != params.predict_input.do_lower:
        raise UserError(
            f"do_lower is {str(params.predict_input.do_lower).lower()}, but the vocabulary of "
            f"{checkpoint_config.get('path', 'the checkpoint')} has do_lower_case "
            f"{str(do_lower).lower()}; write do_lower: {str(do_lower).lower()}"
        )
