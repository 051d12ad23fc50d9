# SPDX-License-Identifier: Apache-2.0
"""open_session: the one resolution of params, checkpoint, seed and data."""

import contextlib
import dataclasses
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import data
import session as session_module
from common.checkpoints import store
from common.checkpoints.formats import ours
from common.errors import UserError
from common.params import Params
from common.training.length import resolve_length
from input import token_cache
from session import (
    choose_checkpoint,
    open_session,
    refuse_changes_of_meaning,
    without_data,
    write_params,
)
from tests.reference.tiny_bert import huggingface_tensors, save_huggingface
from utils import get_params

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrs"]  # 23, of the checkpoint
NETWORK = {
    "hidden_size": 6,
    "num_hidden_layers": 2,
    "num_heads": 2,
    "filter_size": 13,
    "max_position_embeddings": 19,
}


@pytest.fixture
def folder(tmp_path):
    """Rows, a vocabulary and pre-trained weights."""
    rows = [("a b", "long"), ("c", "short"), ("d e", "long"), ("f", "short")]
    lines = ["text\tlabel", *("\t".join(row) for row in rows)]
    (tmp_path / "rows.tsv").write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCAB))
    save_huggingface(tmp_path / "weights", huggingface_tensors())
    return tmp_path


def params_of(folder, model=None, optimizer=None, rows=None, **runconfig):
    """optimizer: None, as in a file without the section. rows: keys of the input, for its file."""
    rows = rows or {
        "data_processor": "TextFileDataProcessor",
        "train_file": str(folder / "rows.tsv"),
        "eval_file": str(folder / "rows.tsv"),
        "text_columns": ["text"],
        "label_column": "label",
        "max_sequence_length": 4,
    }
    return Params.model_validate(
        {
            "optimizer": optimizer,
            "train_input": {
                **rows,
                "vocab_file": str(folder / "vocab.txt"),
                "cache_dir": str(folder / "cache"),
                "batch_size": 2,
            },
            "model": NETWORK if model is None else model,
            "runconfig": {"mode": "train", "model_dir": str(folder / "model_dir"), "max_steps": 2}
            | runconfig,
        }
    )


def save_checkpoint(folder, step, **config):
    """Writes a checkpoint of a run into model_dir, of no weights."""
    (folder / "model_dir").mkdir(exist_ok=True)
    config = NETWORK | {"vocab_size": 23, "label_names": ["long", "short"], "step": step} | config
    return ours.save_checkpoint(folder / "model_dir", step, {}, {}, config, VOCAB)


def test_a_fresh_run_has_the_datas_labels_and_the_files_vocabulary(folder):
    session = open_session(params_of(folder, tf_random_seed=3))
    assert session.label_names == ("long", "short") and session.vocab == VOCAB
    assert session.checkpoint is None and session.resumed is None
    assert (session.first_step, session.is_training, session.is_complete) == (0, True, True)
    assert session.params.model.num_cls_classes == 2 and session.params.model.vocab_size == 23


@pytest.mark.parametrize(
    ("task", "config", "outputs"),
    [
        ("classification", {}, 2),
        ("classification", {"label_names": ["a", "b", "c"]}, 3),
        ("regression", {}, 1),
        ("multi_label", {"label_names": ["a", "b", "c"]}, 3),
    ],
)
def test_without_data_a_network_has_the_outputs_of_its_checkpoint_or_its_task(
    folder, task, config, outputs
):
    params = params_of(folder, model=NETWORK | {"vocab_size": 23})
    separator = ";" if task == "multi_label" else None
    changes = {"task": task, "label_separator": separator}
    inputs = {name: each.model_copy(update=changes) for name, each in params.inputs.items()}
    completed, _, _ = without_data(params.model_copy(update=inputs), config, "params.yaml")
    assert completed.model.num_cls_classes == outputs


def test_what_the_params_leave_out_comes_from_the_checkpoint_they_start_from(folder):
    params = params_of(folder, model={}, checkpoint_path=str(folder / "weights"))
    session = open_session(params)
    assert session.pretrained is session.checkpoint is not None
    assert {key: getattr(session.params.model, key) for key in NETWORK} == NETWORK
    assert session.given_params.model.hidden_size is None  # params.yaml keeps the inputs as given


