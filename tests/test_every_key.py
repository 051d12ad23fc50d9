# SPDX-License-Identifier: Apache-2.0
"""Every key of the schema changes something that is observed here, or warns that it has no effect.

KEYS has a row for each key: another value, and the observation that has to differ. The test reads
the file with and without the change. A key that the program reads and ignores fails, and so does a
new key without a row. Keys with `no_effect` on their field need no row.
"""

import argparse
import contextlib
import copy
import dataclasses
import json
import os
import tempfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import get_args
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import yaml

import data
import run
from common.BaseModel import PREDICT, TRAIN
from common.checkpoints import store
from common.checkpoints.load import load_weights, open_checkpoint
from common.checkpoints.writer import CheckpointWriter
from common.cs import target
from common.cs.job import Job
from common.cs.worker import Worker
from common.errors import RunError, UserError
from common.flags import make_parser
from common.layers.feed_forward import FeedForward
from common.metrics.classification import ClassificationMetrics
from common.optimizers.factory import make_optimizer
from common.optimizers.schedules import make_schedule
from common.optimizers.summaries import gradient_summaries
from common.params import (
    SECTIONS,
    AnySchedule,
    Initializer,
    OptimizerParams,
    every_key,
    no_effect,
)
from common.platform.machine_code import compiled_for
from common.platform.streams import take_streams
from common.reports.listener import Listener, Listeners
from common.reports.progress import Console
from common.reports.tracking import trackers_of
from common.signals import Control
from common.training import loop
from common.training.checks import set_up
from common.training.cluster import read_cluster
from common.training.distribution import make_distribution
from common.training.length import last_step_of, resolve_length, with_former_budget
from common.training.session import Session
from common.training.trainer import Trainer
from input.masking import make_masking
from input.row_stores import num_processes_of, prepared_documents
from input.tokenizers.wordpiece import WordPieceTokenizer
from model import make_model, model_fn
from session import check_export, check_unchanged_meaning, choose_checkpoint, open_session
from tests.reference.records import example, write_file
from tests.reference.tiny_bert import (
    huggingface_tensors,
    random_features,
    randomize,
    save_huggingface,
)
from tests.reference.toy_rows import toy_eval_batches, toy_tokens, toy_train_batches
from utils import get_params, save_params

