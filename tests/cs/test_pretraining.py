# SPDX-License-Identifier: Apache-2.0
"""Pre-training on the CS target: the real commands go back and forth, score, predict and lower."""

import json
import random
import re
import shutil
import string

import numpy as np
import pytest
from safetensors.numpy import load_file

from common.cs.job import STREAMED, Job, rows_path
from common.cs.streamed_rows import write_zeros
from common.params import Params
from tests.cs.commands import figures_of, lower, run_command

FIRST_STEPS, LAST_STEP = 5, 25  # 13 steps are an epoch, after which the masks are others
LENGTH, PREDICTIONS, ROWS = 32, 5, 8
WORDS = ("ab", "cd", "ef", "gh", "ij", "kl", "mn", "op", "qr", "st")

PARAMS = """
train_input:
  data_processor: DocumentDataProcessor
  train_documents: text.txt
  eval_documents: text.txt
  vocab_file: vocab.txt
  prepared_dir: prepared
  max_sequence_length: {length}
  max_predictions_per_seq: {predictions}
  batch_size: {rows}
  packing: none
model:
  hidden_size: 32
  num_hidden_layers: 2
  num_heads: 2
  filter_size: 64
  dropout_rate: 0.0
  attention_dropout_rate: 0.0
  mixed_precision: float32
optimizer:
  learning_rate: 0.01
runconfig:
  tf_random_seed: 1
  max_steps: {last_step}
  save_checkpoints_steps: {first_steps}
  save_summary_steps: 1
"""