def test_a_resumed_run_has_the_seed_of_its_checkpoint_and_another_one_draws_its_own(folder):
    seeds = {open_session(params_of(folder)).run.tf_random_seed for _ in range(3)}
    assert len(seeds) == 3
    save_checkpoint(folder, 7, tf_random_seed=11)
    session = open_session(params_of(folder, checkpoint_path=str(folder / "weights")))
    assert session.run.tf_random_seed == 11 and session.first_step == 7
    assert session.resumed == folder / "model_dir" / "checkpoint-7" and session.pretrained is None
    assert open_session(params_of(folder, tf_random_seed=5)).run.tf_random_seed == 5


@pytest.mark.parametrize(
    "name,content",
    [
        ("new.csv", 'note,text,label\n7,"a, ""b""\nc",\n8,d,?\n'),
        ("new.TSV", 'label\ttext\n\ta, "b"\n\td\n'),
        ("new.jsonl", '{"text": "a, \\"b\\"\\nc", "label": null}\n{"text": "d"}\n'),
    ],
)
def test_a_file_of_rows_is_predicted_by_its_format(folder, name, content):
    """With the columns that training read, and the label names of the checkpoint."""
    save_checkpoint(folder, 7, label_names=["short", "long"])
    (folder / name).write_text(content)
    params = params_of(folder, mode="predict")
    session = open_session(params, input_file=str(folder / name))
    _, texts = data.predict_input_fn(session.params, session.texts)
    first = 'a, "b"' if name == "new.TSV" else 'a, "b"\nc'
    assert texts["validation"] == [(first,), ("d",)]
    assert session.label_names == ("short", "long") and session.input_file
    with pytest.raises(UserError, match=r"--text and --input_file .*: give one of the two"):
        open_session(params, texts=["a"], input_file=str(folder / name))
    with pytest.raises(UserError, match=r"rows\.json is named as JSON; .* name it \.jsonl"):
        open_session(params, input_file="rows.json")


def test_the_best_checkpoint_is_taken_unless_the_newest_is_asked_for(folder):
    paths = [save_checkpoint(folder, step) for step in (4, 8)]

    def chosen(**runconfig):
        return choose_checkpoint(params_of(folder, **{"mode": "eval", **runconfig}).runconfig)[1]

    assert chosen() == paths[1]  # without best_metric
    store.write_best(folder / "model_dir", 4, metric="eval/loss", mode="min", value=0.5)
    for mode in ("eval", "predict", "export"):
        assert chosen(mode=mode) == paths[0]
    assert chosen(checkpoint_path="newest") == paths[1]
    assert chosen(mode="train") == chosen(mode="train_and_eval") == paths[1]  # resumes
    (paths[0] / "vocab.txt").write_text("damaged")
    with pytest.raises(UserError, match=r"the best, is damaged.*--checkpoint_path newest"):
        chosen()


def test_nothing_global_is_set(folder):
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    open_session(params_of(folder, tf_random_seed=3))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_a_fault_is_raised_or_else_collected_with_those_behind_it(folder):
    (folder / "rows.tsv").write_text("text\tlabel\na\tonly\n")
    model = NETWORK | {"vocab_size": 23}
    params = params_of(folder, model, checkpoint_path=str(folder / "none"))
    with pytest.raises(UserError, match="no such file"):
        open_session(params)
    faults = []

    @contextlib.contextmanager
    def attempt(part):
        try:
            yield
        except UserError as error:
            faults.append((part, str(error)))

    session = open_session(params, attempt=attempt)
    assert [part for part, _ in faults] == ["checkpoint", "data"]
    assert "has 1 different label in column label" in faults[1][1]
    assert session.is_complete and session.vocab == []  # the network follows from the params alone


