# SPDX-License-Identifier: Apache-2.0
"""Input functions: params -> batches of the documented features (see `input/batches.py`)."""

import functools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from common.console import log
from common.errors import UserError
from common.params import TEXT_FILES, TFDS_KEYS
from common.platform.machine import best_precision, gpus_of
from common.tasks.targets import places_in, similar_names
from input import summary
from input.batches import make_batches, make_packed_batches, row_lengths
from input.epoch_plan import EpochPlan, choose_bucket_lengths
from input.features import Layout, TextFeatures
from input.packing import PackedPlan, num_products, pack_every_row
from input.rows import Origins, load_rows, origins_of
from input.sources.processors import get_processor, open_source
from input.sources.text_files import FORMATS
from input.token_cache import tokenize_texts
from input.tokenizers.wordpiece import WordPieceTokenizer
from model import TASKS

UNNAMED = re.compile("LABEL_[0-9]+")  # what Hugging Face calls classes without names

# Building a tokenizer takes 0.3 s, and all parts of a run use the same one.
_read_tokenizer = functools.lru_cache(maxsize=2)(WordPieceTokenizer.from_vocab_file)


def get_tokenizer(cfg):
    """Returns the WordPieceTokenizer of InputParams `cfg`, which need a vocab_file."""
    tokenizer = _read_tokenizer(cfg.vocab_file, cfg.do_lower)
    if cfg.vocab_size is not None and cfg.vocab_size != tokenizer.vocab_size:
        raise UserError(
            f"vocab_size is {cfg.vocab_size}, but {cfg.vocab_file} has {tokenizer.vocab_size} "
            "lines; leave vocab_size out, or give the vocabulary that has as many"
        )
    return tokenizer


def get_targets(cfg):
    """Returns the Targets of InputParams `cfg`, with the label names that are known of them."""
    return TASKS[cfg.task].targets.of(cfg)


def get_source(cfg, needs_targets=True):
    """Returns the Source of InputParams `cfg`, with the targets of its task."""
    return open_source(cfg, get_targets(cfg), needs_targets)


def get_layout(cfg):
    """Returns the Layout of InputParams `cfg`."""
    vocab_size = get_tokenizer(cfg).vocab_size
    if cfg.pad_id is not None and cfg.pad_id >= vocab_size:
        raise UserError(
            f"pad_id is {cfg.pad_id}, but {cfg.vocab_file} has the ids 0 to {vocab_size - 1}; "
            "leave pad_id out"
        )
    return Layout(cfg.add_special_tokens, cfg.invert_mask, cfg.pad_id)


def _load(params, cfg, source, split, is_training=False):
    tokenizer, model_dir = get_tokenizer(cfg), params.runconfig.model_dir
    return load_rows(cfg, source, split, tokenizer, model_dir, params.label_names, is_training)


def _plan(cfg, tokens, shuffle, seed):
    lengths = row_lengths(tokens, cfg.max_sequence_length, get_layout(cfg))
    buckets = [cfg.max_sequence_length]
    if cfg.packing != "none":
        buckets = choose_bucket_lengths(lengths, cfg.num_buckets)
    batch_size = min(cfg.batch_size, len(tokens))  # no filler rows for a few texts to predict
    return EpochPlan(lengths, batch_size, buckets, shuffle, seed)


def _packed_plan(params, plan):
    """Returns the PackedPlan of the same rows if `packing` asks for one, else None."""
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
    """Whether packed batches cost less than padded ones, of `rows` with `lengths`."""
    shapes = np.stack([np.full_like(lengths, rows.shape[1]), lengths], axis=1)
    width = params.model.hidden_size
    return num_products(packed_shapes, width) < num_products(shapes, width)


def _every_row_once(params, cfg, tokens):
    plan = _plan(cfg, tokens, shuffle=False, seed=0)
    rows, lengths = plan.epoch(0, drop_remainder=False)
    if cfg.packing in ("packed", "auto"):
        packed = pack_every_row(plan.row_lengths, plan.batch_size)
        if cfg.packing == "packed" or _computes_less(params, packed[-1], rows, lengths):
            return _make_batches(make_packed_batches, cfg, tokens, packed, with_weights=True)
    return _make_batches(make_batches, cfg, tokens, (rows, lengths), with_weights=True)


