# SPDX-License-Identifier: Apache-2.0
"""Input functions: params -> batches of the documented features (see `input/batches.py`)."""

import functools
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from common.errors import UserError
from common.files import cache_dir, write_whole
from common.platform.machine import best_precision, gpus_of
from input.batches import make_batches, make_packed_batches, row_lengths
from input.epoch_plan import EpochPlan, choose_bucket_lengths
from input.features import Layout, TextFeatures
from input.packing import PackedPlan, num_products, pack_every_row
from input.sources.processors import get_processor, open_source
from input.token_cache import check_unchanged, load_tokens, tokenize_texts
from input.tokenizers.wordpiece import WordPieceTokenizer
from model import TASKS

MAX_LISTED = 10  # skipped rows in the log; the file has all

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


def get_source(cfg):
    """Returns the Source of InputParams `cfg`, with the targets of its task."""
    return open_source(cfg, TASKS[cfg.task].targets(cfg.label_names))


def get_layout(cfg):
    """Returns the Layout of InputParams `cfg`."""
    vocab_size = get_tokenizer(cfg).vocab_size
    if cfg.pad_id is not None and cfg.pad_id >= vocab_size:
        raise UserError(
            f"pad_id is {cfg.pad_id}, but {cfg.vocab_file} has the ids 0 to {vocab_size - 1}; "
            "leave pad_id out"
        )
    return Layout(cfg.add_special_tokens, cfg.invert_mask, cfg.pad_id)


def _load(params, cfg, source, split, is_training=False, needs_targets=True):
    """Returns the Tokens of the rows that are used, and which rows of the split they are: int [N].

    Raises:
        UserError: the data cannot be read; or rows have no target that counts, and they are neither
            to be skipped nor to be predicted.
    """
    tokens = _read_tokens(cfg, source, split)
    skipped, rows = list(tokens.skipped), np.arange(len(tokens))
    if needs_targets:
        faults = source.targets.faults(tokens.targets)
        if faults and (cfg.on_bad_row == "error" or len(faults) == len(tokens)):
            raise UserError(_about_targets(source, split, faults))
        rows = np.delete(rows, list(faults))
        skipped += [
            f"{source.place(split, row)}: {text} is outside" for row, text in faults.items()
        ]
    if skipped:
        _report_skipped(skipped, split, params.runconfig.model_dir)
    rows = np.sort(_chosen_rows(cfg, len(tokens), is_training, rows))
    if not len(rows):
        raise UserError(f"of the {len(tokens)} rows in split {split} of {source} none is left")
    return (tokens if len(rows) == len(tokens) else tokens.take(rows)), rows


def _read_tokens(cfg, source, split):
    try:
        return load_tokens(source, split, get_tokenizer(cfg), Path(cfg.cache_dir or cache_dir()))
    except tf.errors.OpError as error:
        raise UserError(
            "\n  ".join(
                [
                    f"split {split} of {source} cannot be read: {error.message.splitlines()[0]}",
                    *source.damages(split),
                ]
            )
            + "\nCopy it there again; or delete the folder, and it is prepared anew; or write "
            "on_bad_row: skip, which leaves such rows out"
        ) from error


def _about_targets(source, split, faults):
    """faults: of `Targets.faults`."""
    row, text = next(iter(faults.items()))
    return (
        f"row {row} of split {split} of {source} has {text} ({len(faults)} such rows, the first in "
        f"{source.place(split, row)}); labels {source.targets.accepted}. A split without labels "
        f"({source.processor.label_key}) cannot be trained on or scored; on_bad_row: skip leaves "
        "out rows without one."
    )


def _chosen_rows(cfg, num_rows, is_training, rows):
    """Returns which rows eval_fraction and max_*_samples leave.

    Both draw from one order of all rows, which depends on their number alone: training and
    evaluation agree on it, whatever the seed of the run, and fewer samples are among the more.

    Args:
        cfg: InputParams.
        num_rows: int. All rows of the split.
        is_training: bool.
        rows: int [<= num_rows]. Those that can be used.
    Returns:
        int [<= len(rows)].
    """
    order = np.random.Generator(np.random.Philox(key=[0, 0])).permutation(num_rows)
    if cfg.eval_fraction is not None:
        num_held_out = min(max(round(cfg.eval_fraction * num_rows), 1), num_rows - 1)
        order = order[num_held_out:] if is_training else order[:num_held_out]
    order = order[np.isin(order, rows)]
    most = cfg.max_train_samples if is_training else cfg.max_eval_samples
    return order[:most]