@pytest.mark.parametrize(
    ("model", "runconfig", "text"),
    [
        # 2e9 layers of 4 * 6 * 6 + 2 * 6 * 13 = 300 weights, 4 bytes each and as many of gradients
        ({"num_hidden_layers": 2 * 10**9}, {}, "num_hidden_layers 2,000,000,000.*least 4,800.0 GB"),
        ({"hidden_size": 2 * 10**9}, {}, "model with .*hidden_size 2,000,000,000"),
        ({"filter_size": 2 * 10**9}, {}, "model with .*filter_size 2,000,000,000.*GB"),
        ({"max_position_embeddings": 10**12}, {}, r"max_position_embeddings 1,000,000,000,000"),
        # 1e11 steps of 2 rows, 4 bytes each
        ({}, {"max_steps": 10**11}, r"100,000,000,000 steps takes 200.* rows.*least 800.0 GB"),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_built(
    folder, monkeypatch, model, runconfig, text
):
    monkeypatch.setattr("common.training.checks.available_bytes", lambda device: 10**10)
    with pytest.raises(UserError, match=f"(?s){text}.*this machine has 10.0 GB free"):
        open_session(params_of(folder, NETWORK | model, **runconfig))
    if model:
        session = open_session(
            params_of(folder, NETWORK | model), attempt=lambda part: contextlib.suppress(UserError)
        )
        assert not session.is_complete  # --validate_only builds nothing, either


def test_bfloat16_without_its_instructions_is_refused_and_not_an_abort(folder, monkeypatch):
    params = params_of(folder, NETWORK | {"mixed_precision": "mixed_bfloat16"}, device="/cpu:0")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    open_session(params)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    with pytest.raises(UserError, match=r"ONEDNN_MAX_CPU_ISA is AVX2, without .* unset"):
        open_session(params)


def test_a_checkpoint_that_training_deletes_is_read_to_its_end_or_another_is_taken(
    folder, monkeypatch
):
    paths = [save_checkpoint(folder, step) for step in (1, 2)]
    former = session_module.open_checkpoint

    def delete_first(path):
        monkeypatch.setattr(session_module, "open_checkpoint", former)
        shutil.rmtree(path)
        return former(path)

    monkeypatch.setattr(session_module, "open_checkpoint", delete_first)
    session = open_session(params_of(folder, mode="eval"))
    assert session.checkpoint.path == str(paths[0])
    shutil.rmtree(paths[0])
    assert dict(session.checkpoint.weights) == {}


def test_a_vocabulary_larger_than_the_embedding_table_is_refused(folder):
    with pytest.raises(UserError, match=r"ids 0 to 22.*has model.vocab_size 20 rows"):
        open_session(params_of(folder, model=NETWORK | {"vocab_size": 20}))


OTHER = r"'s' is token 4 of the vocabulary, where checkpoint-7 has 'a'; leave vocab_file out"


def with_other_vocabulary(folder, params):
    """The same params with another vocabulary of as many entries."""
    other = [*VOCAB[:4], *reversed(VOCAB[4:])]
    (folder / "other.txt").write_text("".join(f"{token}\n" for token in other))
    inputs = {
        name: section.model_copy(update={"vocab_file": str(folder / "other.txt")})
        for name, section in params.inputs.items()
    }
    return params.model_copy(update=inputs)


@pytest.mark.parametrize("mode", ["train", "train_and_eval", "eval", "predict", "export"])
def test_another_vocabulary_of_as_many_entries_than_the_weights_had_is_refused(folder, mode):
    save_checkpoint(folder, 7)
    params = params_of(folder, mode=mode)
    open_session(params)
    with pytest.raises(UserError, match=OTHER):
        open_session(with_other_vocabulary(folder, params))


def test_another_vocabulary_that_a_training_may_go_on_with_is_told(folder, capsys):
    save_checkpoint(folder, 7)
    params = with_other_vocabulary(folder, params_of(folder, allow_changed_params=True))
    assert open_session(params).resumed
    assert re.search(f"^Changed: {OTHER}", capsys.readouterr().err, re.MULTILINE)


def test_another_vocabulary_is_named_before_documents_are_prepared_with_it(folder):
    (folder / "documents.txt").write_text("a b\nc d\n\ne f\ng h\n")
    rows = {
        "data_processor": "DocumentDataProcessor",
        "train_documents": str(folder / "documents.txt"),
        "eval_documents": str(folder / "documents.txt"),
        "prepared_dir": str(folder / "prepared"),
        "max_sequence_length": 9,
    }
    params = params_of(folder, rows=rows)
    open_session(params)
    save_checkpoint(folder, 7, label_names=[])
    with pytest.raises(UserError, match=OTHER):
        open_session(with_other_vocabulary(folder, params))


def test_params_of_another_meaning_are_refused_where_they_would_be_resumed(folder):
    former = open_session(params_of(folder, tf_random_seed=5))
    save_checkpoint(folder, 1, tf_random_seed=5)
    write_params(former)
    with pytest.raises(UserError, match=r"tf_random_seed was 5, is now 6"):
        open_session(params_of(folder, tf_random_seed=6))
    with pytest.raises(UserError, match=r"tf_random_seed was 5, is now 6"):
        open_session(params_of(folder, tf_random_seed=6, validate_only=True))
    open_session(params_of(folder, tf_random_seed=6, compile_only=True))


def test_a_run_in_auto_precision_is_resumed_with_the_epsilon_it_began_with(
    folder, monkeypatch, capsys
):
    monkeypatch.setattr(data, "best_precision", lambda gpu_capabilities: "mixed_bfloat16")
    auto = params_of(folder, NETWORK | {"mixed_precision": "auto"}, {}, tf_random_seed=5)
    new = open_session(auto)
    assert new.params.optimizer.epsilon == 1e-5
    earlier = new.params.with_epsilon(1e-8)  # an earlier version took that of float32
    write_params(dataclasses.replace(new, params=earlier))
    save_checkpoint(folder, 1, tf_random_seed=5)
    assert open_session(auto).params.optimizer.epsilon == 1e-8
    assert "optimizer.epsilon stays 1e-08" in capsys.readouterr().err


# ---- How long it trains --------------------------------------------------------------------------


def schedules_of(session):
    """(first rate, last rate, steps) of each schedule."""
    return [
        (each.initial_learning_rate, each.end_learning_rate, each.steps)
        for each in session.params.optimizer.learning_rate
    ]


def test_epochs_are_counted_in_the_rows_that_are_read(folder):
    # 4 rows are 2 batches of 2: 10 epochs are 20 steps, 2 of them the warm-up.
    by_epochs = params_of(folder, max_steps=None, num_epochs=10, tf_random_seed=5)
    session = open_session(by_epochs)
    assert (session.run.max_steps, session.run.num_epochs) == (20, None)
    assert schedules_of(session) == [(0.0, 5e-5, 2), (5e-5, 0.0, 18)]
    # A row less leaves one whole batch; a selection of rows counts in the same way.
    inputs = by_epochs.model_dump(exclude_none=True)
    inputs["train_input"]["max_train_samples"] = 3
    fewer = open_session(Params.model_validate(inputs))
    assert fewer.run.max_steps == 10 and schedules_of(fewer)[1][2] == 9
    # A mode that trains nothing reads no training rows for it.
    save_checkpoint(folder, 1, tf_random_seed=5)
    evaluated = open_session(by_epochs.with_runconfig(mode="eval"))
    assert evaluated.run.num_epochs == 10 and evaluated.run.max_steps is None


def test_what_epochs_stand_for_is_saved_and_resumed_whichever_word_says_it(folder):
    by_epochs = params_of(folder, max_steps=None, num_epochs=10, tf_random_seed=5)
    first = open_session(by_epochs)
    save_checkpoint(folder, 1, tf_random_seed=5, contents=first.contents)
    write_params(first)
    again = open_session(by_epochs)
    assert again.resumed and again.params == first.params
    saved = open_session(get_params(folder / "model_dir" / "params.yaml"))
    assert saved.resumed and saved.params.optimizer == first.params.optimizer
    assert saved.run.max_steps == 20
    # Another length is another decay, so other weights; a part of the training is not.
    with pytest.raises(UserError, match=r"optimizer.learning_rate was .* in 18 steps, is now"):
        open_session(by_epochs.with_runconfig(num_epochs=11))
    part = open_session(by_epochs.with_runconfig(steps=3))
    assert part.resumed and schedules_of(part) == schedules_of(first)


def test_what_seconds_amounted_to_is_resumed_and_another_budget_is_another_decay(folder):
    by_seconds = params_of(folder, max_steps=None, max_seconds=60, tf_random_seed=5)
    first = open_session(by_seconds)  # the speed is still to be measured
    assert first.run.max_seconds == 60 and first.params.optimizer.learning_rate == 5e-5
    steps = first.before_length.with_runconfig(max_seconds=None, max_steps=20)
    first = dataclasses.replace(first, params=resolve_length(steps, None))
    save_checkpoint(
        folder,
        1,
        tf_random_seed=5,
        contents=first.contents,
        budget={"max_seconds": 60, "max_steps": 20},
    )
    write_params(first)
    again = open_session(by_seconds)
    assert again.resumed and again.params == first.params
    assert again.budget == {"max_seconds": 60, "max_steps": 20}
    assert schedules_of(again) == [(0.0, 5e-5, 2), (5e-5, 0.0, 18)]
    saved = open_session(get_params(folder / "model_dir" / "params.yaml"))
    assert saved.run.max_steps == 20 and saved.budget == again.budget
    with pytest.raises(UserError, match=r"optimizer.learning_rate was .* in 18 steps, is now"):
        open_session(by_seconds.with_runconfig(max_seconds=90))


def test_rows_that_change_the_number_of_steps_are_refused_with_what_they_change(folder):
    by_epochs = params_of(folder, max_steps=None, num_epochs=10, tf_random_seed=5)
    first = open_session(by_epochs)
    save_checkpoint(folder, 1, tf_random_seed=5, contents=first.contents)
    write_params(first)
    rows = (folder / "rows.tsv").read_text()
    (folder / "rows.tsv").write_text(rows + "g\tlong\nh\tlong\n")
    with pytest.raises(UserError, match=r"content of split train was 4 rows") as refusal:
        open_session(by_epochs)
    assert "optimizer.learning_rate was" in str(refusal.value)


def test_a_constant_rate_may_go_on_for_more_epochs(folder):
    by_epochs = params_of(folder, None, {}, max_steps=None, num_epochs=1, tf_random_seed=5)
    first = open_session(by_epochs)
    assert first.params.optimizer.learning_rate == 5e-5
    save_checkpoint(folder, 1, tf_random_seed=5, contents=first.contents)
    write_params(first)
    assert open_session(by_epochs.with_runconfig(num_epochs=3)).run.max_steps == 6


def test_a_start_of_epochs_reads_the_tokens_to_train_on_once(folder, monkeypatch):
    params = params_of(folder, max_steps=None, num_epochs=10)
    data.train_input_fn(open_session(params).params, 0, 2)  # writes the cache
    opened, read = [], token_cache.read_sealed

    def counted(path, *arguments):
        opened.append(path)
        return read(path, *arguments)

    monkeypatch.setattr(token_cache, "read_sealed", counted)
    session = open_session(params)
    batches = data.train_input_fn(session.params, 0, 20)
    assert len(opened) == 1 and batches.num_per_epoch == 2
    data.train_input_fn(session.params, 0, 20)  # they are not kept in memory for ever
    assert len(opened) == 2


def test_rows_that_are_skipped_count_for_no_epoch_and_are_told_once(folder, capsys):
    with (folder / "rows.tsv").open("a") as file:
        file.write("g\t\n")  # without a label
    params = params_of(folder, max_steps=None, num_epochs=10)
    inputs = params.model_dump(exclude_none=True)
    for section in ("train_input", "eval_input", "predict_input"):
        inputs[section]["on_bad_row"] = "skip"
    session = open_session(Params.model_validate(inputs))
    assert session.run.max_steps == 20
    assert "skipped" not in capsys.readouterr().err
    data.train_input_fn(session.params, 0, 1)
    assert capsys.readouterr().err.count("skipped in split train") == 1


def test_rows_that_fill_no_batch_are_refused_before_anything_is_counted(folder):
    params = params_of(folder, max_steps=None, num_epochs=1)
    inputs = params.model_dump(exclude_none=True)
    inputs["train_input"]["batch_size"] = 5
    with pytest.raises(UserError, match=r"batch_size is 5, but split train .* only 4 rows"):
        open_session(Params.model_validate(inputs))


# ---- What a run was started from -----------------------------------------------------------------


@pytest.fixture
def saved(folder):
    """params.yaml of a run that was started from weights, and has made checkpoint-7."""
    weights = str(folder / "weights")
    session = open_session(params_of(folder, checkpoint_path=weights, tf_random_seed=5))
    write_params(session)
    keys = ("encoder_nonlinearity", "layer_norm_epsilon")
    save_checkpoint(folder, 7, **{key: getattr(session.params.model, key) for key in keys})
    return folder / "model_dir" / "params.yaml"


def used_by(saved, **overrides):
    """Path of the checkpoint that is used with a saved file."""
    params = get_params(saved, {f"runconfig.{key}": value for key, value in overrides.items()})
    return Path(open_session(params).checkpoint.path)


def test_saved_params_use_what_the_run_made_and_not_what_it_was_started_from(folder, saved):
    origin = folder / "weights"
    run = get_params(saved).runconfig
    assert (run.checkpoint_path, run.started_from) == (None, str(origin))
    for mode in ("eval", "predict", "export"):
        assert used_by(saved, mode=mode) == saved.parent / "checkpoint-7"
    assert used_by(saved, mode="eval", checkpoint_path=str(origin)) == origin
    assert used_by(saved, model_dir=str(folder / "again")) == origin  # the same training again
    write_params(open_session(params_of(folder, tf_random_seed=5)))  # resumed, by the YAML alone
    assert get_params(saved).runconfig.started_from == str(origin)


def test_params_that_an_earlier_version_saved_are_read_so_too(folder, saved):
    origin, text = folder / "weights", saved.read_text()
    earlier = text.replace("  started_from:", "  checkpoint_path:")
    for name in ("params.yaml", "params.2.yaml"):
        (saved.parent / name).write_text(earlier)
        assert used_by(saved.parent / name, mode="eval") == saved.parent / "checkpoint-7"
    # A checkpoint_path that a person writes is what is used.
    (folder / "mine.yaml").write_text(earlier)
    assert used_by(folder / "mine.yaml", mode="eval") == origin
    saved.write_text(
        text.replace("  started_from:", f"  checkpoint_path: {origin}\n  started_from:")
    )
    assert used_by(saved, mode="eval") == origin


# ---- Keys that have changed since the checkpoint -------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "runconfig.max_steps",
        "runconfig.save_checkpoints_steps",
        "runconfig.mode",
        "train_input.data_dir",
        "eval_input.batch_size",
        "predict_input.max_sequence_length",
        "csconfig.use_cbfloat16",
        "model.recompute",
        "optimizer.log_grads",
    ],
)
def test_how_long_how_often_and_where_may_change(key):
    refuse_changes_of_meaning([(key, 1, 2)], "checkpoint-7", is_allowed=False)


