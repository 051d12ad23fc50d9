# SPDX-License-Identifier: Apache-2.0
"""The input functions of any task, and what the data adds to params: `complete_params`."""

import functools
from pathlib import Path

import tensorflow as tf

from common.console import log
from common.errors import UserError
from common.file_texts import FileText
from common.files import utf8_text
from common.params import OF_FILES
from common.platform.machine import best_precision, gpus_of
from common.tasks.targets import UNNAMED, places_in, similar_names
from input.features import Layout, TextFeatures
from input.streams import StreamReader
from input.text_reader import TextReader
from input.tokenizers.library import open_tokenizer
from input.word_reader import QuestionReader, WordReader
from model import TASKS

# {kind of rows, as `Targets.rows` names it: what reads them}
READER_OF = {
    "texts": TextReader,
    "words": WordReader,
    "questions": QuestionReader,
    "streams": StreamReader,
}

# Building a tokenizer takes 0.3 s, and all parts of a run use the same one.
_read_tokenizer = functools.lru_cache(maxsize=2)(open_tokenizer)


def get_tokenizer(cfg):
    """Returns the tokenizer of InputParams `cfg`, which need a vocab_file."""
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
    return _reader(cfg).source(cfg, needs_targets)


def get_layout(cfg):
    """Returns the Layout of InputParams `cfg`."""
    tokenizer = get_tokenizer(cfg)
    vocab_size = tokenizer.vocab_size
    if cfg.pad_id is not None and cfg.pad_id >= vocab_size:
        raise UserError(
            f"pad_id is {cfg.pad_id}, but {cfg.vocab_file} has the ids 0 to {vocab_size - 1}; "
            "leave pad_id out"
        )
    return Layout(cfg.add_special_tokens, cfg.invert_mask, cfg.pad_id, tokenizer.num_between)


def _reading(cfg):
    """Returns the tokenizer and the Layout of InputParams `cfg`."""
    return get_tokenizer(cfg), get_layout(cfg)


def _reader(params):
    """Returns what reads the rows of Params, or of InputParams."""
    targets = TASKS[params.task].targets
    return READER_OF[targets.rows](targets, _reading)


def contents(params):
    """Returns {split: str}, of the rows that a training reads: see `Source.content`."""
    return _reader(params).contents(params)


def batches_per_epoch(params):
    """Returns how many whole batches the rows to train on make: int."""
    return _reader(params).batches_per_epoch(params)


def prepare_data(params):
    """Makes what a training reads, ahead of it. Returns the Result."""
    return _reader(params).prepare_data(params)


def data_report(params, sizes, folder, with_texts):
    """Looks at the rows before any training, and writes what it finds. Returns the Result.

    params: Params with a vocabulary. sizes: {model key: int or None}, of the network. folder:
    path-like. with_texts: bool, whether the files may have texts of the data.
    """
    return _reader(params).data_report(params, sizes, Path(folder), with_texts)


def train_input_fn(params, first_step, last_step):
    """Returns the Batches of the training steps first_step <= step < last_step.

    `packing` chooses how rows of different length share a batch. A step takes
    as many batches as `optimizer.accumulation` says. The order of the rows is a function of
    (seed, epoch), and the step is a position in it.
    """
    return _reader(params).train_batches(params, first_step, last_step)


def training_rows(params):
    """Returns the Batches of all rows to train on, each once and in order, for a teacher to answer.

    Its `rows` are numbered as those of `train_input_fn`.
    """
    return _reader(params).training_rows(params)


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
    return _reader(params).eval_batches(params, cfg)


def predict_input_fn(params, texts=()):
    """Returns the batches to predict, and their texts.

    texts: list of tuples of str from the user, each with as many texts as a row of the
    data_processor, else UserError is raised; empty: the evaluation splits, which need no labels
    here. Returns {split: Batches}; {split: list of tuples of str}, in row order.
    """
    batches = _reader(params).predict_batches(params, list(texts))
    return batches, {name: each.origins().texts for name, each in batches.items()}


def summarize(params, batches_of_split):
    """Returns the Summary of each of {split: Batches}, for complete Params."""
    return _reader(params).summarize(params, batches_of_split)


def get_text_features(params):
    """Returns the TextFeatures of complete Params: texts to features in one graph, for exports."""
    cfg = params.predict_input
    texts_per_row = _reader(params).texts_per_row(cfg)
    return TextFeatures(get_tokenizer(cfg), texts_per_row, cfg.max_sequence_length, get_layout(cfg))


def describe(cfg):
    """Describes the rows of InputParams `cfg` for a model card: without folders."""
    return _reader(cfg).describe(cfg)