def _report_skipped(sentences, split, model_dir):
    """Lists the rows that are left out: the first in the log, all in a file of model_dir."""
    listed = [f"  {sentence}" for sentence in sentences[:MAX_LISTED]]
    where = ""
    if model_dir is not None:
        path = Path(model_dir) / f"skipped_rows_{split}.txt"
        write_whole(path, "\n".join(sentences) + "\n")
        where = f"; all are in {path}" if len(sentences) > MAX_LISTED else f"; see {path}"
    print(f"{len(sentences)} skipped in split {split}{where}", *listed, sep="\n", file=sys.stderr)


def _plan(cfg, tokens, shuffle, seed):
    lengths = row_lengths(tokens, cfg.max_sequence_length, get_layout(cfg))
    buckets = [cfg.max_sequence_length]
    if cfg.packing != "none":
        buckets = choose_bucket_lengths(lengths, cfg.num_buckets)
    batch_size = min(cfg.batch_size, len(tokens))  # a few texts to predict need no filling
    return EpochPlan(lengths, batch_size, buckets, shuffle, seed)


def _packed_plan(params, plan):
    """Returns the PackedPlan of the same rows where `packing` asks for one, or else None."""
    cfg, run = params.train_input, params.runconfig
    is_shared = run.enable_distributed or run.multiple_workers
    if cfg.packing not in ("packed", "auto") or (cfg.packing == "auto" and is_shared):
        return None
    packed = PackedPlan(plan, cfg.num_buckets)
    if cfg.packing == "packed":
        return packed
    *_, packed_shapes = packed.steps(0, plan.steps_per_epoch)
    return packed if _computes_less(params, packed_shapes, *plan.epoch(0)) else None


def _computes_less(params, packed_shapes, rows, lengths):
    """Whether packed batches, of shapes [steps, 2], do, than those of an EpochPlan."""
    shapes = np.stack([np.full_like(lengths, rows.shape[1]), lengths], axis=1)
    packed, padded = (
        num_products(each, params.model.hidden_size) for each in (packed_shapes, shapes)
    )
    return packed < padded


def _every_row_once(params, cfg, tokens):
    plan = _plan(cfg, tokens, shuffle=False, seed=0)
    rows, lengths = plan.epoch(0, drop_remainder=False)
    if cfg.packing in ("packed", "auto"):
        packed = pack_every_row(plan.row_lengths, plan.batch_size)
        if cfg.packing == "packed" or _computes_less(params, packed[-1], rows, lengths):
            return _make_batches(make_packed_batches, cfg, tokens, packed, with_weights=True)
    return _make_batches(make_batches, cfg, tokens, (rows, lengths), with_weights=True)


def _make_batches(make, cfg, tokens, plan, with_weights):
    """make: function of `input/batches.py`; plan: the arrays that it takes of one."""
    tokenizer, layout = get_tokenizer(cfg), get_layout(cfg)
    return make(tokens, tokenizer, *plan, cfg.max_sequence_length, with_weights, layout)


def _eval_splits(cfg, source):
    """Returns the splits that are scored or predicted: those of the data, or what is held out."""
    if cfg.eval_fraction is not None:
        return {"validation": source.processor.train_split}
    return {split: split for split in source.processor.eval_splits}