@pytest.mark.parametrize(
    "key",
    [
        "runconfig.tf_random_seed",
        "train_input.batch_size",
        "train_input.dataset",
        "train_input.shuffle_seed",
        "eval_input.dataset",
        "model.num_heads",
        "model.dropout_rate",
        "optimizer.learning_rate",
        "params.yaml",  # which cannot be read
    ],
)
def test_what_changes_the_meaning_is_refused_with_both_values_unless_allowed(key):
    changes = [("runconfig.max_steps", 8, 9), (key, "old value", "new value")]
    with pytest.raises(UserError) as error:
        refuse_changes_of_meaning(changes, "runs/x/checkpoint-7", is_allowed=False)
    text = str(error.value)
    assert f"\n  {key} was old value, is now new value\n" in text and "max_steps" not in text
    assert "checkpoint-7" in text and "--allow_changed_params" in text
    refuse_changes_of_meaning(changes, "runs/x/checkpoint-7", is_allowed=True)


def test_another_number_of_epochs_is_told_as_the_schedules_that_follow_from_it():
    def lines(*steps):
        line = {"scheduler": "Linear", "cycle": False}
        rates = [(0.0, 5e-05), (5e-05, 0.0)]
        return [
            line | {"steps": n, "initial_learning_rate": first, "end_learning_rate": last}
            for n, (first, last) in zip(steps, rates, strict=True)
        ]

    changes = [("optimizer.learning_rate", lines(1, 19), lines(3, 33))]
    with pytest.raises(UserError) as error:
        refuse_changes_of_meaning(changes, "checkpoint-7", is_allowed=False)
    assert str(error.value).splitlines()[1] == (
        "  optimizer.learning_rate was 0.0 to 5e-05 in 1 step, then 5e-05 to 0.0 in 19 steps, is "
        "now 0.0 to 5e-05 in 3 steps, then 5e-05 to 0.0 in 33 steps"
    )