def read_texts(texts, input_file):
    """Returns the texts of --text and of the lines of --input_file: tuples of one or two str.

    Of a folder, the .txt files are the texts, and each --text is a question to all of them.
    A tab separates the two texts of a pair. A blank line is a text, too: answers keep their places.
    Raises UserError where a file cannot be read, a text is not UTF-8, or only some rows are pairs.
    """
    rows = list(texts)
    for text in texts:
        if text != text.encode("utf-8", "ignore").decode("utf-8"):  # from bytes of another encoding
            raise UserError(f"--text {text!a} is not UTF-8; set the terminal's encoding to it")
    if input_file is not None and Path(input_file).is_dir():
        return _texts_of_folder(rows, Path(input_file))
    if input_file is not None:
        if Path(input_file).suffix.lower() in (".json", ".ndjson"):
            raise UserError(
                f"--input_file {input_file} is named as JSON; write an object a line, and name it "
                ".jsonl"
            )
        try:
            content = Path(input_file).expanduser().read_bytes()
        except OSError as error:
            raise UserError(f"--input_file {input_file} cannot be read: {error}") from None
        text = utf8_text(content, f"--input_file {input_file}")
        lines = text.removesuffix("\n").split("\n")
        if not any(map(str.strip, lines)):
            raise UserError(f"--input_file {input_file} has no text; write one per line")
        rows += [line.removesuffix("\r") for line in lines]
    written = [tuple(row.split("\t")) for row in rows if row.strip()]
    for row in written:
        if len(row) > 2:
            raise UserError(
                f"{' | '.join(row)!r} has {len(row)} texts with tabs between; give one text per "
                "row, or pairs separated by one tab"
            )
        if len(row) != len(written[0]):
            raise UserError(
                f"{' | '.join(row)!r} has {len(row)} texts where the first row has "
                f"{len(written[0])}; give one text per row, or pairs separated by one tab"
            )
    blank = ("",) * len(written[0]) if written else ("",)
    return [tuple(row.split("\t")) if row.strip() else blank for row in rows]


def _texts_of_folder(questions, folder):
    """Returns the texts of a folder's files, tuples of FileText, after each question if any."""
    paths = sorted(path for path in folder.rglob("*.txt") if path.is_file())
    if not paths:
        raise UserError(
            f"--input_file {folder} is a folder without a .txt file; give one with texts"
        )
    texts = [FileText.read(path) for path in paths]
    for question in questions:
        if "\t" in question:
            raise UserError(
                f"--text {question!r} has a tab, but the texts are the files of {folder}; give "
                "the question alone"
            )
    return [(question, text) for question in questions for text in texts] or [
        (text,) for text in texts
    ]


def with_input_file(params, input_file):
    """The same params whose predict_input reads the columns of a .csv, .tsv or .jsonl file.

    The columns are those that training read. Returns None for a file of another kind.
    """
    if Path(input_file).is_dir():
        return None
    section = _reader(params).with_file(params.predict_input, input_file)
    return None if section is None else params.model_copy(update={"predict_input": section})


def complete_params(params, checkpoint_config, params_path, labels_from_checkpoint=False):
    """Fills in what the params leave to the checkpoint, the data and the machine.

    Args:
        checkpoint_config: dict of `Checkpoint.config`, empty without a checkpoint.
        labels_from_checkpoint: bool. True if no data set is needed: texts to predict, or an export.
    Returns:
        complete Params; label names, tuple of str; the vocabulary, list of str.
    """
    params = params.with_vocab_file(
        checkpoint_config.get("vocab_file"), checkpoint_config.get("path")
    )
    params = resolve_precision(params)
    _check_task(params, checkpoint_config)
    _check_tokenizers(params, checkpoint_config)
    vocab = get_tokenizer(params.predict_input).vocab
    label_names = tuple(checkpoint_config.get("label_names", ()))
    if not (labels_from_checkpoint and label_names):
        params = _with_names_of(label_names, params)
        label_names = _label_names(params, checkpoint_config)
    known = {
        "num_cls_classes": len(label_names) or None,  # None: the task names no outputs
        "vocab_size": len(vocab),
        "is_own_vocab": params.predict_input.vocab_file == checkpoint_config.get("vocab_file"),
        "label_names": label_names,
    }
    return params.complete(checkpoint_config, known, params_path), label_names, vocab


def _check_task(params, checkpoint_config):
    """Raises UserError if a checkpoint to score or predict with answers another question."""
    trained = checkpoint_config.get("task", params.task)
    if trained != params.task and not params.runconfig.is_training:
        advice = f"take one for {params.task}, or train from this one"
        if trained in TASKS and TASKS[trained].targets.rows == TASKS[params.task].targets.rows:
            advice = f"write task: {trained} in the params file"
        raise UserError(
            f"{checkpoint_config.get('path', 'the checkpoint')} is a model for {trained}, but task "
            f"is {params.task}; {advice}"
        )


def _with_names_of(label_names, params):
    """The same params where a file names the classes, or else with those of a checkpoint to use."""
    cfg = params.predict_input
    is_file_there = cfg.train_file is not None and Path(cfg.train_file).exists()
    is_needed = cfg.data_processor in OF_FILES and not is_file_there and not cfg.label_names
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
    if get_targets(cfg).label_names == ():  # the task has no labels
        return ()
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
