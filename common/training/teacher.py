# SPDX-License-Identifier: Apache-2.0
"""The teacher of a distillation: what fits, its weights, and its outputs for the training rows.

Outputs that are kept lie beside the token cache: the next run of the same rows and teacher reads
them, and none of the runs has the teacher in memory while it trains.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.checkpoints.load import load_weights
from common.checkpoints.vocab import read_vocab
from common.console import counted, log
from common.errors import UserError
from common.files import cache_dir, delete_leftovers
from common.metrics.row_metrics import RowMetrics
from common.metrics.token_outputs import TokenOutputs
from common.params import ModelParams
from common.params.pretraining import TASK as PRETRAINING
from common.platform.seal import NotSealed, read_sealed, write_sealed
from common.tasks.distillation import LESSONS, TEACHER, layers_to_learn
from common.tasks.question_answering import NO_TOKEN
from common.tasks.targets import TOKENS, UNNAMED, named, places_in
from common.training.checks import check_trained, check_vocab
from common.training.inference import Inference

# The keys of an input that decide what a network is given of a row.
INPUT_KEYS = ("max_sequence_length", "add_special_tokens", "invert_mask", "pad_id", "packing")


def params_of(params, teacher, label_names, vocab):
    """Returns the complete Params of a teacher.

    Args:
        params: complete Params of the training.
        teacher: Checkpoint.
        label_names: tuple of str, of the training.
        vocab: list of str, of the training.
    Raises:
        UserError: the teacher answers another question, or reads other tokens.
    """
    where, config = f"distillation.teacher {teacher.path}", teacher.config
    trained = config.get("task", params.task)
    if trained != params.task:
        raise UserError(
            f"{where} is a model for {trained}, but task is {params.task}; give a teacher of the "
            "same task"
        )
    names = _names_of(teacher)
    if names and label_names and (len(names) != len(label_names) or not _places(params, teacher)):
        raise UserError(
            f"{where} has the labels {', '.join(names)}, but those of the training are "
            f"{', '.join(label_names)}; give a teacher of the same labels"
        )
    if config.get("vocab_file") is not None:
        if len(read_vocab(config["vocab_file"])) != len(vocab):
            raise UserError(
                f"{where} has a vocabulary of {len(read_vocab(config['vocab_file'])):,} entries, "
                f"but the training's has {len(vocab):,}; both read the same tokens, so give the "
                "teacher's vocabulary as vocab_file, or another teacher"
            )
        check_vocab(vocab, config["vocab_file"], teacher.path)
    case = config.get("do_lower_case")
    if case is not None and case != params.predict_input.do_lower:
        raise UserError(
            f"{where} has do_lower_case {str(case).lower()}, but do_lower is "
            f"{str(params.predict_input.do_lower).lower()}; both read the same tokens, so write "
            f"do_lower: {str(case).lower()}"
        )
    keys = {"mixed_precision": params.model.mixed_precision}
    if params.task == PRETRAINING:  # which the rows decide, not the teacher
        keys["disable_nsp"] = params.model.disable_nsp
    model = ModelParams(**keys)
    alone = params.with_teacher(None).model_copy(update={"model": model})
    known = {"num_cls_classes": params.model.num_cls_classes, "vocab_size": len(vocab)}
    complete = alone.complete(config, known | {"label_names": label_names}, where)
    if params.distillation.reads_layers:
        layers_to_learn(params.with_teacher(complete))
    return complete


def _names_of(teacher):
    names = tuple(teacher.config.get("label_names", ()))
    return () if all(map(UNNAMED.fullmatch, names)) else names


def _places(params, teacher):
    """Returns where each label of the training is among those of a teacher: list of int; None
    where one is not; [] where either has no names."""
    names, ours = _names_of(teacher), params.label_names or ()
    return places_in(names, ours) if names and ours else []


def fingerprint_of(checkpoint):
    """Returns the SHA-256 of a Checkpoint's weights, hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(checkpoint.weights.items()):
        array = np.ascontiguousarray(tensor, np.float32)
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(array.data)
    checkpoint.close()
    return digest.hexdigest()


