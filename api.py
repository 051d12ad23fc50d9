# SPDX-License-Identifier: Apache-2.0
"""What run.py does, from Python: `Classifier` and its siblings; and `carry_out`, the mode itself.

    clf = Classifier("path/to/weights")
    clf.fit(texts, labels, num_epochs=3, model_dir="runs/a")
    clf.predict(["never once dull"])        # ["positive"]

A training goes through params, Session and Trainer as one of the command line does, and leaves the
same files in its model_dir. Keyword arguments are the everyday flags of run.py; any other key has
its dotted name in `overrides`. TensorFlow is imported by the first call that needs it.
"""

import contextlib
import functools
import json
import reprlib
import shutil
import sys
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.checkpoints import store
from common.checkpoints.artefact import copy_artefact
from common.console import log, logging_to
from common.errors import UserError
from common.files import delete_leftovers
from common.params import flag_keys
from common.params.serving import serving_params
from common.params.yaml_faults import nearest
from common.platform.machine_code import cache_path, open_cache, set_xla_flags, takes_cache
from common.platform.quiet_imports import import_once_quietly
from common.reports.metrics_file import read_curves
from common.signals import listening
from common.training.lock import check_written, locked
from common.training.run_record import on_record
from input.rows_in_memory import (
    COLUMNS,
    LABEL,
    as_labels,
    as_rows,
    put_back_if_refused,
    write_questions,
    write_rows,
)
from utils import SAVED, get_params

DATA = "data"  # the folder in model_dir of the files that texts in memory become


# ---- The modes of a Session ----------------------------------------------------------------------


def carry_out(session, control, listeners, programs=None, export=(None, None, None), engine=None):
    """Does a Session's mode. Returns its Result.

    Args:
        control: Control, which asks it to save or to stop.
        listeners: Listeners.
        programs: ProgramLibrary of compiled programs, or None.
        export: format, folder and quantization of mode export; the folder that an engine reads.
        engine: str, what computes a prediction with an export; None: the network.
    """
    from common.training.budget import within_budget
    from common.training.exporter import export_checkpoint
    from common.training.predictor import predict
    from common.training.trainer import Trainer
    from session import write_params

    if session.is_training:
        make = functools.partial(new_model, session)
        session = within_budget(session, make, listeners, programs)
        if session.distribution.is_chief:
            write_params(session)
        return Trainer(session, new_model(session), listeners, control, programs).train()
    evaluator = new_evaluator(session, listeners, programs)
    if session.mode == "predict":
        if engine is not None:
            from serving.bulk import open_for

            engine = open_for(session, evaluator.model, engine, export[1])
        return predict(session, evaluator.inference, engine)
    if session.mode == "eval":
        return evaluator.evaluate_checkpoint()
    if session.mode == "eval_all":
        return evaluator.evaluate_all()
    return export_checkpoint(evaluator, *export)


def export_best(session, listeners):
    """Exports the best checkpoint of a training Session as its params say. Returns Result."""
    from common.training.exporter import export_checkpoint
    from session import best_session

    evaluator = new_evaluator(best_session(session), listeners)
    return export_checkpoint(evaluator, session.run.export_best)


def new_evaluator(session, listeners=None, programs=None):
    from common.training.evaluator import Evaluator
    from common.training.inference import Inference

    return Evaluator(Inference(session, new_model(session), listeners, programs))


def new_model(session):
    """Returns the Session's network, whose backbone is not drawn where a checkpoint brings it."""
    from common.backbones.initializers import backbone_is_loaded

    with contextlib.nullcontext() if session.checkpoint is None else backbone_is_loaded():
        return session.new_model()


# ---- Models --------------------------------------------------------------------------------------