def _make_batches(make, cfg, tokens, plan, with_weights):
    """make: make_batches or make_packed_batches; plan: the arrays that it takes."""
    tokenizer, layout = get_tokenizer(cfg), get_layout(cfg)
    return make(tokens, tokenizer, *plan, cfg.max_sequence_length, with_weights, layout)


def _eval_splits(cfg, source):
    """Returns {name: split} to score or predict: the splits of the data, or the held-out rows."""
    if cfg.scores_held_out:
        return {"validation": source.processor.train_split}
    return {split: split for split in source.processor.eval_splits}


def contents(params):
    """Returns {split: str}, of the rows that a training reads: see `Source.content`."""
    source = get_source(params.train_input)
    splits = {source.processor.train_split: source}
    if params.runconfig.mode == "train_and_eval":
        source = get_source(params.eval_input)
        splits |= dict.fromkeys(_eval_splits(params.eval_input, source).values(), source)
    return {split: source.content(split) for split, source in splits.items()}


def train_input_fn(params, first_step, last_step):
    """Returns the Batches of the training steps first_step <= step < last_step.

    `packing` chooses how rows of different length share a batch. A step takes
    `optimizer.grad_accum_steps` batches. The order of the rows is a function of (seed, epoch), and
    the step is a position in it.
    """
    cfg = params.train_input
    source = get_source(cfg)
    split = source.processor.train_split
    tokens, *_ = _load(params, cfg, source, split, is_training=True)
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
    batches = _make_batches(make, cfg, tokens, plan.steps(*steps), with_weights=False)
    return replace(batches, notes=get_tokenizer(cfg).notes_on_case(tokens.ids))


def eval_input_fn(params):
    """Returns {split: Batches} of the evaluation splits; every row is in exactly one batch.

    With `eval_steps` they are of as many rows as so many batches hold, drawn like those of
    `max_eval_samples`: whatever their lengths, and the same ones every time.
    """
    cfg, num_batches = params.eval_input, params.runconfig.eval_steps
    if num_batches is not None:
        limits = num_batches * cfg.batch_size, cfg.max_eval_samples
        limit = min(limit for limit in limits if limit is not None)
        cfg = cfg.model_copy(update={"max_eval_samples": limit})
    return _scored_batches(params, cfg, get_source(cfg))


def _scored_batches(params, cfg, source):
    """Returns {split: Batches} of every row to score or predict, with their origins."""
    batches = {}
    for name, split in _eval_splits(cfg, source).items():
        content = source.fingerprint(split)
        tokens, rows, is_whole = _load(params, cfg, source, split)
        source.id_columns(split)  # that they are there is known before hours of training
        origins = functools.partial(origins_of, source, split, rows, content)
        plain = _every_row_once(params, cfg, tokens)
        batches[name] = replace(plain, is_whole=is_whole, origins=functools.cache(origins))
    return batches


def predict_input_fn(params, texts=()):
    """Returns the batches to predict, and their texts.

    texts: list of tuples of str from the user, each with as many texts as a row of the
    data_processor, else UserError is raised; empty: the evaluation splits, which need no labels
    here. Returns {split: Batches}; {split: list of tuples of str}, in row order.
    """
    cfg = params.predict_input
    if texts:
        _check_texts(cfg, texts)
        tokens = tokenize_texts(list(texts), get_tokenizer(cfg))
        origins = Origins(list(texts))
        plain = _every_row_once(params, cfg, tokens)
        batches = {"texts": replace(plain, origins=lambda: origins)}
    else:
        batches = _scored_batches(params, cfg, get_source(cfg, needs_targets=False))
    return batches, {name: each.origins().texts for name, each in batches.items()}


def _check_texts(cfg, texts):
    """Raises UserError if only the texts, or only the data_processor's rows, are pairs."""
    keys = get_processor(cfg).text_keys
    if len(texts[0]) != len(keys):
        actual = "a single text" if len(texts[0]) == 1 else "a pair of texts (with a tab in it)"
        expected = (
            f"single texts ({keys[0]}); leave out the tab"
            if len(keys) == 1
            else f"pairs ({', '.join(keys)}); put a tab between the two, in a shell as "
            f"--text $'{keys[0]}\\t{keys[1]}'"
        )
        raise UserError(f"{texts[0][0]!r} is {actual}, but {cfg.data_processor} takes {expected}")