class Teacher:
    """The teacher of a Session's training. session.params have the teacher's Params.

    listeners: Listeners, which are told of the progress.
    """

    def __init__(self, session, listeners):
        self.session, self.checkpoint, self.listeners = session, session.teacher, listeners
        params = session.params
        self.is_kept = params.distillation.keeps_outputs(params.task)
        self.names = LESSONS[params.task].outputs
        self._outputs = None

    def load_into(self, model):
        """Loads the weights into the teacher of a distilled BaseModel, where it has one."""
        if model.teacher.network is not None:
            self._load(model.teacher.network)

    def _load(self, network):
        report = load_weights(network, self.checkpoint)
        check_trained(report, network)
        self.listeners.on_message(f"Teacher {self.checkpoint.path} ({self.checkpoint.format})")
        self._order_labels(network)

    def _order_labels(self, network):
        """Puts the last layer's outputs into the order of the training's labels."""
        places = _places(self.session.params, self.checkpoint)
        if places and places != sorted(places):
            for weight in network.classifier.weights:
                weight.assign(np.asarray(weight)[..., places])

    @property
    def _is_of_tokens(self):
        return TOKENS in LESSONS[self.session.params.task].shape(None)

    def with_outputs(self, batches):
        """Returns Batches of training rows whose targets have the teacher's outputs, where these
        are kept."""
        if not self.is_kept:
            return batches
        if self._outputs is None:
            self._outputs = self._read_or_compute()
        return self._outputs.in_targets(batches)

    def _read_or_compute(self):
        """Returns the Kept of the training rows."""
        session = self.session
        rows = session.data.training_rows(session.params)
        purpose = f"teacher's outputs {self._fingerprint(rows)}"
        cfg = session.params.train_input
        folder = Path(cfg.cache_dir or cache_dir())
        name = f"teacher-{hashlib.sha256(purpose.encode()).hexdigest()[:16]}.safetensors"
        lengths = rows.num_tokens if self._is_of_tokens else None
        outputs, distribution = _read(folder / name, purpose), session.distribution
        is_found = outputs is not None
        if distribution.num_workers > 1:  # all of them compute, or none
            is_found = bool(np.all(distribution.gather(np.array([is_found], np.int32))))
        if is_found:
            self.listeners.on_message(f"Teacher's outputs of {folder / name}")
            return Kept(outputs, lengths)
        params = session.params.teacher
        network = session.make_model(params, session.label_names)
        self._load(network)
        inference = Inference(dataclasses.replace(session, params=params), network, self.listeners)
        make_metrics = RowMetrics if lengths is None else TokenOutputs
        found = inference.collect({"train": rows}, make_metrics, "teacher")["train"].outputs
        outputs = {each: np.asarray(found[each], np.float32) for each in self.names}
        size = sum(array.nbytes for array in outputs.values())
        where = f"kept in {folder / name}"
        try:
            if distribution.is_chief:
                write_sealed(folder / name, save(outputs), purpose)
                delete_leftovers(folder)
        except OSError as error:  # a read-only or full disk
            where = f"not kept in {folder}: {error.strerror}"
        rows = counted(rows.num_rows, "row")
        text = f"Teacher's outputs of {rows}, {size / 1e6:.1f} MB, {where}"
        self.listeners.on_message(text)
        return Kept(outputs, lengths)

    def _fingerprint(self, rows):
        """Returns what decides the outputs: the rows as the teacher reads them, its weights, and
        how it computes. rows: Batches."""
        params, input_ = self.session.params.teacher, self.session.params.train_input
        facts = {
            "weights": self.session.contents["teacher"],
            "network": params.model.model_dump(mode="json"),
            "input": {key: getattr(input_, key) for key in INPUT_KEYS},
            "rows": hashlib.sha256(np.ascontiguousarray(rows.row_hashes)).hexdigest(),
            "lengths": hashlib.sha256(np.ascontiguousarray(rows.num_tokens)).hexdigest(),
            "labels": list(self.session.label_names),
            "version": 1,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read(path, purpose):
    """Returns {name: array}, or None where the file is absent, or is not what runs write."""
    try:
        return load(read_sealed(path, purpose))
    except OSError:
        pass
    except (NotSealed, ValueError, SafetensorError) as error:
        log(f"{path} is not used: {error}; the teacher computes its outputs again")
    return None


@dataclasses.dataclass(frozen=True)
class Kept:
    """A teacher's outputs of all rows of a split.

    outputs: {name: <float32>[N, ...]}, or where `num_tokens`, int [N], are given, of the tokens of
    all rows one behind the other.
    """

    outputs: dict
    num_tokens: np.ndarray | None = None

    def in_targets(self, batches):
        """Returns Batches whose targets have the outputs of their rows, of tokens <>[B, T, ...]."""
        with tf.device("/cpu:0"):  # the input runs on the CPU, whatever the network's device
            tables = {name: tf.constant(array) for name, array in self.outputs.items()}
            if self.num_tokens is not None:
                offsets = np.concatenate([[0], np.cumsum(self.num_tokens)])
                offsets = tf.constant(offsets, tf.int64)

            def taken(table, rows, length):
                if self.num_tokens is None:
                    return tf.gather(table, rows)
                begin, end = (tf.gather(offsets, rows + n)[:, tf.newaxis] for n in (0, 1))
                place = begin + tf.range(tf.cast(length, tf.int64))  # [B, T]
                last = tf.shape(table, tf.int64)[0] - 1
                values = tf.gather(table, tf.minimum(place, last))
                is_token = place < end
                if values.shape.rank > 2:
                    is_token = is_token[:, :, tf.newaxis]
                return tf.where(is_token, values, NO_TOKEN)

            @tf.autograph.experimental.do_not_convert
            def add(batch, rows):
                features, targets, *weights = batch
                rows = tf.maximum(rows, 0)  # filler is row 0
                length = tf.shape(features["input_ids"])[1]
                found = {
                    f"{TEACHER}{name}": taken(table, rows, length) for name, table in tables.items()
                }
                return features, {**named(targets), **found}, *weights

            numbers = tf.data.Dataset.from_tensor_slices(batches.rows)
            dataset = tf.data.Dataset.zip((batches.from_batch(0), numbers)).map(add)
        dataset = dataset.with_options(batches.dataset.options())
        return dataclasses.replace(batches, dataset=dataset)


def without_values(model, batches):
    """Returns Batches whose targets have the shapes of a teacher's outputs, for programs that are
    traced before it answers. model: BaseModel; batches: of the training rows."""
    lengths, outputs = None, {}
    for name, spec in model.training_targets.items():
        number, *shape = batches.num_rows, *spec.shape
        if TOKENS in shape:
            lengths, shape = batches.num_tokens, shape[1:]
            number = int(lengths.sum())
        outputs[name.removeprefix(TEACHER)] = np.zeros((number, *shape), spec.dtype)
    return Kept(outputs, lengths).in_targets(batches) if outputs else batches
