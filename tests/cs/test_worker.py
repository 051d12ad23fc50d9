# SPDX-License-Identifier: Apache-2.0
"""The real command on the CS target: train, go back and forth, score, lower, refuse."""

import json
import shutil
import string
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from common.cs.job import Job, rows_path
from common.cs.rows import rows_of_zeros
from common.params import Params
from tests.cs.commands import ROOT, TIMEOUT_SECONDS, figures_of, lower, run_command

TINY = "configs/params_bert_tiny.yaml"
FIRST_STEPS, LAST_STEP = 10, 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a vocabulary of letters."""
    folder = tmp_path_factory.mktemp("cs")
    letters = string.ascii_lowercase + string.digits + string.punctuation
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{c}" for c in letters)]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    return folder


@pytest.fixture(scope="module")
def run(folder, tensorflow_python):
    """Runs run.py on the tiny config, with one length and without dropout, to its end."""

    def run(*arguments, **overrides):
        overrides = {
            "*_input.vocab_file": folder / "vocab.txt",
            "train_input.packing": "none",
            "model.dropout_rate": 0.0,
            "model.attention_dropout_rate": 0.0,
            "model.cls_dropout_rate": 0.0,
            "runconfig.save_summary_steps": 1,
            "runconfig.save_checkpoints_steps": FIRST_STEPS,
            **overrides,
        }
        inputs = ("--params", TINY, "--data_dir", folder / "data")
        return run_command(tensorflow_python, *inputs, *arguments, **overrides)

    return run


@pytest.fixture(scope="module")
def on_cpu(run):
    """`run` on the CS target, with the SDK's CPU backend."""
    return lambda *arguments, **overrides: run(
        "--target", "CS", *arguments, **{"csconfig.backend": "cpu", **overrides}
    )


@pytest.fixture(scope="module")
def trained(folder, run, on_cpu):
    """Two model_dirs: both trained to step 10 by TensorFlow, then to 30 by it and by the twin."""
    theirs, twins = folder / "tensorflow", folder / "twin"
    run("--mode", "train", "--model_dir", theirs, "--max_steps", FIRST_STEPS)
    shutil.copytree(theirs, twins)
    run("--mode", "train", "--model_dir", theirs, "--max_steps", LAST_STEP)
    on_cpu("--mode", "train", "--model_dir", twins, "--max_steps", LAST_STEP)
    return theirs, twins


def losses(model_dir):
    """Returns {step: loss} of the training steps."""
    return {step: line["train/cost_cls"] for step, line in figures_of(model_dir).items()}


def test_the_twin_goes_on_where_tensorflow_stopped_with_the_same_losses(trained):
    expected, found = map(losses, trained)
    assert list(found) == list(range(1, LAST_STEP + 1))
    for step in range(FIRST_STEPS + 1, LAST_STEP + 1):
        assert found[step] == pytest.approx(expected[step], abs=1e-3), step


def test_the_checkpoint_of_the_twin_has_what_that_of_tensorflow_has(trained):
    for file in ("weights.safetensors", "training_state.safetensors"):
        expected, found = (load_file(d / f"checkpoint-{LAST_STEP}" / file) for d in trained)
        expected = {n: a for n, a in expected.items() if not n.startswith("run/")}
        found = {n: a for n, a in found.items() if not n.startswith("run/")}
        assert set(found) == set(expected)
        for name, array in expected.items():
            assert found[name].dtype == array.dtype
            # 20 updates of float32; weights near 0.1
            np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-3, err_msg=name)
    configs = [
        json.loads((model_dir / f"checkpoint-{LAST_STEP}" / "config.json").read_text())
        for model_dir in trained
    ]
    assert configs[0].pop("machine")  # the facts of TensorFlow's bits; the twin has others
    assert configs[1] == configs[0]


def test_tensorflow_goes_on_where_the_twin_stopped(trained, run, tmp_path):
    model_dir = tmp_path / "back"
    shutil.copytree(trained[1], model_dir)
    done = run("--mode", "train", "--model_dir", model_dir, "--max_steps", LAST_STEP + 2)
    assert f"Resuming {model_dir / f'checkpoint-{LAST_STEP}'} at step {LAST_STEP}" in done.stderr
    assert (model_dir / f"checkpoint-{LAST_STEP + 2}").is_dir()