def write_text(path):
    """Documents in whose sentences each word is followed by the next of WORDS."""
    draws, lines = random.Random(0), []
    for _ in range(60):
        for _ in range(draws.randint(2, 6)):
            first, count = draws.randint(0, 9), draws.randint(4, 9)
            lines.append(" ".join(WORDS[(first + i) % len(WORDS)] for i in range(count)))
        lines.append("")
    path.write_text("\n".join(lines))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretraining")
    write_text(folder / "text.txt")
    letters = [*string.ascii_lowercase, *(f"##{c}" for c in string.ascii_lowercase)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    sizes = {"length": LENGTH, "predictions": PREDICTIONS, "rows": ROWS}
    steps = {"first_steps": FIRST_STEPS, "last_step": LAST_STEP}
    text = PARAMS.format(**sizes, **steps)
    for name in ("text.txt", "vocab.txt", "prepared"):
        text = text.replace(f": {name}\n", f": {folder / name}\n")
    (folder / "params.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def run(folder, tensorflow_python):
    def run(mode, model_dir, *arguments, **overrides):
        inputs = "--mode", mode, "--params", folder / "params.yaml", "--model_dir", model_dir
        return run_command(tensorflow_python, *inputs, *arguments, **overrides)

    return run


@pytest.fixture(scope="module")
def on_cpu(run):
    """`run` on the CS target, with the SDK's CPU backend."""

    def on_cpu(mode, model_dir, *arguments):
        options = {"csconfig.backend": "cpu"}
        return run(mode, model_dir, "--target", "CS", *arguments, **options)

    return on_cpu


@pytest.fixture(scope="module")
def trained(folder, run, on_cpu):
    """Two model_dirs: one trained by TensorFlow, one that the twin took up at step 5."""
    theirs, twins = folder / "tensorflow", folder / "twin"
    run("train", theirs)
    twins.mkdir()
    shutil.copytree(theirs / f"checkpoint-{FIRST_STEPS}", twins / f"checkpoint-{FIRST_STEPS}")
    shutil.copy(theirs / "params.yaml", twins)
    on_cpu("train", twins)
    return theirs, twins


def test_the_twin_goes_on_where_tensorflow_stopped_with_the_same_losses(trained):
    expected, found = map(figures_of, trained)
    assert list(found) == list(range(FIRST_STEPS + 1, LAST_STEP + 1))
    names = ("cost", "cost_cls", "cost_masked_lm", "lr", "unigram")
    for step, line in found.items():
        for name in (f"train/{name}" for name in names):
            # float32 on both sides; with other masks the losses differ by 0.1 and more
            assert line[name] == pytest.approx(expected[step][name], abs=1e-5), (step, name)


def test_the_checkpoint_of_the_twin_has_what_that_of_tensorflow_has(trained):
    theirs, twins = (model_dir / f"checkpoint-{LAST_STEP}" for model_dir in trained)
    for file in ("weights.safetensors", "training_state.safetensors"):
        expected, found = (
            {name: a for name, a in load_file(each / file).items() if not name.startswith("run/")}
            for each in (theirs, twins)
        )
        assert set(found) == set(expected)
        for name, array in expected.items():
            assert found[name].dtype == array.dtype
            if name.endswith("key/bias"):  # the softmax does not see it: rounding alone moves it
                continue
            np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-4, err_msg=name)
    expected, found = (json.loads((each / "config.json").read_text()) for each in (theirs, twins))
    assert expected.pop("machine")  # the facts of TensorFlow's bits; the twin has others
    assert found == expected


def test_tensorflow_goes_on_where_the_twin_stopped_and_both_score_the_same(
    trained, run, on_cpu, tmp_path
):
    model_dir = tmp_path / "back"
    shutil.copytree(trained[1], model_dir)
    last = LAST_STEP + 1
    done = run("train_and_eval", model_dir, "--max_steps", last)
    assert f"Resuming {model_dir / f'checkpoint-{LAST_STEP}'} at step {LAST_STEP}" in done.stderr
    expected = figures_of(model_dir, "eval")[last]
    on_cpu("eval", model_dir)
    found = figures_of(model_dir, "eval")[last]
    for name in ("loss", "eval/accuracy_masked_lm", "eval/mlm_perplexity", "eval/accuracy_cls"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name
    assert found["num_examples"] == expected["num_examples"] > 100


def test_both_fill_in_the_same_words(trained, run, on_cpu):
    texts = ("--text", "ab cd [MASK] gh", "--text", "[MASK] ij kl [MASK]")
    for predict in (run, on_cpu):
        predict("predict", trained[1], *texts)
    folder = trained[1] / "predict"
    ours, twins = (np.load(folder / f"predictions_{kind}_0.npz") for kind in ("tf", "cs"))
    assert set(ours) == set(twins)
    np.testing.assert_array_equal(twins["token_ids"], ours["token_ids"])
    for name in ("probabilities", "nsp_logits"):
        np.testing.assert_allclose(twins[name], ours[name], rtol=0, atol=1e-5, err_msg=name)
    ours, twins = (
        # Without the probabilities, whose last digit rounding may choose.
        re.sub(r":[\d.]+", "", (folder / f"predictions_{kind}_0.tsv").read_text()).splitlines()
        for kind in ("tf", "cs")
    )
    assert [line.split("\t")[:4] for line in ours] == [line.split("\t") for line in twins]


# ---- The vendor's compiler -----------------------------------------------------------------------

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_heads": 2, "filter_size": 24}
PROGRAMS = {
    "train": {
        "share_embedding_weights": False,
        "embedding_size": 8,
        "mlm_nonlinearity": "relu",
        "mlm_loss_scaling": "batch_size",
        "mixed_precision": True,
        "dropout_rate": 0.1,
    },
    "eval": {"disable_nsp": True, "use_pre_normalization": True},
    "predict": {},
}


@pytest.mark.parametrize("mode", PROGRAMS)
def test_every_program_is_lowered(mode, tmp_path):
    section = {
        "data_processor": "DocumentDataProcessor",
        "train_documents": "none",
        "eval_documents": "none",
        "max_sequence_length": 9,
        "batch_size": 4,
    }
    params = Params.model_validate(
        {
            "train_input": section,
            "model": {**SIZES, "vocab_size": 23, **PROGRAMS[mode]},
            "optimizer": {"loss_scaling_factor": "dynamic"} if mode == "train" else {},
            "runconfig": {"mode": mode, "model_dir": str(tmp_path), "max_steps": 1},
        }
    ).complete()
    folder = tmp_path / "cs" / "job"
    folder.mkdir(parents=True)
    write_zeros(rows_path(folder, "zeros", STREAMED), 4, 9, 3, 23)
    job = Job(
        params=params.model_dump(mode="json"), action="validate", first_step=0, last_step=1,
        resumed=None, checkpoint=None, address=None, label_names=[], vocab=[], config={},
        class_weights=None, splits=["zeros"], texts={}, notes=[],
    )  # fmt: skip
    report = lower(job, folder)
    assert report["batch"] == [4, 9]
    counts = report["files"]["cirh.mlir"]["counts"]
    assert counts["Gather"] > 0  # the tokens to predict
    # A cross entropy of each head, but for predictions.
    num_losses = {"train": 2, "eval": 1, "predict": 0}[mode]
    assert counts.get("SparseSoftmaxCrossEntropyWithLogits", 0) == num_losses