def test_rows_that_changed_are_refused_where_they_would_be_resumed(folder, capsys):
    params = params_of(folder, tf_random_seed=5, mode="train_and_eval")
    former = open_session(params)
    save_checkpoint(folder, 1, tf_random_seed=5, contents=former.contents)
    write_params(former)
    rows = (folder / "rows.tsv").read_text()
    (folder / "copy.tsv").write_text(rows.replace("\n", "\r\n"))  # the same rows elsewhere
    inputs = params.model_dump(exclude_none=True)
    for section in ("train_input", "eval_input", "predict_input"):
        inputs[section] |= {key: str(folder / "copy.tsv") for key in ("train_file", "eval_file")}
    assert open_session(Params.model_validate(inputs)).resumed
    assert capsys.readouterr().err == ""

    inputs["eval_input"]["eval_file"] = None  # not moved, but another way to evaluate
    inputs["eval_input"]["eval_fraction"] = inputs["train_input"]["eval_fraction"] = 0.5
    with pytest.raises(UserError, match=r"eval_file was .*rows.tsv, is now None"):
        open_session(Params.model_validate(inputs))

    (folder / "rows.tsv").write_text(rows + "g\tlong\n")
    told = r"content of split train was 4 rows, \w{32}, is now 5 rows, \w{32}\n.*split validation"
    with pytest.raises(UserError, match=f"checkpoint-1 cannot be resumed with .*\n.*{told}"):
        open_session(params)
    assert open_session(params.with_runconfig(allow_changed_params=True)).resumed
    (folder / "rows.tsv").write_text(rows.replace("short", "brief"))
    with pytest.raises(UserError, match="the label names was long, short, is now brief, long"):
        open_session(params)


