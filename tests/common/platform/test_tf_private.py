# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's private interfaces: that this release has them, and what is computed without."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from common.checkpoints.formats import ours
from common.platform import program_bytes, tf_private
from common.platform.machine import available_bytes
from common.training.steps_ahead import StepsAhead
from common.validate.graph import Program

ROOT = Path(__file__).resolve().parents[3]
INTERFACES = (
    *(tf_private.CONTEXT + name for name in ("context", "collect_graphs", "executor_scope")),
    *(tf_private.CLASS + name for name in ("add_function_def", "call_function")),
    f"{tf_private.CLASS}function_call_options",
    *(tf_private.EXECUTOR, tf_private.FUNCTION_GRAPH, tf_private.CONFIG, tf_private.REWRITER),
    *(tf_private.KERNELS, tf_private.DEVICES),
)
# Runs run.py in a TensorFlow that has none of them.
WITHOUT = """
import sys
from common.platform import tf_private
def no_module(name):
    raise ImportError(name)
tf_private.find = lambda interface: None
tf_private.import_alone = no_module
tf_private.UNUSED_MODULES.clear()
import run
sys.exit(run.main())
"""


@pytest.fixture
def without(monkeypatch):
    """Returns without(*interfaces): from then on TensorFlow lacks these."""

    def lack(*interfaces):
        find = tf_private.find
        monkeypatch.setattr(
            tf_private, "find", lambda name: None if name in interfaces else find(name)
        )
        tf_private._options_of_one_pass.cache_clear()

    yield lack
    tf_private._options_of_one_pass.cache_clear()


def test_this_release_of_tensorflow_has_every_interface():
    assert [name for name in INTERFACES if tf_private.find(name) is None] == []
    assert [name for name in tf_private.UNUSED_MODULES if not importlib.util.find_spec(name)] == []
    assert tf_private.find("tensorflow.python.absent:name") is None
    assert tf_private.find(f"{tf_private.CLASS}absent") is None


def test_no_other_file_uses_a_private_interface():
    files = [*ROOT.glob("*.py"), *ROOT.glob("common/**/*.py"), *ROOT.glob("input/**/*.py")]
    private = re.compile(r"\b(tensorflow|tensorflow_text)\.(python|core|compiler|_api)\b")
    users = [file.name for file in files if private.search(file.read_text("utf-8"))]
    assert len(files) > 100 and users == ["tf_private.py"]


@pytest.mark.parametrize(
    "interface",
    [
        tf_private.FUNCTION_GRAPH,
        f"{tf_private.CLASS}add_function_def",
        f"{tf_private.CLASS}call_function",
    ],
)
def test_without_functions_called_by_name_nothing_is_kept_or_loaded(interface, without):
    two, three = tf.constant(2.0), tf.constant(3.0)
    concrete = program_bytes.trace(lambda x: x * three, [two])
    content, entry = program_bytes.to_bytes(concrete, {}, "kept_")
    assert float(program_bytes.bind(content, entry, {}, [two])(two)) == 6.0
    without(interface)
    assert program_bytes.bind(content, entry, {}, [two]) is None
    with pytest.raises(program_bytes.NotKept, match=f"TensorFlow {tf.__version__} has no"):
        program_bytes.to_bytes(concrete, {}, "kept_")


def test_without_the_optimized_graph_a_program_is_kept_as_it_was_traced(without):
    without(f"{tf_private.CONTEXT}collect_graphs", tf_private.REWRITER)
    program = b"content", {"devices": None}
    with tf_private.optimizing_once():
        result, *after = program_bytes.keep_optimized_graph(
            *program, tf.function(lambda x: 3.0 * x), [2.0]
        )
    assert float(result) == 6.0 and tuple(after) == program


@pytest.mark.parametrize("interface", [tf_private.EXECUTOR, f"{tf_private.CONTEXT}executor_scope"])
def test_without_an_executor_each_step_ends_with_its_call(interface, without):
    without(interface)
    count = tf.Variable(0.0)
    with StepsAhead(lambda *batch: {"train/cost_cls": count.assign_add(1.0)}) as ahead:
        for step in range(1, 4):
            figures = ahead({"input_ids": np.zeros([3, 2], np.int32)}, np.zeros(3, np.int32))
            assert float(figures["train/cost_cls"]) == step and not ahead.was_busy


def test_without_a_list_of_kernels_no_operation_is_refused(without):
    with tf.Graph().as_default() as graph:
        matrix = tf.compat.v1.placeholder(tf.uint8, [2, 2])
        tf.raw_ops.MatMul(a=matrix, b=matrix)
    program = Program((2, 2), tuple(graph.get_operations()), ())
    assert program.without_kernel("CPU")
    without(tf_private.KERNELS)
    assert not program.without_kernel("CPU")


def test_without_a_list_of_devices_the_memory_of_gpus_is_not_known(without):
    without(tf_private.DEVICES)
    assert available_bytes("GPU") is None


def test_without_the_module_of_one_tokenizer_all_of_tensorflow_text_is_imported(monkeypatch):
    alone = tf_private.fast_wordpiece_tokenizer()
    monkeypatch.setattr(tf_private, "WORDPIECE", "tensorflow_text.python.ops.absent")
    assert tf_private.fast_wordpiece_tokenizer().__name__ == alone.__name__


@pytest.mark.slow  # two whole runs
def test_a_run_without_any_of_them_trains_to_the_same_bits(tmp_path):
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab))
    flags = ["--mode", "train", "--params", "configs/params_bert_tiny.yaml", "--max_steps", "3"]
    flags += ["--data_dir", tmp_path / "data"]
    for key, value in {
        "*_input.vocab_file": tmp_path / "vocab.txt",
        "runconfig.compile_cache_dir": tmp_path / "programs",
        "runconfig.num_streams": 2,
    }.items():
        flags += ["--override", f"{key}={value}"]

    def weights(name, *program):
        model_dir, cache = tmp_path / name, f"*_input.cache_dir={tmp_path}/tokens-{name}"
        new_flags = ["--model_dir", model_dir, "--override", cache]  # both tokenize
        done = subprocess.run(
            [sys.executable, *program, *map(str, flags + new_flags)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return ours.read_weights(model_dir / "checkpoint-3")

    without = weights("without", "-c", WITHOUT)
    assert not list(tmp_path.glob("programs/machine-*/config-*"))
    expected = weights("with", "run.py")
    assert list(tmp_path.glob("programs/machine-*/config-*"))
    for name, weight in expected.items():
        np.testing.assert_array_equal(without[name].read(), weight.read(), err_msg=name)