def train_input_fn(params, first_step, last_step):
    """Returns the Batches of the training steps first_step <= step < last_step.

    `packing` says how rows of different length share a batch. A step takes
    `optimizer.grad_accum_steps` batches. The order of rows is a function of (seed, epoch); the
    step says where in it to begin.
    """
    cfg = params.train_input
    source = get_source(cfg)
    split = source.processor.train_split
    tokens, _ = _load(params, cfg, source, split, is_training=True)
    per_step = params.optimizer.grad_accum_steps
    needed = cfg.batch_size if cfg.repeat else cfg.batch_size * per_step
    if len(tokens) < needed:
        raise UserError(
            f"train_input.batch_size is {cfg.batch_size}, but split {split} of {source} has only "
            f"{len(tokens)} rows; choose a batch size of at most that"
        )
    plan = _plan(cfg, tokens, cfg.shuffle, params.shuffle_seed or 0)
    if not cfg.repeat:
        last_step = min(last_step, plan.steps_per_epoch // per_step)
    steps = first_step * per_step, last_step * per_step
    packed = _packed_plan(params, plan)
    make, plan = (make_batches, plan) if packed is None else (make_packed_batches, packed)
    return _make_batches(make, cfg, tokens, plan.steps(*steps), with_weights=False)


def eval_input_fn(params):
    """Returns {split: Batches} of the evaluation splits; every row stands in exactly one batch."""
    cfg = params.eval_input
    source = get_source(cfg)
    batches = {}
    for name, split in _eval_splits(cfg, source).items():
        tokens, _ = _load(params, cfg, source, split)
        batches[name] = _every_row_once(params, cfg, tokens)
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
        source = get_source(cfg)
        batches, texts_of_split = {}, {}
        for name, split in _eval_splits(cfg, source).items():
            content = source.fingerprint(split)
            tokens, rows = _load(params, cfg, source, split, needs_targets=False)
            split_texts = source.read_texts(split)
            check_unchanged(source, split, content)
            batches[name] = _every_row_once(params, cfg, tokens)
            texts_of_split[name] = [split_texts[row] for row in rows]
        return batches, texts_of_split
    _check_texts(cfg, texts)
    tokens = tokenize_texts(list(texts), get_tokenizer(cfg))
    return {"texts": _every_row_once(params, cfg, tokens)}, {"texts": list(texts)}


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
    return TextFeatures(get_tokenizer(cfg), texts_per_row, cfg.max_sequence_length, get_layout(cfg))


def describe(cfg):
    """What the rows of InputParams `cfg` are, as text for a reader elsewhere: no folders."""
    processor = get_processor(cfg)
    names = f"{' and '.join(processor.text_keys)} -> {processor.label_key}"
    if cfg.data_processor == "TextFileDataProcessor":
        files = [Path(file).name for file in (cfg.train_file, cfg.eval_file) if file]
        return f"{' and '.join(files)}: {names}"
    return f"{processor.dataset} of TensorFlow Datasets: {names}"


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
    """Fills in what the params leave to the checkpoint, to the data and to the machine.

    Args:
        params: Params as read.
        checkpoint_config: dict of `Checkpoint.config`, empty where there is none.
        params_path: str, for messages.
        labels_from_checkpoint: bool. True where no data set is needed: texts to predict.
    Returns:
        complete Params; label names, tuple of str; the vocabulary, list of str.
    """
    params = params.with_vocab_file(checkpoint_config.get("vocab_file"))
    if params.model.mixed_precision == "auto":
        params = params.with_precision(best_precision(_gpu_capabilities(params.runconfig)))
    cfg = params.predict_input
    _check_tokenizers(params, checkpoint_config)
    vocab = get_tokenizer(cfg).vocab
    label_names = tuple(checkpoint_config.get("label_names", ()))
    if not (labels_from_checkpoint and label_names):
        label_names = get_source(cfg).targets.label_names
        _check_label_order(label_names, checkpoint_config)
    known = {"num_cls_classes": len(label_names), "vocab_size": len(vocab)}
    return params.complete(checkpoint_config, known, params_path), label_names, vocab


def _gpu_capabilities(run):
    """CUDA's (major, minor) of the GPUs that a run may take. run: RunParams."""
    details = map(tf.config.experimental.get_device_details, gpus_of(run.device))
    return [each.get("compute_capability", (0, 0)) for each in details]


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


def _check_label_order(label_names, checkpoint_config):
    """Raises UserError where a checkpoint's classes are the data's in another order."""
    theirs = tuple(checkpoint_config.get("label_names", ()))
    if theirs != label_names and sorted(theirs) == sorted(label_names):
        raise UserError(
            f"the classes of the data are {', '.join(label_names)}, but those of "
            f"{checkpoint_config.get('path', 'the checkpoint')} are {', '.join(theirs)}; write "
            f"label_names: [{', '.join(theirs)}] in the params file"
        )
