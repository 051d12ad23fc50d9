# SPDX-License-Identifier: Apache-2.0
"""Every file under configs/ is read, and says what its opening comment has to."""

import re
from pathlib import Path

import pytest

from utils import get_params

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.y*ml"))
NAMES = [str(path.relative_to(ROOT)) for path in CONFIGS]
LINES = {
    name: path.read_text("utf-8").splitlines() for name, path in zip(NAMES, CONFIGS, strict=True)
}

MINILM = {
    "family": "huggingface",
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_heads": 12,
    "filter_size": 1536,
    "max_position_embeddings": 512,
    "vocab_size": 30522,
    "encoder_nonlinearity": "gelu",
    "layer_norm_epsilon": 1e-12,
}


def test_the_configs_of_the_readme_are_there():
    for size in ("base", "large", "minilm"):
        for task in ("sst2", "mnli"):
            assert f"configs/params_bert_{size}_{task}.yaml" in NAMES
    assert "configs/params_bert_tiny.yaml" in NAMES
    assert "configs/params_bert_minilm_sample.yaml" in NAMES
    assert "configs/params_bert_minilm_own_data.yaml" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_read_and_completed(name):
    params = get_params(ROOT / name, {"runconfig.mode": "train_and_eval"})
    classes = 3 if params.train_input.data_processor == "MnliDataProcessor" else 2
    checkpoint = MINILM if params.model.hidden_size is None else {}
    data = {"num_cls_classes": classes, "vocab_size": 30522}
    completed = params.complete(checkpoint, data, name)
    assert completed.model.num_cls_classes == classes
    assert completed.model.head_size > 0
    assert completed.runconfig.tf_random_seed == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_config_opens_with_command_hardware_time_and_score(name):
    lines = LINES[name]
    assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"
    comment = "\n".join(line for line in lines if line.startswith("#"))
    assert re.search(rf"python run\.py --mode \w+ --params {re.escape(name)} ", comment)
    for word in ("hardware:", "time:"):
        assert word in comment
    assert re.search("measured:|published:|score:", comment)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", NAMES)
def test_the_learning_rate_warms_up_then_falls_to_zero_at_the_last_step(name):
    params = get_params(ROOT / name)
    warm_up, decay = params.optimizer.learning_rate
    assert warm_up.initial_learning_rate == 0
    assert warm_up.end_learning_rate == decay.initial_learning_rate > 0
    assert decay.end_learning_rate == 0
    assert warm_up.steps + decay.steps == params.runconfig.max_steps


@pytest.mark.parametrize(
    ("name", "hidden_size", "layers", "peak", "length", "steps", "save", "warm_up"),
    [
        # compatibility.md 1.6
        ("params_bert_base_sst2", 768, 12, 5e-5, 72, 20_000, 2_000, 2_000),
        ("params_bert_base_mnli", 768, 12, 5e-5, 448, 100_000, 10_000, 10_000),
        ("params_bert_large_sst2", 1024, 24, 5e-6, 72, 20_000, 2_000, 2_000),
        ("params_bert_large_mnli", 1024, 24, 5e-6, 448, 100_000, 10_000, 10_000),
    ],
)
def test_the_classic_configs_carry_the_values_of_the_original(
    name, hidden_size, layers, peak, length, steps, save, warm_up
):
    params = get_params(ROOT / "configs" / f"{name}.yaml")
    optimizer, run = params.optimizer, params.runconfig
    assert (params.model.hidden_size, params.model.num_hidden_layers) == (hidden_size, layers)
    assert params.model.filter_size == 4 * hidden_size
    assert params.model.head_size == 64
    for section in (params.train_input, params.eval_input, params.predict_input):
        assert section.max_sequence_length == length
        assert section.batch_size == 12
    assert optimizer.learning_rate[0].end_learning_rate == peak
    assert optimizer.learning_rate[0].steps == warm_up
    assert (optimizer.weight_decay_rate, optimizer.epsilon) == (0.01, 1e-6)
    assert (optimizer.max_gradient_norm, optimizer.loss_scaling_factor) == (1.0, "dynamic")
    assert (run.max_steps, run.save_checkpoints_steps, run.keep_checkpoint_max) == (steps, save, 2)
    rates = params.model.dropout_rate, params.model.attention_dropout_rate
    assert (*rates, params.model.cls_dropout_rate) == (0.1, 0.1, 0.1)