CHARACTERS = "abcdefghijklmnopqrstuvwxyz.,'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *CHARACTERS, *(f"##{c}" for c in CHARACTERS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The vocabulary, a checkpoint, files of rows, and the sample once it is prepared."""
    path = tmp_path_factory.mktemp("every_key")
    (path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    (path / "other_vocab.txt").write_text("\n".join([*VOCAB[:4], *VOCAB[:3:-1]]) + "\n")
    (path / "pretraining.yaml").write_text("model: {filter_size: 11}\n")
    save_huggingface(path / "weights", huggingface_tensors())
    tensors = huggingface_tensors()
    table = np.random.default_rng(0).normal(size=(len(VOCAB), 6)).astype(np.float32)
    tensors["embeddings.word_embeddings.weight"] = table
    for name in ("teacher", "other_teacher"):
        save_huggingface(path / name, tensors, vocab_size=len(VOCAB))
        (path / name / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    rows = [f"{text},{text[::-1]},{n % 2},{n % 3}" for n, text in enumerate(["ab", "bcd"] * 9)]
    for name, lines in (("train", rows), ("eval", rows[:5]), ("bad", [*rows, ",,,"])):
        (path / f"{name}.csv").write_text("\n".join(["text,other,label,third", *lines]) + "\n")
    lines = ["a b. C d e", "f g h", "i j k l m n o p q r", "s t", "u v. W x", "y z", "a a b"]
    documents = ["\n".join(lines[n : n + 4]) for n in range(4)] * 2
    (path / "documents.txt").write_text("\n\n".join(documents))
    (path / "other_documents.txt").write_text("\n\n".join(documents[:3]))
    topics = [{"text": "ab", "label": "a;b"}, {"text": "bcd", "label": ["b"]}] * 9
    (path / "topics.jsonl").write_text("\n".join(map(json.dumps, topics)) + "\n")
    rows = [f"{text},;{text[::-1]};{n % 2};,1" for n, text in enumerate(["ab", "bcd"] * 9)]
    lines = ["text,;text;label;,label", *rows, "text,;text;0;,0"]  # columns by either character
    sentence = "ab B-x\nbcd I-x\nabcabcabc O\n" * 3
    (path / "tagged.conll").write_text("\n".join([sentence] * 9))
    labels = {"[PAD]": 0, "B": 1, "I": 2, "O": 3, "X": 4, "[CLS]": 5, "[SEP]": 6}
    (path / "ner").mkdir()
    (path / "ner" / "label2id.json").write_text(json.dumps(labels))
    (path / "other_labels.json").write_text(json.dumps(labels | {"X": 3, "O": 4}))
    row = {"input_ids": [2, 5, 6, 3], "input_mask": [1] * 4, "segment_ids": [0] * 4}
    record = example(row | {"label_ids": [5, 1, 3, 6]})
    write_file(path / "ner" / "0.tfrecord", [record] * 9)
    rows = [{"question": "ab cd ef", "context": "a bcd e", "answers": ["bcd"]}] * 9
    rows[-1] = {"question": "ab", "context": "cd", "answers": []}
    (path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (path / "both.csv").write_text("".join(f"{line}\n" for line in lines))
    return path


def file_of(folder):
    """The file that is changed, as plain values."""
    return {
        "train_input": {
            "data_processor": "Sst2DataProcessor",
            "dataset": "sample_glue/sst2",
            "data_dir": str(folder / "tfds"),
            "cache_dir": str(folder / "cache"),
            "vocab_file": str(folder / "vocab.txt"),
            "max_sequence_length": 19,
            "batch_size": 7,
        },
        "model": {
            "hidden_size": 6,
            "num_hidden_layers": 2,
            "num_heads": 2,
            "filter_size": 13,
            "max_position_embeddings": 19,
            "encoder_nonlinearity": "gelu",
            "dropout_rate": 0.0,
        },
        "optimizer": {"optimizer_type": "adamw", "learning_rate": 0.1},
        "runconfig": {"tf_random_seed": 3, "max_steps": 12, "model_dir": str(folder / "runs")},
    }


def read(folder, changes, warnings=None):
    """Params of the file with `changes` {dotted key: value}; ($) in a value is the folder."""
    values = file_of(folder)
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        if sections == ["eval_input"]:
            values.setdefault("eval_input", dict(values["train_input"]))
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        value = value.replace("$", str(folder)) if isinstance(value, str) else value
        place[key] = copy.deepcopy(value)
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return get_params(path, on_warning=None if warnings is None else warnings.append)


# ---- Observations: functions of params -----------------------------------------------------------


def complete(params):
    classes = params.model.num_cls_classes or 2
    classes = None if params.task in ("pretraining", "question_answering") else classes
    return params.complete(None, {"num_cls_classes": classes, "vocab_size": len(VOCAB)})


def fresh_weights(params):
    """What a network begins with, and which of it is trained."""
    set_up(params.runconfig)
    weights = make_model(complete(params)).weights_by_name()
    return {name: (weight.numpy(), weight.trainable) for name, weight in weights.items()}


def logits(params, mode=PREDICT):
    """Of a network whose weights depend on their names and shapes alone."""
    model = make_model(complete(params))
    for name, weight in model.weights_by_name().items():
        generator = np.random.default_rng(zlib.crc32(f"{name} {weight.shape}".encode()))
        weight.assign(generator.normal(0, 0.3, weight.shape) + name.endswith("gamma"))
    features = random_features(batch=3, tokens=7)
    features["input_mask"] = 1 - features.pop("padding_mask")
    return model.build_model(features, mode)["logits"].numpy()


def logits_in_training(params):
    return logits(params, TRAIN)


def shape_of_logits(params):
    return logits(params).shape


def loaded(params):
    """What a pre-trained checkpoint brings, of this geometry."""
    weights = open_checkpoint(params.train_input.vocab_file.replace("vocab.txt", "weights"))
    params = read_geometry(params)
    report = load_weights(make_model(params), weights, params.model.disable_nsp)
    return sorted(report.fresh)


def read_geometry(params):
    update = {"vocab_size": 23, "max_position_embeddings": 19}
    return complete(params.model_copy(update={"model": params.model.model_copy(update=update)}))


def pretraining_outputs(params):
    """Losses and shapes of a pre-training network, whose weights depend on their names alone."""
    model = make_model(complete(params))
    for name, weight in model.weights_by_name().items():
        generator = np.random.default_rng(zlib.crc32(f"{name} {weight.shape}".encode()))
        weight.assign(generator.normal(0, 0.3, weight.shape) + name.endswith("gamma"))
    features = random_features(batch=3, tokens=7)
    features["input_mask"] = 1 - features.pop("padding_mask")
    features["masked_lm_positions"] = np.array([[0, 1], [2, 0], [1, 3]], np.int32)
    targets = {
        "masked_lm_ids": np.array([[5, 6], [7, 0], [8, 9]], np.int32),
        "masked_lm_weights": np.array([[1, 1], [1, 0], [1, 1]], np.float32),
        "next_sentence_labels": np.array([0, 1, 1], np.int32),
    }
    losses = model.build_losses(model.build_model(features, TRAIN), targets)
    return [float(loss) for loss in losses], sorted(model.weights_by_name()), vocab_rows(params)


def prepared_rows(params):
    """What is prepared of the documents, and where."""
    found = []
    for split, cfg in (("train", params.train_input), ("validation", params.eval_input)):
        tokenizer, layout = data.get_tokenizer(cfg), data.get_layout(cfg)
        folder, manifest = prepared_documents(cfg, split, tokenizer, layout)
        where = folder.parent.name if cfg.prepared_dir else "cache"
        found.append((where, manifest["content"], manifest["repeated"]))
    return found


def written_records(params):
    """The files of records that --mode prepare_data writes."""
    tokenizer = WordPieceTokenizer([*VOCAB, "[MASK]"])
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(data, "get_tokenizer") as get:
        get.return_value = tokenizer
        cfg = params.train_input.model_copy(update={"prepared_dir": folder})
        data.prepare_data(params.model_copy(update={"train_input": cfg, "eval_input": None}))
        files = Path(folder, "train").glob("*.tfrecords")
        return {path.name: zlib.crc32(path.read_bytes()) for path in files}


def num_processes(params):
    return num_processes_of(params.train_input)


def opened_teacher(params):
    """What a training has of its teacher, and begins with."""
    session = open_session(params)
    begun = {} if session.checkpoint is None else session.checkpoint.weights
    return session.teacher.path, {name: np.asarray(each) for name, each in begun.items()}


def losses_with_a_teacher(params):
    """Of a network and a teacher of two layers, whose weights and outputs depend on their names
    alone."""
    params = complete(params)
    network = params.model.model_copy(update={"num_hidden_layers": 2})
    teacher = params.with_teacher(None).model_copy(update={"model": network})
    model = make_model(params.with_teacher(teacher))
    taught = [model, *([] if model.teacher.network is None else [model.teacher.network])]
    for number, network in enumerate(taught):
        randomize(network, seed=number)
    features = random_features(batch=3, tokens=7)
    features["input_mask"] = 1 - features.pop("padding_mask")
    targets = {"labels": np.array([0, 1, 1], np.int32)}
    for name, spec in model.training_targets.items():
        targets[name] = np.random.default_rng(7).normal(size=(3, *spec.shape)).astype(spec.dtype)
    losses = model.build_losses(model.build_model(features, TRAIN), targets)
    return sorted(targets), [float(loss) for loss in losses]


def loss_of_words(params):
    labels = np.array([[0, 1, -1]], np.int32)
    outputs = {"logits": tf.constant([[[0.0, 1.0], [2.0, 0.0], [5.0, 5.0]]])}
    return float(make_model(complete(params)).build_total_loss(outputs, {"labels": labels}))


def loss_of_spans(params):
    """Of rows with padding, and a network whose weights depend on their names alone."""
    model = make_model(complete(params))
    for name, weight in model.weights_by_name().items():
        generator = np.random.default_rng(zlib.crc32(f"{name} {weight.shape}".encode()))
        weight.assign(generator.normal(0, 0.3, weight.shape) + name.endswith("gamma"))
    features = random_features(batch=3, tokens=7)
    features["input_mask"] = 1 - features.pop("padding_mask")
    targets = {f"{side}_positions": np.array([0, 1, 1], np.int32) for side in ("start", "end")}
    return float(model.build_total_loss(model.build_model(features, TRAIN), targets))


def answers_of_spans(params):
    model = make_model(complete(params))
    return model.n_best, model.max_tokens, model.threshold


def answers_for_words(params):
    return make_model(complete(params), ("O", "B-x")).build_eval_metric_ops().aggregation


def vocab_rows(params):
    return complete(params).model.vocab_size


def masks(params):
    """What training and evaluation mask in rows of random tokens."""
    tokenizer = WordPieceTokenizer([*VOCAB, "[MASK]"])
    ids = np.random.default_rng(0).integers(1, len(VOCAB), (5, 19))
    features = {"input_ids": tf.constant(ids, tf.int32), "input_mask": tf.zeros((5, 19), tf.int32)}
    seen = []
    for cfg in (params.train_input, params.eval_input):
        masking = make_masking(tokenizer, cfg)
        masked, targets = masking(features, {}, tf.constant(0), tf.range(5))
        seen += [masked["input_ids"], masked["masked_lm_positions"], *targets.values()]
    return [tensor.numpy() for tensor in seen]


def padded_lengths(params):
    """The shapes that the plan of the training has."""
    with (
        mock.patch("input.streams.make_masking"),  # which needs another vocabulary
        mock.patch("input.streams.make_streamed_batches") as made,
    ):
        data.train_input_fn(params, 0, 1)
    return made.call_args.args[0].distinct_shapes


def dtype_policy(params):
    return make_model(complete(params)).encoder.dtype_policy.name, params.optimizer.epsilon


def network(params):
    """The network that the params say, without building it."""
    return params.model


WEIGHTS = {
    "embeddings/word_embeddings": (5, 3),
    "encoder/layer_0/feed_forward/expand/kernel": (3, 2),
    "encoder/layer_0/feed_forward/expand/bias": (2,),
}


def rates(params):
    optimizer = resolve_length(params, None).optimizer
    return make_schedule(optimizer)(np.array([0, 1, 2, 3, 4, 5, 7, 11])).tolist()


def updates(params, num_steps=3, scale=1.0):
    """Weights, loss scales and figures of a few updates by gradients that are given."""
    generator = np.random.default_rng(0)
    weights = {
        name: tf.Variable(generator.normal(size=shape), dtype=tf.float32)
        for name, shape in WEIGHTS.items()
    }
    optimizer = make_optimizer(weights, params.optimizer, num_layers=1)
    seen = []
    for step in range(num_steps):
        factor = float(optimizer.loss_scale.factor)
        overflow = np.inf if scale == np.inf and step == 1 else 1.0
        arrays = [generator.normal(size=shape) * factor * overflow for shape in WEIGHTS.values()]
        arrays[0][step % 5] = 0.0  # a word that the batch does not have
        gradients = [tf.constant(array, tf.float32) for array in arrays]
        seen.append({name: float(value) for name, value in optimizer.apply(gradients).items()})
        seen.append([weight.numpy() for weight in weights.values()])
        seen.append({name: average.numpy() for name, average in optimizer.averages.items()})
        seen.append(float(optimizer.loss_scale.factor))
    return seen


def updates_with_overflow(params):
    return updates(params, num_steps=4, scale=np.inf)


def scaled_loss(params):
    weights = {"kernel": tf.Variable([1.0])}
    optimizer = make_optimizer(weights, params.optimizer)
    return float(optimizer.scale_loss(tf.constant(3.0)))


def summaries(params):
    gradients = {name: tf.ones(shape) for name, shape in WEIGHTS.items()}
    scalars, histograms = gradient_summaries(gradients, gradients, params.optimizer, "float32")
    return sorted(scalars), sorted(histograms)


def batches(params):
    """The first training batches and all of the evaluation's; or why there are none."""
    try:
        params = params.with_vocab_file(None)
        train = data.train_input_fn(params, 0, 4)
        seen = [train.rows, train.shapes, *train.targets.values()]
        for features, targets in train.dataset.as_numpy_iterator():
            seen += [*features.values(), *targets.values()]
        for split in data.eval_input_fn(params).values():
            seen += [split.rows, split.shapes, *split.targets.values()]
        return seen
    except UserError as error:
        return str(error)


def predictions(params):
    split, _ = data.predict_input_fn(params.with_vocab_file(None))
    return [batches.rows for batches in split.values()]


def columns_beside_texts(params):
    batches, _ = data.predict_input_fn(params)
    return [each.origins().columns for each in batches.values()]


def num_training_steps(params):
    return len(data.train_input_fn(params.with_vocab_file(None), 0, 1000))


def place_of_data(params):
    try:
        return str(data.get_source(params.train_input))
    except UserError as error:
        return str(error)


class Events(Listener):
    """What the training loop does, in order."""

    def __init__(self):
        self.events = []

    def on_figures(self, split, step, values, histograms=None):
        self.events.append(("report", step))

    def save(self, step):
        self.events.append(("save", step))

    def evaluate(self, step):
        self.events.append(("evaluate", step))


def in_the_loop(params, *listeners):
    """When the training loop saves, reports and evaluates."""

    def figures(features, targets):
        return {"train/cost_cls": 0.5, "train/lr": 0.1, "train/unclipped_grad_norm": 1.0}

    events = Events()
    loop.train(
        figures,
        [({}, {"labels": np.zeros(4)})] * 12,
        0,
        12,
        params.runconfig,
        Listeners([events, *listeners]),
        Control(),
        events.save,
        events.evaluate,
    )
    return events.events


def log_lines(params, capsys):
    in_the_loop(params, Console(params.runconfig.log_steps))
    return capsys.readouterr().err.count("\n")


def last_step(params):
    try:
        return last_step_of(resolve_length(params, 5).runconfig, 2)
    except UserError as error:
        return str(error)


def steps_of_budget(params):
    former = SimpleNamespace(path="x", config={"budget": {"max_seconds": 30, "max_steps": 10}})
    return with_former_budget(params, former)[0].runconfig.max_steps


def session_of(params):
    params = complete(params)

    def rows_of(count):
        tokens = toy_tokens(count)
        if params.task != "multi_label":
            return tokens
        sets = np.eye(2, dtype=np.float32)[tokens.targets["labels"]]
        return dataclasses.replace(tokens, targets={"labels": sets})

    data_of = SimpleNamespace(
        train_input_fn=lambda *_: toy_train_batches(rows_of(48), 4, 0, 12),
        summarize=lambda *_: [],
        eval_input_fn=lambda *_: {"split": toy_eval_batches(rows_of(13), 3)},
    )
    return Session(params, make_model, model_fn, data_of, label_names=("a", "b"), vocab=VOCAB)


def rows_evaluated(params):
    return {split: each.num_rows for split, each in data.eval_input_fn(params).items()}


def kept_checkpoints(params):
    Path(params.runconfig.model_dir).mkdir(parents=True, exist_ok=True)
    writer = CheckpointWriter(params.runconfig.model_dir)
    for step in (1, 2, 3, 4, 5, 6, 7):
        writer.save(step, {}, {}, {}, ["a"], params.runconfig.keep_checkpoint_max)
    writer.wait()
    return [step for step, _ in store.list_checkpoints(params.runconfig.model_dir)]


def chosen_checkpoint(params):
    try:
        return choose_checkpoint(params.runconfig)
    except UserError as error:
        return str(error)


def device(params):
    try:
        set_up(params.runconfig)
    except UserError as error:
        return str(error)
    return "there"


def loss(params):
    """Of fixed outputs, after the labels of the training rows are known."""
    model = make_model(complete(params))
    model.prepare_training({"labels": np.array([0, 0, 0, 1])})
    outputs = {"logits": tf.constant([[0.5, -1.0], [2.0, 0.25]])}
    return float(model.build_total_loss(outputs, {"labels": tf.constant([0, 1])}))


def computed_layers(params):
    """How often feed-forward blocks compute in a forward and a backward pass."""
    model = make_model(complete(params))
    features = random_features(batch=3, tokens=7)
    features["input_mask"] = 1 - features.pop("padding_mask")
    calls, call = [], FeedForward.call
    with mock.patch.object(FeedForward, "call", lambda *a, **k: calls.append(1) or call(*a, **k)):
        with tf.GradientTape() as tape:
            outputs = model.build_model(features, TRAIN)
        tape.gradient(outputs, model.trainable_variables)
    return len(calls)


def names_of_labels(params):
    return data.complete_params(params, {}, "x.yaml")[1]


def other_cache(params):
    """The files that batches put into `other_cache`."""
    batches(params)
    folder = Path(params.train_input.vocab_file).parent / "other_cache"
    return sorted(path.name for path in folder.rglob("*"))


def determinism(params):
    with mock.patch.object(tf.config.experimental, "enable_op_determinism") as enable:
        set_up(params.runconfig)
    return enable.call_count


def resumed(params):
    """Why a run with another learning rate is not resumed, if it is not."""
    folder = Path(params.runconfig.model_dir) / "resumed"
    former = params.model_copy(update={"optimizer": OptimizerParams(learning_rate=7)})
    save_params(former, folder)
    session = session_of(params.with_runconfig(model_dir=folder))
    try:
        checkpoint = SimpleNamespace(config={})
        check_unchanged_meaning(
            dataclasses.replace(session, resumed=folder, given_params=params, checkpoint=checkpoint)
        )
    except UserError as error:
        return str(error)
    return "resumed"


def training(params, nan_at=None):
    """How a training of twelve steps ends, whose second evaluation is the best."""
    Path(params.runconfig.model_dir).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=params.runconfig.model_dir))
    params = params.with_runconfig(model_dir=folder, mode="train_and_eval")
    session = session_of(params)
    steps, evaluated = [], []

    def step(features, targets):
        steps.append(1)
        cost = np.nan if len(steps) == nan_at else 0.5
        return {"train/cost_cls": cost, "train/unclipped_grad_norm": 1.0}

    def evaluate(batches_of_split, step, **keywords):
        evaluated.append(step)
        return {"eval/accuracy_cls": 0.9 if len(evaluated) == 2 else 0.5}, metrics

    metrics = ClassificationMetrics(("a", "b"), 2)
    trainer = Trainer(session, session.new_model(), Listeners(), make_step=lambda *_: step)
    trainer.evaluator.evaluate = evaluate
    try:
        result = trainer.train()
    except RunError as error:
        return str(error).splitlines()[0]
    best = folder / "best.json"
    calibrated = (folder / "eval" / "calibration.json").exists()
    return result.step, evaluated, best.exists() and json.loads(best.read_text()), calibrated


def training_through_nan(params):
    return training(params, nan_at=7)


def refused_export(params):
    try:
        check_export(SimpleNamespace(mode="train_and_eval", run=params.runconfig, params=params))
    except UserError as error:
        return str(error)
    return "can be exported"


def trackers(params):
    return [each.name for each in trackers_of(params.runconfig)]


def num_streams(params):
    with (
        mock.patch("common.platform.streams.num_cores", lambda: 2),
        mock.patch.dict(os.environ, TF_NUM_INTRAOP_THREADS="1"),
    ):
        return take_streams(params.runconfig)


def replicas(params):
    """The devices that share a batch, on a machine with nine GPUs."""
    with (
        mock.patch.object(tf.config, "list_physical_devices", lambda kind: ["gpu"] * 9),
        mock.patch.object(tf.distribute, "MirroredStrategy") as strategy,
    ):
        make_distribution(params.runconfig)
    return [call.args for call in strategy.call_args_list]


def cluster(params):
    config = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    return read_cluster(params.runconfig, {"TF_CONFIG": json.dumps(config)})


def what_runs(params):
    args = make_parser().parse_args([])
    with mock.patch.multiple(run, validate=lambda *_: "validation", run=lambda *_: "training"):
        return run.run_mode(params, args, None)


def folder_of_programs(params):
    with mock.patch.dict(os.environ):
        return compiled_for(params.runconfig)


def cluster_address(params):
    return target.address_of(params)


def calls_of_the_sdk(params):
    """The calls that make the backend of a CS system, of an SDK that only records them."""
    folder = Path(params.runconfig.model_dir) / "cs" / "job"
    folder.mkdir(parents=True, exist_ok=True)
    values = complete(params).model_dump(mode="json")
    job = dict.fromkeys((field.name for field in dataclasses.fields(Job)), None)
    Job(**job | {"params": values, "action": "run"}).write(folder)
    worker, worker_sdk = Worker(folder), mock.Mock()
    worker.cstorch = worker_sdk
    worker_sdk.distributed.ClusterConfig = lambda **values: values
    worker._make_backend()
    return [str(call) for call in worker_sdk.mock_calls]


# What reads data, which TensorFlow cannot do operation by operation.
READS_DATA = {
    *(batches, predictions, num_training_steps, rows_evaluated, place_of_data),
    *(
        opened_teacher,
        names_of_labels,
        other_cache,
        training,
        training_through_nan,
        columns_beside_texts,
    ),
}


@contextlib.contextmanager
def operation_by_operation(is_wanted):
    """Nothing is compiled, which takes longer than what it would compute here."""
    tf.config.run_functions_eagerly(is_wanted)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


# ---- The table -----------------------------------------------------------------------------------

LINEAR = {"scheduler": "Linear", "initial_learning_rate": 1, "end_learning_rate": 0, "steps": 3}
POLYNOMIAL = LINEAR | {"scheduler": "Polynomial", "power": 2}
EXPONENTIAL = {
    "scheduler": "Exponential",
    "initial_learning_rate": 1,
    "decay_steps": 3,
    "decay_rate": 0.5,
}
INVERSE = EXPONENTIAL | {"scheduler": "InverseExponentialTimeDecay", "step_exponent": 1}
COSINE = {"scheduler": "Cosine", "initial_learning_rate": 1, "decay_steps": 5}
PIECEWISE = {"scheduler": "PiecewiseConstant", "boundaries": [3], "values": [1, 0.5]}
CONSTANT = {"scheduler": "Constant", "learning_rate": 1}

DYNAMIC = {"optimizer.loss_scaling_factor": "dynamic", "optimizer.max_loss_scale": 65536}
MOMENTUM = {"optimizer.optimizer_type": "momentum"}
RMSPROP = {"optimizer.optimizer_type": "rmsprop"}
MNLI = {
    "train_input.data_processor": "MnliDataProcessor",
    "train_input.dataset": "sample_glue/mnli",
}

FILES = {
    "train_input.data_processor": "TextFileDataProcessor",
    "train_input.dataset": None,
    "train_input.data_dir": None,
    "train_input.train_file": "$/train.csv",
    "train_input.eval_file": "$/eval.csv",
    "train_input.text_columns": "text",
}
MULTI_LABEL = FILES | {
    "train_input.task": "multi_label",
    "train_input.train_file": "$/topics.jsonl",
    "train_input.eval_file": "$/topics.jsonl",
    "train_input.label_separator": ";",
}
TFDS = {
    "train_input.data_processor": "TfdsDataProcessor",
    "train_input.text_keys": "sentence",
}
PRETRAINING = {
    "train_input.data_processor": "DocumentDataProcessor",
    "train_input.dataset": None,
    "train_input.data_dir": None,
    "train_input.train_documents": "$/documents.txt",
    "train_input.eval_documents": "$/documents.txt",
}
REPLACING = PRETRAINING | {
    "train_input.mask_replace_prob": 0.0,
    "train_input.random_replace_prob": 1.0,
    "model.disable_nsp": True,
}
SINGLE_TEXTS = PRETRAINING | {"train_input.sentence_pairs": "none", "model.disable_nsp": True}
ANSWERING = FILES | {
    "train_input.data_processor": "QuestionAnsweringDataProcessor",
    "train_input.text_columns": None,
    "train_input.train_file": "$/questions.jsonl",
    "train_input.eval_file": "$/questions.jsonl",
}
TAGGING = FILES | {
    "train_input.data_processor": "TaggedTextDataProcessor",
    "train_input.text_columns": None,
    "train_input.train_file": "$/tagged.conll",
    "train_input.eval_file": "$/tagged.conll",
}
TAGGED_RECORDS = TAGGING | {
    "train_input.data_processor": "NerDataProcessor",
    "train_input.train_file": None,
    "train_input.eval_file": None,
    "train_input.data_dir": "$/ner",
    "runconfig.mode": "train",
}
RECORDS = PRETRAINING | {
    "train_input.write_records": True,
    "train_input.prepared_dir": "$/prepared",
    "train_input.short_seq_prob": 0.5,
}
SINGLE_RECORDS = RECORDS | SINGLE_TEXTS
FROM_THE_START = {"runconfig.mode": "train", "runconfig.model_dir": "$/empty"}
EVERY_3 = {"runconfig.eval_every_steps": 3}
ROTARY = {"model.backbone": "modernbert", "model.num_heads": 1}  # a head of an even width
BEST = EVERY_3 | {"runconfig.best_metric": "eval/accuracy_cls"}

TEACHER = {
    "distillation.teacher": "$/teacher",
    "runconfig.mode": "train",
    "runconfig.model_dir": "$/distilled",
}
# (key, another value, observation, {key: value} of the file that both begin from)
KEYS = [
    # 1.2, inputs
    ("train_input.data_processor", "MnliDataProcessor", place_of_data,
     {"train_input.dataset": "sample_glue/mnli"}),
    ("train_input.data_dir", "$/elsewhere", place_of_data, {}),
    ("train_input.vocab_file", "$/other_vocab.txt", batches, {}),
    ("train_input.vocab_size", 3, batches, {}),
    ("train_input.max_sequence_length", 11, batches, {}),
    ("train_input.batch_size", 5, batches, {}),
    ("train_input.add_special_tokens", False, batches, {}),
    ("train_input.do_lower", False, batches, {}),
    ("train_input.shuffle", False, batches, {}),
    ("train_input.repeat", False, num_training_steps, {}),
    ("train_input.shuffle_seed", 9, batches, {}),
    ("train_input.feature_rename_map", {"sentence": "text"}, batches,
     {"train_input.text_keys": ["text"]}),
    ("train_input.invert_mask", False, batches, {}),
    ("train_input.pad_id", 1, batches,
     {"train_input.max_sequence_length": 199, "model.max_position_embeddings": 199}),
    ("train_input.task", "regression", batches, {}),
    ("train_input.label_separator", ";", names_of_labels,
     MULTI_LABEL | {"train_input.label_separator": None}),
    ("train_input.label_names", ["1", "0"], names_of_labels, FILES),
    ("train_input.max_train_samples", 9, batches, {}),
    ("train_input.max_eval_samples", 9, batches, {}),
    ("train_input.eval_fraction", 0.25, batches, {}),
    ("train_input.on_bad_row", "skip", batches, FILES | {"train_input.train_file": "$/bad.csv"}),
    ("train_input.dataset", "sample_glue/sst3", place_of_data, {}),
    ("train_input.text_keys", ["sentence", "sentence"], batches, TFDS),
    ("train_input.label_key", "sentence", batches, TFDS),
    ("train_input.train_file", "$/eval.csv", batches, FILES),
    ("train_input.eval_file", "$/train.csv", batches, FILES),
    ("train_input.text_columns", "other", batches, FILES),
    ("train_input.label_column", "third", batches, FILES),
    ("train_input.delimiter", ";", batches, FILES | {"train_input.train_file": "$/both.csv"}),
    ("train_input.packing", "none", batches, {}),
    ("train_input.num_buckets", 1, batches, {}),
    ("train_input.cache_dir", "$/other_cache", other_cache, {}),
    ("eval_input.max_sequence_length", 11, batches, {}),
    ("predict_input.batch_size", 1, predictions, {}),
    ("train_input.id_columns", "third", columns_beside_texts, FILES),
    # 1.3, model
    ("model.backbone", "distilbert", logits, {}),
    ("model.hidden_size", 12, fresh_weights, {}),
    ("model.use_position_embedding", False, logits, {}),
    ("model.use_segment_embedding", False, logits, {}),
    ("model.position_embedding_type", "fixed", logits, {}),
    ("model.embedding_size", 4, fresh_weights, {}),
    ("model.max_position_embeddings", 29, fresh_weights, {}),
    ("model.vocab_size", 101, fresh_weights, {}),
    ("model.initializer", "glorot_uniform", fresh_weights, {}),
    ("initializer", "glorot_normal", fresh_weights, {}),
    ("model.initializer.value", 3, fresh_weights, {"model.initializer": {"name": "constant"}}),
    ("model.initializer.minval", -3, fresh_weights, {"model.initializer": {"name": "uniform"}}),
    ("model.initializer.maxval", 3, fresh_weights, {"model.initializer": {"name": "uniform"}}),
    ("model.initializer.mean", 3, fresh_weights, {"model.initializer": {"name": "normal"}}),
    ("model.initializer.stddev", 3, fresh_weights, {"model.initializer": {"name": "normal"}}),
    ("model.initializer.scale", 3, fresh_weights,
     {"model.initializer": {"name": "variance_scaling"}}),
    ("model.initializer.mode", "fan_out", fresh_weights,
     {"model.initializer": {"name": "variance_scaling"}}),
    ("model.initializer.distribution", "uniform", fresh_weights,
     {"model.initializer": {"name": "variance_scaling"}}),
    ("model.embedding_initializer", "normal", fresh_weights, {}),
    ("model.weight_initialization_seed", 9, fresh_weights, {}),
    ("model.num_hidden_layers", 1, fresh_weights, {}),
    ("model.num_heads", 3, logits, {}),
    ("model.filter_size", 17, fresh_weights, {}),
    ("model.encoder_nonlinearity", "relu", logits, {}),
    ("model.global_attention_every", 1, logits, ROTARY),
    ("model.local_attention", 2, logits, ROTARY),
    ("model.global_rope_theta", 2.0, logits, ROTARY),
    ("model.local_rope_theta", 2.0, logits, ROTARY),
    ("model.dropout_rate", 0.5, logits_in_training, {}),
    ("model.attention_dropout_rate", 0.5, logits_in_training, {}),
    ("model.cls_dropout_rate", 0.5, logits_in_training, {}),
    ("model.r_drop_alpha", 4.0, logits_in_training, {"model.dropout_rate": 0.5}),
    ("model.dropout_seed", 9, logits_in_training, {"model.dropout_rate": 0.5}),
    ("model.layer_norm_epsilon", 0.1, logits, {}),
    ("model.use_pre_normalization", True, logits, {}),
    ("model.use_ffn_bias", False, logits, {}),
    ("model.use_projection_bias_in_attention", False, logits, {}),
    ("model.use_ffn_bias_in_attention", False, logits, {}),
    ("model.attention_type", "dot_product", logits, {}),
    ("model.pooler_type", "mean", logits, {}),
    ("model.num_cls_classes", 5, shape_of_logits, {}),
    ("model.disable_nsp", True, loaded, {}),
    ("model.mixed_precision", True, dtype_policy, {}),
    ("model.pretrain_params_path", "$/pretraining.yaml", network, {"model.filter_size": None}),
    ("model.recompute", True, computed_layers, {}),
    ("model.class_weights", "auto", loss, {}),
    ("model.focal_gamma", 2, loss, {}),
    ("model.label_smoothing", 0.1, loss, {}),
    ("model.freeze", "embeddings", fresh_weights, {}),
    # Pre-training
    ("train_input.max_predictions_per_seq", 2, masks, PRETRAINING),
    ("train_input.masked_lm_prob", 0.3, masks, PRETRAINING),
    ("train_input.mask_whole_word", True, masks, PRETRAINING),
    ("train_input.max_ngram", 3, masks, PRETRAINING),
    ("train_input.mask_replace_prob", 0.9, masks, PRETRAINING),
    ("train_input.random_replace_prob", 0.0, masks, PRETRAINING),
    ("train_input.random_tokens", "ordinary", masks, PRETRAINING),
    ("train_input.document_separator_token", "[UNK]", masks, PRETRAINING),
    ("eval_input.masked_lm_prob", 0.3, masks, PRETRAINING),
    ("train_input.buckets", [5, 9], padded_lengths, PRETRAINING),
    ("train_input.train_documents", "$/other_documents.txt", prepared_rows, PRETRAINING),
    ("train_input.eval_documents", "$/other_documents.txt", prepared_rows, PRETRAINING),
    ("train_input.document_boundary", "file", prepared_rows, PRETRAINING),
    ("train_input.sentence_boundary", "punctuation", prepared_rows, PRETRAINING),
    ("train_input.sentence_pairs", "order", prepared_rows, PRETRAINING),
    ("train_input.pairing_seed", 1, prepared_rows, PRETRAINING),
    ("train_input.short_seq_prob", 0.9, prepared_rows, PRETRAINING),
    ("train_input.overlap_size", 2, prepared_rows, SINGLE_TEXTS),
    ("train_input.allow_cross_document_examples", True, prepared_rows, SINGLE_TEXTS),
    ("train_input.duplicates", "remove", prepared_rows, PRETRAINING),
    ("train_input.duplicate_line_length", 3, prepared_rows,
     PRETRAINING | {"train_input.duplicates": "remove"}),
    ("train_input.prepared_dir", "$/prepared", prepared_rows, PRETRAINING),
    ("train_input.write_records", False, written_records, RECORDS),
    ("train_input.dupe_factor", 2, written_records, RECORDS),
    ("train_input.random_seed", 9, written_records, RECORDS),
    ("train_input.min_short_seq_length", 9, written_records, RECORDS),
    ("train_input.num_output_files", 3, written_records, RECORDS),
    ("train_input.buffer_size", 9, written_records, SINGLE_RECORDS),
    ("train_input.disable_masking", True, written_records, SINGLE_RECORDS),
    ("train_input.num_processes", 1, num_processes, PRETRAINING | {"train_input.num_processes": 3}),
    ("model.pretraining_objective", "replaced_tokens", pretraining_outputs, REPLACING),
    ("model.share_embedding_weights", False, pretraining_outputs, PRETRAINING),
    ("model.mlm_loss_weight", 0.5, pretraining_outputs, PRETRAINING),
    ("model.mlm_loss_scaling", "batch_size", pretraining_outputs, PRETRAINING),
    ("model.mlm_nonlinearity", "relu", pretraining_outputs, PRETRAINING),
    ("model.use_ffn_bias_in_mlm", False, pretraining_outputs, PRETRAINING),
    ("model.use_output_bias_in_mlm", False, pretraining_outputs, PRETRAINING),
    ("model.nsp_nonlinearity", "relu", pretraining_outputs, PRETRAINING),
    ("model.use_nsp_bias", False, pretraining_outputs, PRETRAINING),
    ("model.vocab_size_multiple", 64, pretraining_outputs, PRETRAINING),
    # Token classification
    ("train_input.window_stride", 3, batches, TAGGING),
    ("train_input.labeled_pieces", "all", batches, TAGGING),
    ("train_input.tag_scheme", "IOB1", batches, TAGGING),
    ("train_input.label_vocab_file", "$/other_labels.json", batches, TAGGED_RECORDS),
    ("model.encoder_output_dropout_rate", 0.5, logits_in_training, TAGGING),
    ("model.loss_weight", 0.1, loss_of_words, TAGGING),
    ("model.word_aggregation", "average", answers_for_words, TAGGING),
    # Question answering
    ("train_input.max_query_length", 2, batches,
     ANSWERING | {"train_input.version_2_with_negative": True}),
    ("train_input.version_2_with_negative", True, batches, ANSWERING),
    ("train_input.data_file", "$/tagged.conll", batches,
     ANSWERING | {"train_input.train_file": None, "train_input.data_file": "$/questions.jsonl"}),
    ("model.qa_loss", "sum", loss_of_spans, ANSWERING),
    ("model.span_softmax", "row", loss_of_spans, ANSWERING),
    ("model.n_best_size", 3, answers_of_spans, ANSWERING),
    ("model.max_answer_length", 3, answers_of_spans, ANSWERING),
    ("model.null_score_diff_threshold", 3.0, answers_of_spans, ANSWERING),
    # Distillation
    ("distillation.teacher", "$/other_teacher", opened_teacher, TEACHER),
    ("distillation.student_layers", [1], opened_teacher,
     TEACHER | {"model.num_hidden_layers": None, "distillation.student_layers": [0]}),
    ("distillation.teacher_outputs", "computed", losses_with_a_teacher, TEACHER),
    ("distillation.temperature", 4, losses_with_a_teacher, TEACHER),
    ("distillation.soft_weight", 0.25, losses_with_a_teacher, TEACHER),
    ("distillation.hard_weight", 0.25, losses_with_a_teacher, TEACHER),
    *((f"distillation.{part}_weight", 0.5, losses_with_a_teacher, TEACHER)
      for part in ("hidden", "attention", "relation", "cosine")),
    ("distillation.teacher_layers", [0], losses_with_a_teacher,
     TEACHER | {"model.num_hidden_layers": 1, "distillation.hidden_weight": 1}),
    # 1.4, optimizer
    ("optimizer.optimizer_type", "sgd", updates, {}),
    ("optimizer.optimizer_type", "lamb", updates, {}),
    ("optimizer.learning_rate", "0.5", rates, {}),
    ("optimizer.warmup_ratio", 0.25, rates, {}),
    ("optimizer.decay", "cosine", rates, {}),
    ("optimizer.decay_end", 0.5, rates, {"optimizer.decay": "linear"}),
    ("optimizer.momentum", 0.5, updates, MOMENTUM),
    ("optimizer.beta1", 0.5, updates, {}),
    ("optimizer.beta2", 0.5, updates, {}),
    ("optimizer.epsilon", 0.1, updates, {}),
    ("optimizer.use_bias_correction", True, updates, {}),
    ("optimizer.weight_decay_rate", 0.5, updates, {}),
    ("optimizer.exclude_from_weight_decay", ["kernel"], updates,
     {"optimizer.weight_decay_rate": 0.5}),
    ("optimizer.rmsprop_decay", 0.5, updates, RMSPROP),
    ("optimizer.rmsprop_momentum", 0.5, updates, RMSPROP),
    ("optimizer.max_gradient_norm", 0.1, updates, {}),
    ("optimizer.max_gradient_value", 0.1, updates, {}),
    ("optimizer.grad_accum_steps", 2, num_training_steps, {}),
    ("optimizer.grad_accum_schedule", [[0, 1], [3, 2]], num_training_steps, {}),
    ("optimizer.loss_scaling_factor", 8, scaled_loss, {}),
    ("optimizer.loss_scaling_factor", "dynamic", updates_with_overflow, {}),
    ("optimizer.loss_scaling_factor", "tf_dynamic", scaled_loss, {}),
    ("optimizer.initial_loss_scale", 2, scaled_loss, DYNAMIC),
    ("optimizer.steps_per_increase", 1, updates, DYNAMIC),
    ("optimizer.min_loss_scale", 2.0**15, updates_with_overflow, DYNAMIC),
    ("optimizer.max_loss_scale", 2.0**15, updates, DYNAMIC | {"optimizer.steps_per_increase": 1}),
    ("optimizer.overflow_tolerance", 0.9, updates_with_overflow, DYNAMIC),
    ("optimizer.log_summaries", False, updates, {}),
    ("optimizer.log_grads", True, summaries, {}),
    ("optimizer.log_hists", True, summaries, {}),
    ("optimizer.ws_summary", True, summaries, {}),
    ("optimizer.disable_lr_steps_reset", True, rates,
     {"optimizer.learning_rate": [CONSTANT | {"steps": 2}, LINEAR]}),
    *((f"optimizer.learning_rate.{key}", value, rates, {"optimizer.learning_rate": schedule})
      for schedule, key, value in (
          (CONSTANT, "learning_rate", 0.5),
          (CONSTANT, "scheduler", None),  # an empty value is a key that is not given: refused
          (LINEAR, "initial_learning_rate", 0.5),
          (LINEAR, "end_learning_rate", 0.5),
          (LINEAR, "steps", 5),
          (LINEAR, "cycle", True),
          (POLYNOMIAL, "power", 3),
          (POLYNOMIAL, "cycle", True),
          (EXPONENTIAL, "initial_learning_rate", 0.5),
          (EXPONENTIAL, "decay_steps", 5),
          (EXPONENTIAL, "decay_rate", 0.25),
          (EXPONENTIAL, "staircase", True),
          (INVERSE, "step_exponent", 2),
          (INVERSE, "decay_rate", 0.25),
          (INVERSE, "staircase", True),
          (COSINE, "initial_learning_rate", 0.5),
          (COSINE, "decay_steps", 7),
          (COSINE, "alpha", 0.5),
          (PIECEWISE, "boundaries", [4]),
          (PIECEWISE, "values", [1, 0.25]),
      ) if value is not None),
    ("optimizer.layer_wise_lr_decay", 0.5, updates, {}),
    ("optimizer.lazy_word_embeddings", True, updates, {}),
    ("optimizer.moving_average_decay", 0.5, updates, {}),
    # 1.5, runconfig
    ("runconfig.max_steps", 9, last_step, {}),
    ("runconfig.steps", 3, last_step, {}),
    ("runconfig.num_epochs", 1.5, last_step, {"runconfig.max_steps": None}),
    ("runconfig.max_seconds", 60, steps_of_budget, {"runconfig.max_steps": None}),
    ("runconfig.eval_steps", 2, rows_evaluated, {}),
    ("runconfig.save_summary_steps", 5, in_the_loop, {}),
    ("runconfig.save_checkpoints_steps", 5, in_the_loop, {}),
    ("runconfig.tracking", ["mlflow"], trackers, {"runconfig.mode": "train"}),
    ("runconfig.log_step_count_steps", 3, log_lines, {}),
    ("runconfig.keep_checkpoint_max", 2, kept_checkpoints, {}),
    ("runconfig.tf_random_seed", 9, fresh_weights, {}),
    ("runconfig.throttle_secs", 1000, training, EVERY_3),
    ("runconfig.device", "/gpu:7", device, {}),
    ("runconfig.mode", "predict", chosen_checkpoint, {"runconfig.mode": "train"}),
    ("runconfig.model_dir", "$/other", chosen_checkpoint, {"runconfig.mode": "predict"}),
    ("runconfig.checkpoint_path", "$/weights", chosen_checkpoint, {"runconfig.mode": "predict"}),
    ("runconfig.started_from", "$/weights", chosen_checkpoint, FROM_THE_START),
    ("runconfig.deterministic", False, determinism, {}),
    ("runconfig.allow_changed_params", True, resumed, {}),
    ("runconfig.eval_every_steps", 5, training, EVERY_3),
    ("runconfig.best_metric", "eval/accuracy_cls", training, EVERY_3),
    ("runconfig.best_metric_mode", "min", training, BEST),
    ("runconfig.early_stopping_patience", 1, training, BEST),
    ("runconfig.calibrate_temperature", True, training, EVERY_3),
    ("runconfig.tune_thresholds", True, training, EVERY_3 | MULTI_LABEL),
    ("runconfig.recover_from_nan", 0.5, training_through_nan, EVERY_3),
    ("runconfig.export_best", "huggingface", refused_export, BEST | {"model.pooler_type": "mean"}),
    ("runconfig.num_streams", 2, num_streams, {}),
    ("runconfig.enable_distributed", True, replicas, {}),
    ("runconfig.num_devices", 7, replicas, {"runconfig.enable_distributed": True}),
    ("runconfig.multiple_workers", True, cluster, {"runconfig.mode": "train"}),
    ("runconfig.validate_only", True, what_runs, {}),
    ("runconfig.compile_only", True, folder_of_programs, {}),
    ("runconfig.compile_cache_dir", "$/programs", folder_of_programs, {}),
    ("runconfig.cs_ip", "10.0.0.1", cluster_address, {}),
    # csconfig
    ("csconfig.mgmt_address", "example.org:443", cluster_address, {}),
    *((f"csconfig.{key}", value, calls_of_the_sdk, {}) for key, value in (
          ("credentials_path", "$/certificate"),
          ("num_csx", 2),
          ("num_wgt_servers", 3),
          ("mount_dirs", ["/data"]),
          ("python_paths", ["/code"]),
          ("job_labels", ["team=nlp"]),
          ("job_time_sec", 60),
          ("compile_dir", "compiled"),
          ("backend", "cpu"),
          ("use_cbfloat16", True),
      )),
]  # fmt: skip


def same(one, other):
    """Whether two things that were looked at are equal, to the last bit."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype == "f4")
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or (one != one and other != other))


@pytest.mark.parametrize(
    ("key", "value", "look", "base"), KEYS, ids=[f"{key}={value}" for key, value, *_ in KEYS]
)
def test_every_key_changes_what_it_should(key, value, look, base, folder, capsys):
    def seen(changes):
        warnings = []
        params = read(folder, changes, warnings)
        assert warnings == []
        with operation_by_operation(look not in READS_DATA):
            return look(params, capsys) if look is log_lines else look(params)

    before = SEEN.get((look, repr(base)))
    if before is None:
        before = SEEN[look, repr(base)] = seen(base)
        if look is not kept_checkpoints:  # which are added up
            assert same(before, seen(base)), "it changes by itself, so a change shows nothing"
    assert not same(before, seen(base | {key: value})), f"{key} is read, and changes nothing"


SEEN = {}  # (what is looked at, the file that is begun from): what was seen


def another_value(field):
    """A value of a key without effect that is not its default."""
    default = field.default
    choices = [choice for choice in get_args(field.annotation) if choice not in (default, None)]
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default + 1
    return choices[0] if choices and isinstance(choices[0], str) else "relu" if default else 9


@pytest.mark.parametrize("key", no_effect())
def test_every_key_without_effect_warns_and_says_what_replaces_it(key, folder):
    section, name = key.split(".")
    warnings = []
    read(folder, {key: another_value(SECTIONS[section].model_fields[name])}, warnings)
    assert any(f"{key} has no effect here; {no_effect()[key]}" in warning for warning in warnings)


def test_every_key_of_the_schema_has_a_row():
    rows = {key for key, *_ in KEYS}
    shared = ("eval_input.", "predict_input.")  # the keys of train_input again
    keys = {key for key in every_key() if not key.startswith(shared)}
    assert not keys - rows - set(no_effect())
    assert all(any(row.startswith(section) for row in rows) for section in shared)


def test_every_key_of_schedules_and_initializers_has_a_row():
    names = {key.rpartition(".")[2] for key, *_ in KEYS}
    for union in (AnySchedule, Initializer):
        for section in union.__args__[0].__args__:
            assert not set(section.model_fields) - names - {"scheduler", "name"}


# ---- The command line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "overrides"),
    [
        (["-m", "eval"], {"runconfig.mode": "eval"}),
        (["-o", "d"], {"runconfig.model_dir": "d"}),
        (["--checkpoint_path", "c"], {"runconfig.checkpoint_path": "c"}),
        (["--steps", "3"], {"runconfig.steps": "3"}),
        (["--max_steps", "3"], {"runconfig.max_steps": "3"}),
        (["--num_epochs", "1.5"], {"runconfig.num_epochs": "1.5"}),
        (["--eval_steps", "-1"], {"runconfig.eval_steps": "-1"}),
        (["--device", "/cpu:0"], {"runconfig.device": "/cpu:0"}),
        (["--validate_only"], {"runconfig.validate_only": True}),
        (["--compile_only"], {"runconfig.compile_only": True}),
        (["--cs_ip", "10.0.0.1"], {"runconfig.cs_ip": "10.0.0.1"}),
        (["--num_csx", "2"], {"csconfig.num_csx": 2}),
        (["--mount_dirs", "/a", "/b"], {"csconfig.mount_dirs": ["/a", "/b"]}),
        (["--data_dir", "d"], {"*_input.data_dir": "d"}),
        (["--train_file", "a.csv"], {"*_input.train_file": "a.csv"}),
        (["--eval_file", "b.csv"], {"*_input.eval_file": "b.csv"}),
        (["--text_columns", "a,b"], {"*_input.text_columns": ["a", "b"]}),
        (["--text_columns", '"a,b", c'], {"*_input.text_columns": ["a,b", "c"]}),
        (["--label_column", "stars"], {"*_input.label_column": "stars"}),
        (["--batch_size", "8"], {"*_input.batch_size": "8"}),
        (["--num_epochs", "0.5"], {"runconfig.num_epochs": "0.5"}),
        (["--learning_rate", "1e-4"], {"optimizer.learning_rate": "1e-4"}),
        ([], {}),
    ],
)
def test_every_flag_comes_in_place_of_its_key(flags, overrides):
    parser = make_parser()
    assert isinstance(parser, argparse.ArgumentParser)
    assert run.overrides_of(parser.parse_args(["-p", "x.yaml", *flags])) == overrides