class Estimator:
    """What models of all tasks have in common.

    Args:
        checkpoint_path: path of weights in any format, or hf://owner/name: what a training starts
            from, and what answers where nothing was trained.
        model_dir: path of the folder of a training. Not given: a temporary one, which goes with the
            object; `save` keeps what was trained.
        params: path of a params file, in place of the everyday values.
        overrides: {dotted key: value} of any key of a params file.
        verbose: bool. Print what run.py prints.
        keys: everyday flags of run.py, such as num_epochs, batch_size and learning_rate.
    Attributes:
        result_: Result of the last training. history_: {(split, name): {step: float}}.
    """

    task = None  # None: what params and data say
    train_key, eval_key = "train_file", "eval_file"  # of an input, for the files of `fit`
    columns = (("text_columns", COLUMNS[1]), ("label_column", LABEL))  # of files of such rows
    write = staticmethod(write_rows)  # texts and labels in memory as such a file

    def __init__(
        self,
        checkpoint_path=None,
        *,
        model_dir=None,
        params=None,
        overrides=None,
        verbose=False,
        **keys,
    ):
        dotted_keys(keys)  # refuses unknown ones at once
        if not isinstance(overrides, Mapping | None):
            raise UserError(
                f"overrides is {overrides!r}; dotted keys with their values are wanted, such as "
                '{"optimizer.epsilon": 1e-6}'
            )
        self.checkpoint_path, self.model_dir, self.params = checkpoint_path, model_dir, params
        self.overrides, self.verbose, self.keys = overrides, verbose, keys
        self._folder = None  # the model_dir of what answers
        self._opened = None

    @classmethod
    def from_pretrained(cls, checkpoint_path, **keys):
        """Returns a model of weights in any format; arguments as of the class."""
        return cls(checkpoint_path, **keys)

    @classmethod
    def load(cls, model_dir, **keys):
        """Returns the model that a training, or `save`, has left in a folder.

        Raises UserError where there is none.
        """
        folder = Path(model_dir).expanduser()
        if not (folder / SAVED).is_file():
            raise UserError(f"{folder} holds no {SAVED}; name the model_dir of a training")
        model = cls(model_dir=str(model_dir), **keys)
        model._folder = folder
        return model

    # ---- As scikit-learn has it ------------------------------------------------------------------

    def get_params(self, deep=True):
        del deep
        names = ("checkpoint_path", "model_dir", "params", "overrides", "verbose")
        return {**{name: getattr(self, name) for name in names}, **self.keys}

    def set_params(self, **values):
        """Sets arguments of the class. What was trained stays, as scikit-learn has it."""
        type(self)(**self.get_params() | values)  # refuses wrong ones
        for name in values.keys() & self.get_params().keys() - self.keys.keys():
            setattr(self, name, values.pop(name))
        self.keys, self._opened = self.keys | values, None
        return self

    # ---- Training --------------------------------------------------------------------------------

    def fit(
        self,
        texts=None,
        labels=None,
        *,
        validation=None,
        data=None,
        model_dir=None,
        listeners=(),
        control=None,
        overrides=None,
        **keys,
    ):
        """Trains, and evaluates on the way. Returns self, which answers with the best checkpoint.

        A second call with the same model_dir continues the training there, as run.py does.

        Args:
            texts: list of str, or of pairs of str. A column of pandas or of `datasets` will do.
            labels: list of one label a text.
            validation: (texts, labels) to evaluate on, or the path of a file of them. Not given: a
                tenth of the rows, drawn at random.
            data: path of a .csv, .tsv or .jsonl file, in place of texts and labels; of the task's
                own files, as docs/tasks.md has them, or of documents.
            listeners: Listeners of `common/reports/listener.py`, told of steps and figures.
            control: Control, by which another thread can ask to save or to stop.
            model_dir, overrides, keys: as of the class, for this call.
        Raises:
            UserError: wrong arguments, params or data. RunError: the training failed.
        """
        folder = self._new_folder(model_dir)
        asked = dotted_keys(keys) | (overrides or {})
        check_written(folder)
        with self._quietly(), locked(folder), put_back_if_refused(folder / DATA):
            files = self._files(folder, texts, labels, validation, data)
            params = self._params(files | asked, mode="train_and_eval", folder=folder)
            self.result_ = train(params, self.params, listeners, control, self.verbose)
        self._folder, self._opened = folder, None
        self.history_ = read_curves(folder)
        return self

    def _new_folder(self, model_dir):
        """Returns the Path of a training's model_dir."""
        model_dir = model_dir or self.model_dir
        if model_dir is not None:
            return Path(model_dir).expanduser()
        folder = tempfile.mkdtemp(prefix="bert-classifier-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def _files(self, folder, texts, labels, validation, data):
        """Returns {dotted key: value} of the files to train on, which texts in memory become."""
        if texts is None and data is None:
            if self.params is None:
                raise UserError("fit needs texts and labels, or data=, a .csv, .tsv or .jsonl file")
            return {}
        if texts is not None and data is not None:
            raise UserError("fit has texts and data; give one of the two")
        if texts is None and labels is not None:
            raise UserError("fit has labels and no texts; the file of data= has labels of its own")
        values = {f"*_input.{self.train_key}": str(data)}
        if texts is not None:
            values = self.write(folder / DATA / "train.jsonl", texts, labels, "train_file")
        if isinstance(validation, str | Path):
            values[f"*_input.{self.eval_key}"] = str(validation)
        elif validation is not None:
            if not isinstance(validation, list | tuple) or len(validation) != 2:
                raise UserError(
                    f"validation is {reprlib.repr(validation)}; (texts, labels) is wanted, or the "
                    "path of a file"
                )
            values |= self.write(folder / DATA / "validation.jsonl", *validation, "eval_file")
        return values

    def _params(self, values, mode, folder, path=None):
        """Returns the Params of a mode. path: the params file, where it is not self.params."""
        overrides = {**(self.overrides or {}), **dotted_keys(self.keys), **values}
        overrides |= {"runconfig.mode": mode, "runconfig.model_dir": str(folder)}
        if path is None and self.checkpoint_path is not None:
            overrides["runconfig.checkpoint_path"] = str(self.checkpoint_path)
        if self.task is not None and path is None and self.params is None:
            overrides.setdefault("*_input.task", self.task)
        told = log if self.verbose else None
        return get_params(path or self.params, overrides, on_warning=told)

    def _quietly(self):
        return logging_to(None if self.verbose else lambda text: None)

    # ---- What was trained ------------------------------------------------------------------------

    @property
    def network(self):
        """The network, a keras.Model with its weights."""
        return self._open()[1].model

    def _open(self):
        """Returns the Session of the weights that answer, and its Evaluator; opened once."""
        if self._opened is None:
            with self._quietly():
                params = self._params_to_answer("predict")
                folder = start(params.runconfig)
                from session import open_session

                # A text, so that the label names are the checkpoint's and no data are needed.
                session = open_session(params, str(self.params or SAVED), texts=["-"])
                evaluator = new_evaluator(session, programs=programs_of(session, folder))
                evaluator.inference.load(session.checkpoint)
            self._opened = session, evaluator
        return self._opened

    def _params_to_answer(self, mode, values=None):
        folder = self._folder
        if folder is None and self.checkpoint_path is None:
            raise UserError(
                f"this {type(self).__name__} has no weights yet: fit it, load a model_dir, or give "
                "checkpoint_path"
            )
        if folder is not None:
            return self._params(values or {}, mode, folder, folder / SAVED)
        given = {}
        if self.params is None:  # no rows are read: these say what a row is
            given = {self.train_key: "-", "eval_fraction": 0.1, **dict(self.columns)}
        given = {f"*_input.{key}": value for key, value in given.items()}
        return self._params(given | (values or {}), mode, Path(tempfile.gettempdir()))

    def _records(self, texts):
        """Returns what the task says of each text: list of dict, and its arrays."""
        from common.training.inference import records_of

        session, evaluator = self._open()
        rows = as_rows(texts)
        if not rows:
            return [], None
        model, inference = evaluator.model, evaluator.inference
        with self._quietly():
            batches, _ = session.data.predict_input_fn(session.params, rows)
            ((split, found),) = inference.collect(batches, model.build_gathered, "predict").items()
            return records_of(model, found, batches[split].origins())[0], found

    def __call__(self, texts):
        """Returns what the task says of a text, a dict; of a list of texts, a list of them."""
        is_one = isinstance(texts, str)
        records = self._records([texts] if is_one else texts)[0]
        return records[0] if is_one else records

    def evaluate(self, texts=None, labels=None, *, data=None):
        """Returns {name: float} of texts whose answers are known, or of a file of them.

        Nothing is written. Without arguments: of the rows that the training kept for evaluation.
        """
        from session import open_session

        if data is not None and texts is not None:
            raise UserError("evaluate has texts and data; give one of the two")
        if texts is None and labels is not None:
            raise UserError("evaluate has labels and no texts; give both")
        if texts is None and data is None and self._folder is None and self.params is None:
            raise UserError(
                "nothing was trained here, so evaluate needs texts and labels, or data="
            )
        start()
        with tempfile.TemporaryDirectory(prefix="bert-classifier-") as folder, self._quietly():
            values = {} if data is None else {"eval_input.eval_file": str(data)}
            if texts is not None:
                rows = self.write(Path(folder) / "rows.jsonl", texts, labels, "eval_file")
                values = {key.replace("*_", "eval_"): value for key, value in rows.items()}
            params = self._params_to_answer("eval", values)
            session = open_session(params, str(self.params or SAVED))
            evaluator = new_evaluator(session)
            evaluator.inference.load(session.checkpoint)
            return evaluator.score(session.data.eval_input_fn(session.params))[0]

    def save(self, folder):
        """Keeps what was trained: checkpoint, vocabulary and params. Returns the Path.

        Raises UserError where nothing was trained, or the folder is there and not empty.
        """
        folder = Path(folder).expanduser()
        if self._folder is None:
            raise UserError("nothing was trained here; fit first")
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        copy_artefact(self._folder, folder)
        return folder

    def export(self, export_format, folder=None, quantize=None):
        """Writes the model for other programs. Returns the Result.

        Args:
            export_format: as --export_format: saved_model, huggingface, keras, onnx, tflite, tf1,
                keras_source or pytorch_source.
            folder: path. Not given: export/<format> in model_dir.
            quantize: "int8", of onnx and tflite.
        """
        from session import open_session

        start()
        with self._quietly():
            params = self._params_to_answer("export")
            session = open_session(params, str(self.params or SAVED))
            how = export_format, folder, quantize
            with listening() as control:
                return carry_out(session, control, listeners_of(None, self.verbose), export=how)

    def serve(self, name="model", block=True, **keys):
        """Answers over HTTP, as `--mode serve` does; see docs/serving.md.

        Args:
            name: str, of the model, as in /v1/models/NAME.
            block: bool. True: until Ctrl-C. False: in a thread; returns a Running with `url` and
                `stop()`, which is a context manager, too.
            keys: of `ServingParams`, such as port, host and engine.
        Raises UserError where nothing was trained, or the address is taken.
        """
        from serving.server import Running, serve
        from serving.sources import Source

        if self._folder is None:
            raise UserError("nothing was trained here; fit, or load a model_dir, then serve it")
        settings = serving_params(keys)
        sources = [Source(name, str(self._folder), settings.engine)]
        start()
        if not block:
            return Running(sources, settings)
        with listening() as control:
            return serve(sources, settings, control)


class Classifier(Estimator):
    """One label a text, or a pair of texts.

    Attributes:
        classes_: list of str, the label names, in the order of `predict_proba`'s columns.
    """

    @property
    def classes_(self):
        return list(self._open()[0].label_names)

    def predict(self, texts):
        """Returns the label name of each text: list of str."""
        return [record["label"] for record in self._records(texts)[0]]

    def predict_proba(self, texts):
        """Returns <float32>[N, C], the probability of each label, in the order of `classes_`."""
        records, _ = self._records(texts)
        names = self.classes_
        rows = [[record[f"p_{name}"] for name in names] for record in records]
        return np.array(rows, np.float32).reshape(-1, len(names))

    def logits(self, texts):
        """Returns <float32>[N, C], in the order of `classes_`."""
        found = self._records(texts)[1]
        empty = np.zeros((0, len(self.classes_)), np.float32)
        return empty if found is None else found.outputs["logits"]

    def __call__(self, texts):
        """Returns {"label", "score"} of a text; of a list of texts, a list of them."""
        is_one = isinstance(texts, str)
        rows = [texts] if is_one else texts
        names, probabilities = self.classes_, self.predict_proba(rows)
        best = [{"label": names[row.argmax()], "score": float(row.max())} for row in probabilities]
        return best[0] if is_one else best

    def score(self, texts, labels):
        """Returns the share of texts whose label is the right one: float, as scikit-learn does.

        Labels are read as those of a file are. Raises UserError for one that the model lacks.
        """
        from common.tasks.targets import Classes

        rows, names = as_rows(texts), self.classes_
        classes, right = Classes(names), []
        for label in as_labels(labels, len(rows)):
            right.append(classes.of_label(label if isinstance(label, str) else json.dumps(label)))
            if right[-1] is None:
                raise UserError(f"label {label!r} is none of {', '.join(names)}")
        found = map(names.index, self.predict(rows))
        return float(np.mean([a == b for a, b in zip(found, right, strict=True)]))


class TokenClassifier(Estimator):
    """Entities in texts. `predict` returns a list of records for each text."""

    task = "token_classification"

    def predict(self, texts):
        return self._records(texts)[0]


class QuestionAnswerer(Estimator):
    """Answers in texts, of pairs (question, text). `predict` returns a record for each pair.

    `fit` takes such pairs with their answers, as of `write_questions`, or a file.
    """

    task = "question_answering"
    columns = ()
    write = staticmethod(write_questions)

    def predict(self, pairs):
        return self._records(pairs)[0]


class MaskedLanguageModel(Estimator):
    """Fills the [MASK]s of texts. `predict` returns a record for each text."""

    task = "pretraining"
    train_key, eval_key = "train_documents", "eval_documents"
    columns = ()

    @staticmethod
    def write(path, texts, labels, key):
        del path, texts, labels, key
        raise UserError(
            "masked words are learnt from documents in files; write fit(data=...) with a folder, a "
            "file or a pattern"
        )

    def predict(self, texts):
        return self._records(texts)[0]


# ---- What they are made of -----------------------------------------------------------------------


def start(run=None):
    """Imports TensorFlow, if it is not yet, after what has to be set before.

    run: RunParams. Returns the Path of the programs that earlier runs of a user have kept, and to
    which this one adds; None where it takes none.
    """
    folder = None
    if "tensorflow" not in sys.modules:
        set_xla_flags()
    if run is not None and takes_cache(run):
        folder = _open_once(cache_path(run.compile_cache_dir))
    import_once_quietly()
    return folder


_open_once = functools.cache(open_cache)  # its lock, and the flags of XLA, are the process's


def programs_of(session, folder):
    """The ProgramLibrary of a Session; None without a folder, of `start`."""
    from common.platform.kept_programs import open_programs

    return None if folder is None else open_programs(folder, session.params, is_cache=True)


def dotted_keys(keys):
    """Returns {dotted key: value} of keyword arguments. Raises UserError for unknown ones."""
    flags = flag_keys()
    for name in keys:
        if name not in flags:
            near = nearest(name, flags)
            hint = f"; did you mean {near}?" if near else "."
            raise UserError(
                f"{name} is no keyword here{hint} Everyday keys are those with a flag of run.py; "
                'any other one has its dotted name: overrides={"optimizer.epsilon": 1e-6}'
            )
    return {flags[name]: value for name, value in keys.items()}


def listeners_of(model_dir, is_verbose, others=()):
    """Returns Listeners: of the files in model_dir, where there is one, and the console's."""
    from common.reports.listener import Listeners
    from common.reports.listeners import standard_listeners

    if model_dir is None:
        return Listeners(others)
    return standard_listeners(model_dir, has_console=is_verbose, others=others)


def train(params, params_path, listeners, control, is_verbose):
    """Trains as run.py does, on record in model_dir, which is locked. Returns the Result."""
    compiled = start(params.runconfig)
    from common.platform.streams import take_streams
    from common.reports.tracking import trackers_of
    from common.training.checks import set_up
    from session import open_session

    model_dir = Path(params.runconfig.model_dir)
    with listening(control) as control:
        store.delete_leftovers(model_dir)
        delete_leftovers(model_dir)
        with on_record(params, ["api", "fit"]) as record:
            params = params.with_runconfig(num_streams=take_streams(params.runconfig))
            session = open_session(params, str(params_path or "the arguments of fit"))
            set_up(session.run)
            record.accept()
            others = [*listeners, *trackers_of(session.run)]
            told = listeners_of(model_dir, is_verbose, others)
            with contextlib.closing(told):
                result = carry_out(session, control, told, programs_of(session, compiled))
            record.keep(result)
            record.end(result.exit_code)
        return result