def summarize(params, batches_of_split):
    """Returns the Summary of each of {split: Batches}, for complete Params."""
    return summary.summarize(batches_of_split, TASKS[params.task].targets(params.label_names))


def get_text_features(params):
    """Returns the TextFeatures of complete Params: texts to features in one graph, for exports."""
    cfg = params.predict_input
    texts_per_row = len(get_processor(cfg).text_keys)
    return TextFeatures(get_tokenizer(cfg), texts_per_row, cfg.max_sequence_length, get_layout(cfg))


def describe(cfg):
    """Describes the rows of InputParams `cfg` for a model card: without folders."""
    processor = get_processor(cfg)
    names = f"{' and '.join(processor.text_keys)} -> {processor.label_key}"
    if cfg.data_processor == TEXT_FILES:
        files = [Path(file).name for file in (cfg.train_file, cfg.eval_file) if file]
        return f"{' and '.join(files)}: {names}"
    return f"{processor.dataset} of TensorFlow Datasets: {names}"


def read_texts(texts, input_file):
    """Returns the texts of --text and of the lines of --input_file: tuples of one or two str.

    A tab separates the two texts of a pair. A blank line is a text, too: answers keep their places.
    Raises UserError where a file cannot be read, a text is not UTF-8, or only some rows are pairs.
    """
    rows = list(texts)
    for text in texts:
        if text != text.encode("utf-8", "ignore").decode("utf-8"):  # from bytes of another encoding
            raise UserError(f"--text {text!a} is not UTF-8; set the terminal's encoding to it")
    if input_file is not None:
        if Path(input_file).suffix.lower() in (".json", ".ndjson"):
            raise UserError(
                f"--input_file {input_file} is named as JSON; write an object a line, and name it "
                ".jsonl"
            )
        try:
            content = Path(input_file).expanduser().read_bytes().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--input_file {input_file} cannot be read: {error}") from None
        lines = content.removesuffix("\n").split("\n")
        if not any(map(str.strip, lines)):
            raise UserError(f"--input_file {input_file} has no text; write one per line")
        rows += [line.removesuffix("\r") for line in lines]
    written = [tuple(row.split("\t")) for row in rows if row.strip()]
    for row in written:
        if len(row) != len(written[0]) or len(row) > 2:
            raise UserError(
                f"{' | '.join(row)!r} has {len(row)} texts where the first row has "
                f"{len(written[0])}; give one text per row, or pairs separated by one tab"
            )
    blank = ("",) * len(written[0]) if written else ("",)
    return [tuple(row.split("\t")) if row.strip() else blank for row in rows]


def with_input_file(params, input_file):
    """The same params whose predict_input reads the columns of a .csv, .tsv or .jsonl file.

    The columns are those that training read. Returns None for a file of another kind.
    """
    if Path(input_file).suffix.lower() not in FORMATS:
        return None
    processor = get_processor(params.predict_input)
    changes = dict.fromkeys((*TFDS_KEYS, "feature_rename_map", "max_eval_samples"))
    changes |= {
        "data_processor": TEXT_FILES,
        "eval_file": str(Path(input_file).expanduser()),
        "text_columns": processor.text_keys,
        "label_column": processor.label_key,
    }
    section = params.predict_input.model_copy(update=changes)
    return params.model_copy(update={"predict_input": section})


def complete_params(params, checkpoint_config, params_path, labels_from_checkpoint=False):
    """Fills in what the params leave to the checkpoint, the data and the machine.

    Args:
        checkpoint_config: dict of `Checkpoint.config`, empty without a checkpoint.
        labels_from_checkpoint: bool. True if no data set is needed: texts to predict, or an export.
    Returns:
        complete Params; label names, tuple of str; the vocabulary, list of str.
    """
    params = params.with_vocab_file(checkpoint_config.get("vocab_file"))
    params = resolve_precision(params)
    _check_task(params, checkpoint_config)
    _check_tokenizers(params, checkpoint_config)
    vocab = get_tokenizer(params.predict_input).vocab
    label_names = tuple(checkpoint_config.get("label_names", ()))
    if not (labels_from_checkpoint and label_names):
        params = _with_names_of(label_names, params)
        label_names = _label_names(params, checkpoint_config)
    known = {
        "num_cls_classes": len(label_names),
        "vocab_size": len(vocab),
        "is_own_vocab": params.predict_input.vocab_file == checkpoint_config.get("vocab_file"),
        "label_names": label_names,
    }
    return params.complete(checkpoint_config, known, params_path), label_names, vocab


