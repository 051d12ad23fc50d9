# SPDX-License-Identifier: Apache-2.0
"""Programs kept on disk: the same bits as traced ones, and none loaded by mistake."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from common.errors import RunError
from common.optimizers.factory import make_optimizer
from common.params import OptimizerParams
from common.platform import kept_programs, machine_code
from common.platform.program_bytes import bind, keep_optimized_graph, to_bytes, trace
from common.platform.tf_private import function_runtime, optimizing_once
from common.training.distribution import ONE_DEVICE
from common.training.inference import Inference
from common.training.session import Session
from common.training.train_step import Replica, make_train_step, one_program_per_shape
from model import make_model, model_fn
from tests.reference.tiny_bert import random_features, tiny_params

LABELS = tf.constant([0, 1, 1])
SHAPE = (3, 7)


def features(starts=None):
    """starts: where the rows begin that are packed into the three long ones; None: no packing."""
    arrays = random_features(*SHAPE)
    arrays["input_mask"] = 1 - arrays.pop("padding_mask")
    if starts is not None:
        arrays["starts"] = starts
    return {name: tf.constant(value, tf.int32) for name, value in arrays.items()}


def training(seed=0, **optimizer):
    """Returns Params, a tiny network with dropout, and its optimizer, equal at each call."""
    keras.utils.set_random_seed(1)
    rates = dict.fromkeys(("dropout_rate", "attention_dropout_rate", "cls_dropout_rate"), 0.3)
    params = tiny_params(2, seed=seed, num_hidden_layers=1, class_weights=[0.5, 1.5], **rates)
    model = make_model(params)
    weights = {name: w.value for name, w in model.weights_by_name().items()}
    cfg = OptimizerParams.model_validate(
        {"learning_rate": 1e-2, "max_gradient_norm": 1.0, "epsilon": 1e-6} | optimizer
    )
    return params, model, make_optimizer(weights, cfg, 1)


def keep_step(folder, params, model, optimizer, starts=None, prefix="kept_"):
    """Writes the training step into a folder, as `--compile_only` does."""
    replica = Replica(model_fn, params, model, optimizer, ONE_DEVICE.mean)
    is_whole = optimizer.cfg.accumulation.is_single
    batch = features(starts), LABELS
    arguments = batch if is_whole else (*batch, tf.constant(0), tf.constant(1))
    step = replica.update_from if is_whole else replica.add
    concrete = trace(step, arguments)
    variables = kept_programs.variables_of(model, optimizer, replica.sums)
    content, entry = to_bytes(concrete, variables, prefix)
    program = bind(content, entry, variables, arguments)
    with optimizing_once():
        _, content, entry = keep_optimized_graph(content, entry, program, arguments)
    context.context().clear_kernel_cache()  # as in the process of the run
    name = kept_programs.shape_name("train" if is_whole else "add", arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    entry = kept_programs.write_program(folder, name, content, json.loads(json.dumps(entry)))
    kept_programs.write_manifest(folder, params, {name: entry})
    return name


def weights_after_steps(params, model, optimizer, library, starts=None):
    step = make_train_step(model_fn, params, model, optimizer, programs=library)
    for _ in range(4):
        figures = step(features(starts), LABELS)
    values = {name: np.asarray(w.value) for name, w in model.weights_by_name().items()}
    return {name: float(value) for name, value in figures.items()}, values


# Packed rows: that graph depends on how often Grappler goes over it.
@pytest.mark.parametrize(
    ("optimizer", "starts"), [({}, None), ({"grad_accum_steps": 2}, None), ({}, [0, 4, 11])]
)
def test_a_kept_step_trains_to_the_same_bits_as_one_that_is_traced(tmp_path, optimizer, starts):
    keep_step(tmp_path, *training(**optimizer), starts)
    library = kept_programs.ProgramLibrary(tmp_path)
    expected, expected_weights = weights_after_steps(*training(**optimizer), None, starts)
    figures, weights = weights_after_steps(*training(**optimizer), library, starts)
    assert len(library.loaded) == 1
    assert figures == expected
    for name, values in expected_weights.items():
        np.testing.assert_array_equal(weights[name], values, err_msg=name)


def test_a_kept_step_takes_another_seed(tmp_path):
    params, *rest = training(seed=0)
    keep_step(tmp_path, params, *rest)
    other, *_ = training(seed=3)
    assert kept_programs.config_facts(other) == kept_programs.config_facts(params)
    _, weights = weights_after_steps(*training(seed=3), kept_programs.ProgramLibrary(tmp_path))
    _, expected = weights_after_steps(*training(seed=3), None)
    for name, values in expected.items():
        np.testing.assert_array_equal(weights[name], values, err_msg=name)


@pytest.mark.parametrize("others", [{}, {"grad_accum_schedule": [[0, 1], [2, 2]]}])
def test_a_kept_step_takes_another_learning_rate(tmp_path, others):
    keep_step(tmp_path, *training(**others))
    warm_up = {"scheduler": "Linear", "initial_learning_rate": 0.0, "end_learning_rate": 0.1}
    fall = {"scheduler": "Cosine", "initial_learning_rate": 0.1, "decay_steps": 5}
    schedule = {"learning_rate": [warm_up | {"steps": 2}, fall], **others}
    library = kept_programs.ProgramLibrary(tmp_path)
    figures, weights = weights_after_steps(*training(**schedule), library)
    expected_figures, expected = weights_after_steps(*training(**schedule), None)
    assert len(library.loaded) == 1 and figures == expected_figures
    for name, values in expected.items():
        np.testing.assert_array_equal(weights[name], values, err_msg=name)


def test_compiled_loops_have_the_same_name_in_another_configuration(tmp_path):
    compiled = []
    for epsilon in (1e-6, 1e-8):
        folder = tmp_path / str(epsilon)
        name = keep_step(folder, *training(epsilon=epsilon), prefix=f"{epsilon}_")
        content = function_runtime().graph.FromString((folder / f"{name}.pb").read_bytes())
        functions = content.function_graph.library.function
        compiled.append({f.signature.name for f in functions if "_XlaMustCompile" in f.attr})
    assert compiled[0] == compiled[1] and len(compiled[0]) > 5


@pytest.mark.parametrize("optimizer", [{}, {"grad_accum_steps": 2}])
def test_the_next_run_loads_the_programs_and_has_the_same_bits(tmp_path, capsys, optimizer):
    params, *_ = training(**optimizer)
    expected, expected_weights = weights_after_steps(*training(**optimizer), None)
    results = []
    for _ in range(2):
        library = kept_programs.open_programs(tmp_path, params, True)
        results.append(weights_after_steps(*training(**optimizer), library))
        context.context().clear_kernel_cache()
    name = f"{'add' if optimizer else 'train'}-3x7"
    assert library.loaded == [name] and library.entries[name]["devices"]
    assert "Loading 1 program that an earlier run kept" in capsys.readouterr().err
    for figures, weights in results:
        assert figures == expected
        for key, values in expected_weights.items():
            np.testing.assert_array_equal(weights[key], values, err_msg=key)


def test_threads_that_call_a_new_program_at_once_keep_it_once(tmp_path, monkeypatch):
    params, model, _ = training()
    library = kept_programs.open_programs(tmp_path, params, True)
    keep, times = library._keep, []
    monkeypatch.setattr(library, "_keep", lambda *whole: times.append(1) or keep(*whole))
    session = Session(params, make_model, model_fn, data=None)
    predict_step = Inference(session, model, programs=library).step()
    barrier = threading.Barrier(4)

    def logits(_):
        barrier.wait(timeout=60)
        return predict_step(features())["logits"].numpy()

    with ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(logits, range(4))
    for other in others:
        np.testing.assert_array_equal(first, other)
    assert len(times) == 1 and list(kept_programs.read_entries(library.folder)) == ["predict-3x7"]
    context.context().clear_kernel_cache()
    again = kept_programs.open_programs(tmp_path, params, True)
    loaded = Inference(session, model, programs=again).step()(features())
    np.testing.assert_array_equal(loaded["logits"], first)
    assert again.loaded == ["predict-3x7"]


def test_a_program_that_cannot_be_written_still_runs(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    params, model, optimizer = training()
    library = kept_programs.open_programs(tmp_path, params, True)
    monkeypatch.setattr(kept_programs, "write_whole", full)
    figures, _ = weights_after_steps(params, model, optimizer, library)
    assert np.isfinite(figures["train/cost_cls"])
    assert "train-3x7 is not kept: [Errno 28] No space" in capsys.readouterr().err


@pytest.mark.parametrize("is_cache", [True, False])
def test_a_full_disk_under_xla_ends_the_run_with_a_run_error(tmp_path, is_cache):
    folder = tmp_path if is_cache else "/elsewhere"
    params, *_ = training()
    library = kept_programs.open_programs(tmp_path, params, True)

    def program(features):
        raise tf.errors.ResourceExhaustedError(
            None, None, f"{{{{function_node f}}}} {folder}/xla/a.pb; No space left\nmore"
        )

    expected = RunError if is_cache else tf.errors.ResourceExhaustedError
    with pytest.raises(expected) as caught:
        library._explained(program)(features())
    if is_cache:
        assert f"kept: {folder}/xla/a.pb; No space left\nMake room there" in str(caught.value)


def test_another_batch_size_and_a_damaged_program_are_compiled_by_the_run(tmp_path, capsys):
    params, model, optimizer = training()
    name = keep_step(tmp_path, params, model, optimizer)
    library = kept_programs.ProgramLibrary(tmp_path)
    make = library.maker("train", kept_programs.variables_of(model, optimizer))
    replica = Replica(model_fn, params, model, optimizer, ONE_DEVICE.mean)
    smaller = {key: value[:2] for key, value in features().items()}
    assert isinstance(
        make(replica.update_from, smaller, LABELS[:2]), tf.types.experimental.ConcreteFunction
    )
    assert "train-2x7 is not among those" in capsys.readouterr().err
    (tmp_path / f"{name}.pb").write_bytes(b"damaged")
    assert isinstance(
        make(replica.update_from, features(), LABELS), tf.types.experimental.ConcreteFunction
    )
    assert library.loaded == []
    assert "is not what was written" in capsys.readouterr().err
    assert kept_programs.read_entries(tmp_path) == {}


def write_hostile(compiled, params, target):
    """Writes a folder as `--compile_only` does, whose program writes a file when it is called."""

    def step(features):
        tf.io.write_file(str(target), "written by a program")
        return {"logits": tf.zeros([SHAPE[0], 2])}

    machine_code.write_machine_code(compiled)
    folder = kept_programs.config_dir(compiled, params)
    arguments = (features(),)
    content, entry = to_bytes(trace(step, arguments), {}, "hostile_")
    name = kept_programs.shape_name("predict", arguments[0])
    entry = kept_programs.write_program(folder, name, content, entry)
    kept_programs.write_manifest(folder, params, {name: entry})
    machine_code.keep_machine_code(compiled)


@pytest.mark.parametrize("is_cache", [True, False])
def test_a_program_that_somebody_sent_is_not_run(tmp_path, monkeypatch, capsys, is_cache):
    monkeypatch.setenv(machine_code.FLAGS, "")
    params, model, _ = training()
    session = Session(params, make_model, model_fn, data=None)
    target = tmp_path / "target"

    def predict():
        programs = kept_programs.open_programs(tmp_path / "compiled", params, is_cache)
        make = None if programs is None else programs.maker("predict", {})
        return one_program_per_shape(Inference(session, model).step(), make=make)(features())

    write_hostile(tmp_path / "compiled", params, target)
    predict()
    assert target.read_text() == "written by a program"  # it would have been run
    target.unlink()
    context.context().clear_kernel_cache()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home of somebody else"))
    write_hostile(tmp_path / "compiled", params, target)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    if not is_cache:
        assert not machine_code.use_machine_code(tmp_path / "compiled")
    logits = predict()["logits"]
    assert not target.exists() and np.asarray(logits).any()
    assert "damaged, or another user's" in capsys.readouterr().err


def test_programs_of_another_configuration_are_reported_and_not_loaded(tmp_path, capsys):
    params = tiny_params().with_runconfig(model_dir=str(tmp_path))
    folder = kept_programs.config_dir(tmp_path, params)
    kept_programs.write_manifest(folder, params, {})
    assert kept_programs.open_programs(tmp_path, params, False).folder == folder
    longer = params.with_runconfig(max_steps=7, mode="eval")  # computes nothing else
    assert kept_programs.open_programs(tmp_path, longer, False) is not None
    capsys.readouterr()
    other = tiny_params(dropout_rate=0.5).with_runconfig(model_dir=str(tmp_path))
    assert kept_programs.open_programs(tmp_path, other, False) is None
    assert "model.dropout_rate was 0.0, is 0.5" in capsys.readouterr().err


def test_another_source_file_is_another_configuration(tmp_path, monkeypatch):
    (tmp_path / "common").mkdir()
    for name in ("model.py", "BertClassifierModel.py", "common/losses.py"):
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.setattr(kept_programs, "PROJECT", tmp_path)
    params = tiny_params().with_runconfig(model_dir=str(tmp_path))
    before = kept_programs.config_dir(tmp_path, params)
    assert kept_programs.config_dir(tmp_path, params) == before
    (tmp_path / "common" / "losses.py").write_text("x = 2\n")
    assert kept_programs.config_dir(tmp_path, params) != before
