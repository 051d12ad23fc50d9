# SPDX-License-Identifier: Apache-2.0
"""Rows of texts: from Params to their batches. `Reader` of docs/architecture.md."""

import functools
from dataclasses import replace
from pathlib import Path

from common.console import counted
from common.errors import UserError
from common.file_texts import FileText
from common.params import OF_FILES, TEXT_FILES, TFDS_KEYS
from common.params.words import ANSWERING, TAGGED_RECORDS
from input import summary
from input.data_report import SplitRows, report_on_data
from input.row_batches import every_row_once, steps_of_training
from input.rows import Origins, load_rows, origins_of, usable_rows
from input.sources.columns import column_names
from input.sources.processors import get_processor, open_source
from input.sources.text_files import DELIMITER_OF, DELIMITERS, FORMATS, listed, shown
from input.token_cache import check_unchanged, forget_tokens, tokenize_texts


class TextReader:
    """Reads the rows of a Source, whose tokens are cached.

    The functions of `data.py` that call its methods say what these do. `cfg`: InputParams.

    Args:
        targets: the class of the task's Targets.
        read: InputParams -> (tokenizer, Layout).
    """

    suffixes = ()  # of files that its sources read, besides those with columns
    lines = None  # what a line of another file is, where its sources read no columns
    of_files = TEXT_FILES  # the data processor of such files
    other_name = ""  # advice where a file of lines is none of texts

    def __init__(self, targets, read):
        self._targets, self._read = targets, read

    def source(self, cfg, needs_targets=True):
        return open_source(cfg, self._targets.of(cfg), needs_targets)

    def contents(self, params):
        source = self.source(params.train_input)
        splits = {source.processor.train_split: source}
        if params.runconfig.mode == "train_and_eval":
            source = self.source(params.eval_input)
            splits |= dict.fromkeys(_eval_splits(params.eval_input, source).values(), source)
        return {split: source.content(split) for split, source in splits.items()}

    def batches_per_epoch(self, params):
        tokens, _ = self._training_tokens(params, is_ahead=True)
        return len(tokens) // params.train_input.batch_size

    def train_batches(self, params, first_step, last_step):
        cfg = params.train_input
        tokens, of_words = self._training_tokens(params)
        forget_tokens()
        tokenizer, layout = self._read(cfg)
        batches = steps_of_training(params, tokens, tokenizer, layout, first_step, last_step)
        notes = tokenizer.notes_on_case(tokens.ids)
        notes += summary.notes_on_rows(cfg, len(tokens), self.source(cfg).targets.label_names)
        notes += of_words.get("notes", ())
        return replace(batches, **{**of_words, "notes": notes})

    def training_rows(self, params):
        tokens, of_words = self._training_tokens(params)
        plain = every_row_once(params, params.train_input, tokens, *self._read(params.train_input))
        return replace(plain, **of_words)

    def eval_batches(self, params, cfg):
        return self._scored_batches(params, cfg, self.source(cfg))

    def predict_batches(self, params, texts):
        cfg = params.predict_input
        if not texts:
            return self._scored_batches(params, cfg, self.source(cfg, needs_targets=False))
        _check_texts(cfg, texts, self.other_name)
        tokens, origins = self._tokens_of_texts(cfg, texts)
        tokens, of_words = self._in_rows(cfg, tokens)
        plain = every_row_once(params, cfg, tokens, *self._read(cfg))
        return {"texts": replace(plain, origins=lambda: origins, **of_words)}

    def summarize(self, params, batches_of_split):
        return summary.summarize(batches_of_split, self._targets(params.label_names))

    def texts_per_row(self, cfg):
        """Returns how many texts a row has: 1 or 2."""
        return len(get_processor(cfg).text_keys)

    def describe(self, cfg):
        processor = get_processor(cfg)
        label = "answers" if cfg.task == ANSWERING else processor.label_key
        names = f"{' and '.join(processor.text_keys)} -> {label}"
        if cfg.data_processor in OF_FILES:
            files = dict.fromkeys(file for file in (cfg.train_file, cfg.eval_file) if file)
            return f"{' and '.join(Path(file).name for file in files)}: {names}"
        if cfg.data_processor == TAGGED_RECORDS:
            return f"records of {cfg.data_processor}: {names}"
        return f"{processor.dataset} of TensorFlow Datasets: {names}"

    def reads(self, suffix):
        """Whether a file to predict is read as those of training are. suffix: str, lower case."""
        return suffix in self.suffixes

    def with_file(self, cfg, path):
        """Returns InputParams to predict the rows of a file; None for a file of lines.

        Raises UserError for a table where the task reads none, or without the columns it needs.
        """
        suffix = Path(path).suffix.lower()
        changes = {"max_eval_samples": None}
        if not self.reads(suffix):
            if suffix not in FORMATS:
                return None
            if self.lines is not None:
                raise UserError(
                    f"--input_file {path} is a table, of which task: {cfg.task} reads none; give "
                    f"{', '.join(self.suffixes)}, or a .txt file, each line of which is "
                    f"{self.lines}"
                )
            processor = get_processor(cfg)
            if cfg.data_processor not in OF_FILES:
                _check_columns(Path(path).expanduser(), processor)
            changes |= {
                "text_columns": processor.text_keys,
                "label_column": processor.label_key,
            }
        if not self.reads(suffix) or cfg.data_processor not in OF_FILES:
            changes |= dict.fromkeys((*TFDS_KEYS, "feature_rename_map"))
            changes["data_processor"] = self.of_files
        return cfg.model_copy(update={**changes, "eval_file": str(Path(path).expanduser())})

    def prepare_data(self, params):
        """Refuses `--mode prepare_data`, with a UserError."""
        raise UserError(
            f"--mode prepare_data is for pre-training, but task is {params.task}, whose first run "
            "keeps its tokens for later ones; leave it out"
        )

    def data_report(self, params, sizes, folder, with_texts):
        """Looks at the rows before any training. Returns the Result of `report_on_data`."""
        rows = self._rows_to_report(params)
        more = self._read(params.predict_input), self._in_rows, self.describe(params.predict_input)
        return report_on_data(params, rows, *more, sizes, folder, with_texts)

    def _rows_to_report(self, params):
        """Returns the SplitRows of the rows to train on and of each split that is scored: list.

        Bad rows are left out and listed, whatever on_bad_row says.
        """
        found, names = [], None
        for cfg in (params.train_input, params.eval_input):
            if cfg is None or (found and _has_no_eval_rows(cfg)):
                continue
            is_training = cfg is params.train_input
            cfg = cfg.model_copy(update={"on_bad_row": "skip"})
            source = self.source(cfg)
            names = names or source.targets.label_names
            train = source.processor.train_split
            splits = {train: train} if is_training else _eval_splits(cfg, source)
            for name, split in splits.items():
                found.append(self._split_to_report(cfg, source, name, split, names, is_training))
        return found

    def _split_to_report(self, cfg, source, name, split, label_names, is_training):
        content, tokenizer = source.fingerprint(split), self._read(cfg)[0]
        loaded = usable_rows(cfg, source, split, tokenizer, label_names, is_training)
        tokens, rows, _, skipped = loaded
        texts, answers = source.read_texts(split), source.answers(split)
        check_unchanged(source, split, content)
        answers = None if answers is None else [answers[row] for row in rows.tolist()]
        of_labels = tokens, self._targets(label_names), answers
        return SplitRows(
            name,
            tokens,
            rows,
            [texts[row] for row in rows.tolist()],
            self._labels_of(*of_labels),
            self._counts_of(*of_labels),
            skipped,
            functools.partial(source.places, split),
            is_training,
        )

    def _labels_of(self, tokens, targets, answers):
        """Returns the label of each row for a reader: list of str."""
        del answers
        return targets.labels_of(tokens.targets)

    def _counts_of(self, tokens, targets, answers):
        """Returns how often each label is there: {name: int}."""
        del answers
        return targets.counts(tokens.targets)

    def _load(self, params, cfg, source, split, is_training=False, is_ahead=False):
        (tokenizer, _), model_dir = self._read(cfg), params.runconfig.model_dir
        names = params.label_names
        return load_rows(cfg, source, split, tokenizer, model_dir, names, is_training, is_ahead)

    def _training_tokens(self, params, is_ahead=False):
        """Returns what `_in_rows` does, of the rows to train on.

        Raises UserError where they fill no batch.
        """
        cfg = params.train_input
        source = self.source(cfg)
        split = source.processor.train_split
        tokens, *_ = self._load(params, cfg, source, split, is_training=True, is_ahead=is_ahead)
        tokens, of_words = self._in_rows(cfg, tokens)
        num_batches = 1 if cfg.repeat else params.optimizer.accumulation.at(0)
        if len(tokens) < cfg.batch_size * num_batches:
            raise UserError(
                f"train_input.batch_size is {cfg.batch_size}, but split {split} of {source} has "
                f"only {counted(len(tokens), 'row')}; choose a batch size of at most that"
            )
        return tokens, of_words

    def _scored_batches(self, params, cfg, source):
        batches = {}
        for name, split in _eval_splits(cfg, source).items():
            content = source.fingerprint(split)
            tokens, rows, is_whole = self._load(params, cfg, source, split)
            source.id_columns(split)  # that they are there is known before hours of training
            origins = functools.partial(origins_of, source, split, rows, content)
            tokens, of_words = self._in_rows(cfg, tokens)
            plain = every_row_once(params, cfg, tokens, *self._read(cfg))
            known = {"is_whole": is_whole, "origins": functools.cache(origins)}
            batches[name] = replace(plain, **known, **of_words)
        return batches

    def _in_rows(self, cfg, tokens):
        """Returns the Tokens of rows, and what Batches say of their words: {attribute: value}.

        Rows are texts, but windows of texts where a task answers for words.
        """
        return (tokens, {}) if tokens.words is None else self._windows(cfg, tokens)

    def _tokens_of_texts(self, cfg, texts):
        """Returns Tokens without targets, and Origins, of a user's own texts."""
        return tokenize_texts(texts, self._read(cfg)[0]), Origins(texts)