def test_a_checkpoint_that_does_not_know_its_rows_is_resumed_with_a_note(folder, capsys):
    params = params_of(folder, tf_random_seed=5)
    save_checkpoint(folder, 1, tf_random_seed=5)
    write_params(open_session(params))
    assert open_session(params).resumed
    assert "checkpoint-1 is of an earlier version: whether its rows changed is not known" in (
        capsys.readouterr().err
    )
    (folder / "moved.tsv").write_text((folder / "rows.tsv").read_text())
    inputs = params.model_dump(exclude_none=True)
    inputs["train_input"]["train_file"] = str(folder / "moved.tsv")
    with pytest.raises(UserError, match=r"train_input.train_file was .*rows.tsv, is now"):
        open_session(Params.model_validate(inputs))


# ---- What is left to others ----------------------------------------------------------------------


def test_a_key_without_effect_beside_the_others_does_not_refuse_a_resume(folder):
    params = params_of(folder, tf_random_seed=5)
    save_checkpoint(folder, 1, tf_random_seed=5, contents=open_session(params).contents)
    write_params(open_session(params))

    def with_optimizer(**values):
        optimizer = params.optimizer.model_copy(update=values)
        return params.model_copy(update={"optimizer": optimizer})

    assert open_session(with_optimizer(momentum=0.5, steps_per_increase=7)).resumed  # adamw
    with pytest.raises(UserError, match=r"optimizer.beta1 was 0.9, is now 0.5"):
        open_session(with_optimizer(beta1=0.5))
    with pytest.raises(UserError, match=r"optimizer.momentum was 0.9, is now 0.5"):
        open_session(with_optimizer(optimizer_type="momentum", momentum=0.5))