def test_the_twin_scores_and_predicts_every_row_as_tensorflow_does(trained, run, on_cpu):
    _, twins = trained
    run("--mode", "eval", "--model_dir", twins)
    on_cpu("--mode", "eval", "--model_dir", twins)
    lines = map(json.loads, (twins / "metrics.jsonl").read_text().splitlines())
    expected, found = (line for line in lines if line["split"] == "eval")
    for name in ("loss", "eval/accuracy_cls", "eval/f1_score", "eval/mcc"):
        assert found[name] == pytest.approx(expected[name], abs=1e-5), name
    run("--mode", "predict", "--model_dir", twins)
    on_cpu("--mode", "predict", "--model_dir", twins)
    expected, found = (
        np.load(twins / "predict" / f"predictions_{kind}_0.npz")["arr_0"] for kind in ("tf", "cs")
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    tables = [(twins / "predict" / f"predictions_{kind}_0.tsv") for kind in ("tf", "cs")]
    ours, twins = (table.read_text().splitlines()[0] for table in tables)
    assert ours == f"{twins}\tlabel_true\tcorrect\tplace"


def test_training_from_nothing_begins_with_the_weights_that_tensorflow_would(run, on_cpu, tmp_path):
    run("--mode", "train", "--model_dir", tmp_path / "theirs", "--max_steps", 1)
    on_cpu("--mode", "train", "--model_dir", tmp_path / "twins", "--max_steps", 1)
    assert losses(tmp_path / "twins")[1] == pytest.approx(losses(tmp_path / "theirs")[1], abs=1e-6)


# ---- csrun_cpu ... --validate_only: the vendor's compiler ----------------------------------------


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_validate_only_lowers_the_step_through_the_vendors_compiler(run, tmp_path, mode):
    done = run("--mode", mode, "--model_dir", tmp_path, "--validate_only", launcher="csrun_cpu",
               **{"model.mixed_precision": "true", "optimizer.loss_scaling_factor": "dynamic",
                  "model.dropout_rate": 0.1})  # fmt: skip
    report = json.loads((tmp_path / "cs" / "validate.json").read_text())
    assert report["batch"] == [8, 32]
    counts = report["files"]["cirh.mlir"]["counts"]
    # Of 2 layers of post-norm: the embeddings' layer norm and 2 a layer; a softmax a layer.
    assert counts["LayerNorm"] == 5
    assert counts["Softmax"] == 2
    assert ("GeluGrad" in counts) == (mode == "train")
    for name, file in report["files"].items():
        assert (tmp_path / "cs" / name).stat().st_size == file["bytes"]
        assert name in done.stdout
    assert not list(tmp_path.glob("checkpoint-*"))
    assert not (tmp_path / "run.lock").exists()


def test_compile_only_without_an_address_lowers_the_step_and_says_so(run, tmp_path):
    flags = ("--mode", "train", "--model_dir", tmp_path, "--compile_only")
    done = run(*flags, launcher="csrun_cpu")
    assert "Lowered: the training step" in done.stdout and "--cs_ip" in done.stdout
    assert (tmp_path / "cs" / "cirh.mlir").exists()


def test_a_checkpoint_that_tensorflow_alone_can_read_is_lowered_and_scored(
    trained, run, on_cpu, tmp_path
):
    google = tmp_path / "google"
    run("--mode", "export", "--model_dir", trained[0], "--export_format", "tf1",
        "--export_dir", google)  # fmt: skip
    flags = ("--model_dir", tmp_path / "out", "--checkpoint_path", google)
    network = {"model.layer_norm_epsilon": 1e-12}
    run("--mode", "train", *flags, "--validate_only", launcher="csrun_cpu", **network)
    run("--mode", "eval", *flags, "--validate_only", launcher="csrun_cpu", **network)
    without_steps = {"runconfig.max_steps": "", **network}
    done = on_cpu("--mode", "eval", *flags, **without_steps)
    expected = on_cpu("--mode", "eval", "--model_dir", trained[0])
    assert done.stdout.splitlines()[1:] == expected.stdout.splitlines()[1:]
    on_cpu("--mode", "predict", *flags, **without_steps)


def test_an_operation_that_cannot_be_lowered_is_one_sentence(run, tmp_path):
    run("--mode", "train", "--model_dir", tmp_path, "--validate_only", launcher="csrun_cpu")
    program = (
        "import sys, torch\n"
        "from common.cs import network, worker\n"
        "network.ACTIVATIONS['gelu_tanh'] = torch.special.erfcx\n"
        "sys.exit(worker.main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "cs" / "job")],
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
    )  # fmt: skip
    assert done.returncode == 1
    sentence = done.stderr.strip().splitlines()[-1]
    assert sentence.startswith("The run failed: the Cerebras SDK could not lower the program")
    assert "special_erfcx" in sentence
    assert "Traceback" not in done.stderr


# ---- csrun_wse without a cluster -----------------------------------------------------------------


@pytest.mark.parametrize("flags", [(), ("--compile_only",)])
def test_without_a_cluster_the_run_ends_with_one_sentence(run, tmp_path, flags):
    model_dir = tmp_path / "none"
    done = run("--mode", "train", "--cs_ip", "127.0.0.1", "--max_steps", 5, "--model_dir",
               model_dir, *flags, launcher="csrun_wse", code=1)  # fmt: skip
    assert "no CS system answers at 127.0.0.1:9000" in done.stderr
    assert "--cs_ip" in done.stderr
    assert not model_dir.exists()


# ---- What the front end takes --------------------------------------------------------------------

RATES = [
    {"scheduler": "Cosine", "initial_learning_rate": 1e-4, "decay_steps": 5},
    {
        "scheduler": "Exponential",
        "initial_learning_rate": 1e-4,
        "decay_steps": 5,
        "decay_rate": 0.5,
        "staircase": True,
        "steps": 5,
    },
    {
        "scheduler": "InverseExponentialTimeDecay",
        "initial_learning_rate": 1e-4,
        "step_exponent": 1.5,
        "decay_steps": 5,
        "decay_rate": 0.5,
        "steps": 5,
    },
    {
        "scheduler": "Polynomial",
        "initial_learning_rate": 1e-4,
        "end_learning_rate": 0.0,
        "steps": 5,
        "power": 2.0,
        "cycle": True,
    },
    {"scheduler": "PiecewiseConstant", "boundaries": [3], "values": [1e-4, 1e-5]},
]
VARIANTS = {
    "last": (
        {"pooler_type": "last", "use_pre_normalization": True, "position_embedding_type": "fixed"},
        {"max_gradient_norm": None, "max_gradient_value": 1.0},
    ),
    "mean": (
        {
            "pooler_type": "mean",
            "label_smoothing": 0.1,
            "focal_gamma": 2.0,
            "embedding_size": 8,
            "r_drop_alpha": 1.0,
            "dropout_rate": 0.1,
        },
        {"optimizer_type": "adam", "loss_scaling_factor": "dynamic"},
    ),
    "max": (
        {"pooler_type": "max", "class_weights": [0.5, 1.5], "encoder_nonlinearity": "silu"},
        {"learning_rate": RATES},
    ),
    "sum": (
        {"pooler_type": "sum", "freeze": ["layers:1"], "encoder_nonlinearity": "gelu_erf"},
        {"layer_wise_lr_decay": 0.5, "loss_scaling_factor": 128},
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_network_loss_and_rate_is_lowered(variant, tmp_path):
    model, optimizer = VARIANTS[variant]
    sizes = {"hidden_size": 8 * 2, "num_hidden_layers": 2, "num_heads": 2, "filter_size": 24}
    params = Params.model_validate(
        {
            "train_input": {
                "data_processor": "Sst2DataProcessor",
                "data_dir": "none",
                "max_sequence_length": 7,
                "batch_size": 4,
            },
            "model": {**sizes, "vocab_size": 23, "num_cls_classes": 2, **model},
            "optimizer": optimizer,
            "runconfig": {"mode": "train", "model_dir": str(tmp_path), "max_steps": 1},
        }
    ).complete()
    folder = tmp_path / "cs" / "job"
    folder.mkdir(parents=True)
    rows_of_zeros(4, 7).write(rows_path(folder, "zeros"))
    job = Job(
        params=params.model_dump(mode="json"), action="validate", first_step=0, last_step=1,
        resumed=None, checkpoint=None, address=None, label_names=[], vocab=[], config={},
        class_weights=model.get("class_weights"), splits=["zeros"], texts={}, notes=[],
    )  # fmt: skip
    report = lower(job, folder)
    assert report["batch"] == [4, 7]
    assert report["files"]["cirh.mlir"]["counts"]["MatMul"] > 0