def _check_columns(path, processor):
    """Raises UserError where a file to predict lacks a column that the data of a model have.

    Data sets have no flags of columns: what is to be changed is the file.
    """
    names = column_names(path)
    missing = [key for key in processor.text_keys if key not in names]
    if not missing:
        return
    delimiter = DELIMITER_OF[path.suffix.lower()]
    what = "key" if delimiter is None else "column"
    advice = f"rename the {what} of the text in the file"
    if delimiter and len(names) == 1 and any(other in names[0] for other in DELIMITERS):
        advice = f"separate its columns by {delimiter!r}"
    raise UserError(
        f"--input_file {path} has no {what} {listed(missing)}, where this model's texts stand as "
        f"in {processor.dataset}; it has {shown(listed(names), 200)}; {advice}"
    )


def _check_texts(cfg, texts, other_name):
    """Raises UserError if only the texts, or only the data_processor's rows, are pairs."""
    keys = get_processor(cfg).text_keys
    if len(texts[0]) != len(keys) and isinstance(texts[0][-1], FileText):
        advice = f"give the {keys[0]} with --text" if len(keys) == 2 else "leave out --text"
        raise UserError(
            f"--input_file is a folder of texts, and {cfg.data_processor} takes "
            f"{' and '.join(keys)}; {advice}"
        )
    if len(texts[0]) != len(keys):
        actual = "a single text" if len(texts[0]) == 1 else "a pair of texts (with a tab in it)"
        expected = (
            f"single texts ({keys[0]}); leave out the tab{other_name}"
            if len(keys) == 1
            else f"pairs ({', '.join(keys)}); put a tab between the two, in a shell as "
            f"--text $'{keys[0]}\\t{keys[1]}'"
        )
        raise UserError(f"{texts[0][0]!r} is {actual}, but {cfg.data_processor} takes {expected}")


def _has_no_eval_rows(cfg):
    """Whether an input of files names none to score, which a training without evaluation may."""
    return cfg.data_processor in OF_FILES and not (cfg.eval_file or cfg.scores_held_out)


def _eval_splits(cfg, source):
    """Returns {name: split} to score or predict: the splits of the data, or the held-out rows."""
    if cfg.scores_held_out:
        return {"validation": source.processor.train_split}
    return {split: split for split in source.processor.eval_splits}