def test_the_case_of_texts_is_that_of_the_checkpoints_folder_unless_it_is_written(folder):
    (folder / "weights" / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    params = params_of(folder, checkpoint_path=str(folder / "weights"))
    session = open_session(params)
    inputs = session.params.inputs.values()
    assert [section.do_lower for section in inputs] == [False] * 3
    write_params(session)  # so that it holds without the folder
    saved = get_params(folder / "model_dir" / "params.yaml")
    assert [section.do_lower for section in saved.inputs.values()] == [False] * 3
    written = params.model_dump(exclude_unset=True)
    for section in ("train_input", "eval_input", "predict_input"):
        written[section]["do_lower"] = True
    with pytest.raises(UserError, match=r"do_lower is true, but .* has do_lower_case false; write"):
        open_session(Params.model_validate(written))


def test_a_batch_that_no_memory_holds_is_refused_before_the_rows_are_read(folder, monkeypatch):
    params = params_of(folder, model=NETWORK)
    section = params.train_input.model_copy(update={"batch_size": 2_000_000_000_000})
    monkeypatch.setattr("data.get_source", None)  # would be a TypeError
    with pytest.raises(
        UserError, match=r"batch_size 2,000,000,000,000 takes 6 numbers for each row.* GB"
    ):
        open_session(params.model_copy(update={"train_input": section}))