def _check_task(params, checkpoint_config):
    """Raises UserError if a checkpoint to score or predict with answers another question."""
    trained = checkpoint_config.get("task", params.task)
    if trained != params.task and not params.runconfig.is_training:
        advice = "take one that gives an answer for a row, or train from this one"
        if trained in TASKS:
            advice = f"write task: {trained} in the params file"
        raise UserError(
            f"{checkpoint_config.get('path', 'the checkpoint')} is a model for {trained}, but task "
            f"is {params.task}; {advice}"
        )


def _with_names_of(label_names, params):
    """The same params where a file names the classes, or else with those of a checkpoint to use."""
    cfg = params.predict_input
    is_file_there = cfg.train_file is not None and Path(cfg.train_file).exists()
    is_needed = cfg.data_processor == TEXT_FILES and not is_file_there and not cfg.label_names
    if params.runconfig.is_training or not (is_needed and TASKS[cfg.task].targets.has_classes):
        return params
    return params.with_default("label_names", label_names or None)


def _label_names(params, checkpoint_config):
    """Returns the label names of the network's outputs, in their order: tuple of str.

    Names decide: those of the data, in the order of the checkpoint's where it has the same, else in
    that of the key label_names. A checkpoint to use may have more classes than the data.
    """
    is_training = params.runconfig.is_training
    cfg = params.train_input if is_training else params.predict_input
    targets = get_source(cfg).targets
    names, found = targets.label_names, tuple(checkpoint_config.get("label_names", ()))
    if not targets.has_classes:
        return names
    for group in similar_names(names):
        log(f"classes {', '.join(group)} differ by case or blanks alone; each is one of its own")
    if all(UNNAMED.fullmatch(name) for name in found):
        found = ()
    for wanted in (found, cfg.label_names or ()):
        places = places_in(wanted, names)
        if places is not None and len(wanted) == len(names):
            return tuple(names[places.index(i)] for i in range(len(names)))
        if places is not None and wanted is found and not is_training:
            return found
    if len(found) == len(names):
        log(
            f"the classes of the data are {', '.join(names)}, those of "
            f"{checkpoint_config.get('path', 'the checkpoint')} {', '.join(found)}: each is taken "
            "for the one in its place"
        )
    return names


def resolve_precision(params):
    """The same params with what `mixed_precision: auto` stands for on this machine."""
    if params.model.mixed_precision != "auto":
        return params
    details = map(tf.config.experimental.get_device_details, gpus_of(params.runconfig.device))
    capabilities = [each.get("compute_capability", (0, 0)) for each in details]
    return params.with_precision(best_precision(capabilities))


def _check_tokenizers(params, checkpoint_config):
    """Raises UserError if the inputs, or the checkpoint, would tokenise a text differently."""
    fingerprint = get_tokenizer(params.predict_input).fingerprint
    for name in ("train_input", "eval_input"):
        cfg = getattr(params, name)
        if cfg is not None and get_tokenizer(cfg).fingerprint != fingerprint:
            raise UserError(
                f"{name} tokenises differently from predict_input: {cfg.vocab_file} with "
                f"do_lower {cfg.do_lower}, {params.predict_input.vocab_file} with do_lower "
                f"{params.predict_input.do_lower}; give every input the same values"
            )
    given, kept = params.predict_input.do_lower, checkpoint_config.get("do_lower_case")
    if kept is not None and kept != given:
        given, kept = str(given).lower(), str(kept).lower()
        raise UserError(
            f"do_lower is {given}, but the vocabulary of "
            f"{checkpoint_config.get('path', 'the checkpoint')} has do_lower_case {kept}; write "
            f"do_lower: {kept}"
        )
