# SPDX-License-Identifier: Apache-2.0
"""Every file under configs/ is read, and says what its opening comment has to."""

import re
from pathlib import Path

import pytest

from common.training.length import resolve_length
from utils import get_params

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.y*ml"))
ALL_NAMES = [str(path.relative_to(ROOT)) for path in CONFIGS]
# Of a vocabulary or an experiment: tests/input/test_vocabulary.py and
# tests/experiments/test_experiment.py and test_known_names.py read them.
OTHERS = ("configs/vocab_", "configs/experiments/", "configs/temporal/")
NAMES = [name for name in ALL_NAMES if not name.startswith(OTHERS)]
PRETRAINING = [name for name in NAMES if re.search(r"_msl\d+\.yaml$", name)]
LINES = {
    name: path.read_text("utf-8").splitlines()
    for name, path in zip(ALL_NAMES, CONFIGS, strict=True)
}

# As the recipes that they are compared with.
WITHOUT_WARM_UP = [
    f"configs/params_bert_minilm_{name}.yaml" for name in ("wnut17", "bc5cdr", "xquad")
]
# Both schedules count from step 0, as in the original.
FROM_STEP_0 = [f"configs/params_bert_{size}_bc5cdr.yaml" for size in ("base", "large")]
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
        for task in ("sst2", "mnli", "bc5cdr"):
            assert f"configs/params_bert_{size}_{task}.yaml" in NAMES
    assert "configs/params_bert_tiny.yaml" in NAMES
    assert "configs/params_bert_minilm_sample.yaml" in NAMES
    assert "configs/params_bert_minilm_own_data.yaml" in NAMES
    assert "configs/params_bert_minilm_pretrain_sample.yaml" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_read_and_completed(name):
    params = get_params(ROOT / name, {"runconfig.mode": "train_and_eval"})
    classes = 3 if params.train_input.data_processor == "MnliDataProcessor" else 2
    classes = len(params.model.class_weights or (None,) * classes)
    checkpoint = MINILM if params.model.hidden_size is None else {}
    data = {"num_cls_classes": classes, "vocab_size": 30522}
    if params.model.mixed_precision == "auto":
        params = params.with_precision("float32")
    if params.task in ("pretraining", "question_answering"):
        classes = data["num_cls_classes"] = None
    completed = params.complete(checkpoint, data, name)
    assert completed.model.num_cls_classes == classes
    assert completed.model.head_size > 0
    of_original = re.search("(base|large)_squad", name)
    assert completed.runconfig.tf_random_seed == (1202 if of_original else 1)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_a_config_opens_with_command_hardware_time_and_score(name):
    lines = LINES[name]
    assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"
    comment = "\n".join(line for line in lines if line.startswith("#"))
    start = r"run\.py --mode \w+ --params"
    if name.startswith("configs/temporal/"):
        start = r"-m experiments\.temporal\.train --input"
    assert re.search(rf"python {start} {re.escape(name)}\s", comment)
    for word in ("hardware:", "time:"):
        assert word in comment
    assert re.search("measured:|published:|score:", comment)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", sorted({*NAMES} - {*PRETRAINING, *WITHOUT_WARM_UP, *FROM_STEP_0}))
def test_the_learning_rate_warms_up_then_falls_to_zero_at_the_last_step(name):
    params = get_params(ROOT / name)
    if params.runconfig.max_seconds is not None:  # as the first steps do
        params = params.with_runconfig(max_seconds=None, max_steps=100)
    params = resolve_length(params, 100)
    warm_up, decay = params.optimizer.learning_rate
    assert warm_up.initial_learning_rate == 0
    assert warm_up.end_learning_rate == decay.initial_learning_rate > 0
    assert decay.end_learning_rate == 0
    assert warm_up.steps + decay.steps == params.runconfig.max_steps


@pytest.mark.parametrize(
    ("name", "num_rows", "steps", "warm_up"),
    [
        # Whole batches of the rows, times the epochs; a tenth of the steps, rounded down.
        ("sst2", 67_349, 3 * (67_349 // 64), 315),
        ("mnli", 392_702, 3 * (392_702 // 32), 3681),
        ("sample", 2603, 4 * (2603 // 32), 32),
        ("distil_sample", 2603, 4 * (2603 // 32), 32),
        ("own_data", 2603, 4 * (2603 // 32), 32),
        ("pretrain_sample", 2603, 6 * (2603 // 32), 48),
        ("names_sample", 110, 10 * (110 // 16), 6),
        ("questions_sample", 160, 10 * (160 // 16), 10),
    ],
)
def test_the_minilm_configs_have_the_length_that_their_heads_say(name, num_rows, steps, warm_up):
    name = f"configs/params_bert_minilm_{name}.yaml"
    params = get_params(ROOT / name)
    resolved = resolve_length(params, num_rows // params.train_input.batch_size)
    assert resolved.runconfig.max_steps == steps
    assert [each.steps for each in resolved.optimizer.learning_rate] == [warm_up, steps - warm_up]
    head = " ".join(line.strip("# ") for line in LINES[name] if line.startswith("#"))
    assert f"{steps:,} steps" in head and f"first {warm_up:,}" in head
    assert params.model.mixed_precision == "auto"


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


@pytest.mark.parametrize(
    ("name", "num_rows", "epochs"),
    # Rows of the training files, among them windows of long texts.
    [("wnut17", 3394, 5), ("bc5cdr", 4579, 3), ("xquad", 975, 5)],
)
def test_the_configs_of_words_train_whole_epochs(name, num_rows, epochs):
    params = get_params(ROOT / f"configs/params_bert_minilm_{name}.yaml")
    schedule = params.optimizer.learning_rate
    steps = epochs * (num_rows // params.train_input.batch_size)
    assert params.runconfig.max_steps == schedule.steps == steps
    assert schedule.end_learning_rate == 0
    head = " ".join(LINES[f"configs/params_bert_minilm_{name}.yaml"])
    assert f"{epochs} epochs: {steps} steps" in head


BASE, LARGE = (768, 12, 12, 3072), (1024, 24, 16, 4096)


@pytest.mark.parametrize(("size", "network"), [("base", BASE), ("large", LARGE)])
def test_the_configs_of_words_carry_the_values_of_the_original(size, network):
    tags = get_params(ROOT / "configs" / f"params_bert_{size}_bc5cdr.yaml")
    spans = get_params(ROOT / "configs" / f"params_bert_{size}_squad.yaml")
    for params in (tags, spans):
        model, optimizer = params.model, params.optimizer
        sizes = model.hidden_size, model.num_hidden_layers, model.num_heads, model.filter_size
        assert sizes == network
        assert (optimizer.epsilon, optimizer.max_gradient_norm) == (1e-6, 1.0)
        assert (optimizer.loss_scaling_factor, model.dtype_policy) == ("dynamic", "mixed_float16")
        assert params.predict_input.batch_size == 1
    assert (tags.train_input.max_sequence_length, tags.train_input.batch_size) == (128, 8)
    assert tags.model.encoder_output_dropout_rate == 0.1
    assert tags.optimizer.optimizer_type == "adam"
    assert [each.steps for each in tags.optimizer.learning_rate] == [1508, 15_080]
    assert tags.optimizer.learning_rate[0].end_learning_rate == 1e-5
    assert tags.optimizer.learning_rate[1].end_learning_rate == 0
    assert tags.optimizer.disable_lr_steps_reset
    assert (tags.runconfig.max_steps, tags.runconfig.keep_checkpoint_max) == (15_080, 5)
    rows = spans.train_input
    assert (rows.max_sequence_length, rows.window_stride, rows.max_query_length) == (384, 128, 64)
    assert rows.batch_size == 32
    assert (spans.optimizer.optimizer_type, spans.optimizer.weight_decay_rate) == ("adamw", 0.01)
    assert spans.model.qa_loss == "sum"
    assert spans.optimizer.learning_rate[0].steps == 1000
    assert spans.optimizer.learning_rate[0].end_learning_rate == 5e-5
    assert (spans.runconfig.max_steps, spans.runconfig.save_checkpoints_steps) == (10_000, 1000)


# Net, MSL, MP, batches of training and evaluation, buckets, optimizer and decay, warm-up, decay and
# steps: as the original has them.
OPENWEBTEXT = {128: (39, 56, 72, 89, 108), 512: (87, 158, 239, 325, 415)}
ORIGINAL = {
    "bert_base_msl128": (BASE, 128, 20, 256, 256, "adamw", 0.01, 10, 1000, 900),
    "bert_base_msl512": (BASE, 512, 80, 256, 256, "adamw", 0.01, 10, 1000, 1000),
    "bert_large_msl128": (LARGE, 128, 20, 256, 256, "adamw", 0.01, 10, 1000, 900),
    "bert_large_msl512": (LARGE, 512, 80, 256, 256, "adamw", 0.01, 10, 1000, 1000),
    "pubmedbert_base_msl128": (BASE, 128, 20, 1024, 64, "adam", 0, 80, 800, 720),
    "pubmedbert_base_msl512": (BASE, 512, 80, 1024, 1024, "adam", 0, 80, 800, 80),
    "pubmedbert_large_msl128": (LARGE, 128, 20, 1024, 64, "adam", 0, 80, 800, 720),
    "pubmedbert_large_msl512": (LARGE, 512, 80, 1024, 64, "adam", 0, 80, 800, 80),
    "roberta_base_msl512": (BASE, 512, 80, 256, 256, "adamw", 0.01, 10, 1000, 1000),
}


def test_the_configs_of_the_originals_pre_training_are_there():
    assert [f"configs/params_{name}.yaml" for name in ORIGINAL] == PRETRAINING


@pytest.mark.parametrize("name", ORIGINAL)
def test_the_pre_training_configs_carry_the_values_of_the_original(name):
    network, length, most, batch, eval_batch, rule, decay, *thousands = ORIGINAL[name]
    params = get_params(ROOT / "configs" / f"params_{name}.yaml")
    model, optimizer, run = params.model, params.optimizer, params.runconfig
    train, evaluation = params.train_input, params.eval_input
    assert params.task == "pretraining"
    assert (
        model.hidden_size,
        model.num_hidden_layers,
        model.num_heads,
        model.filter_size,
    ) == network
    for section in (train, evaluation):
        assert (section.max_sequence_length, section.max_predictions_per_seq) == (length, most)
    assert (train.batch_size, evaluation.batch_size) == (batch, eval_batch)
    assert train.buckets == (OPENWEBTEXT[length] if name.startswith("bert") else None)
    is_roberta = name.startswith("roberta")
    assert (model.disable_nsp, model.use_segment_embedding) == (is_roberta, not is_roberta)
    assert train.do_lower is not is_roberta
    assert isinstance(train.data_dir, tuple) == name.startswith("pubmed")  # three folders
    assert (model.dropout_rate, model.attention_dropout_rate) == (0.1, 0.1)
    assert (model.layer_norm_epsilon, model.max_position_embeddings) == (1e-5, 512)
    assert model.dtype_policy == "mixed_float16"
    assert (optimizer.optimizer_type, optimizer.weight_decay_rate) == (rule, decay)
    assert (optimizer.beta1, optimizer.beta2, optimizer.epsilon) == (0.9, 0.999, 1e-6)
    assert (optimizer.max_gradient_norm, optimizer.loss_scaling_factor) == (1.0, "dynamic")
    first, second = optimizer.learning_rate
    steps = [first.steps, second.steps, run.max_steps]
    assert steps == [1000 * number for number in thousands]
    assert (first.initial_learning_rate, first.end_learning_rate) == (0, 1e-4)
    assert (second.initial_learning_rate, second.end_learning_rate) == (1e-4, 0)
    assert optimizer.disable_lr_steps_reset  # both count from step 0
    assert (run.save_checkpoints_steps, run.keep_checkpoint_max) == (10_000, 0)


def test_a_classifier_takes_its_network_from_the_pre_training_config(tmp_path):
    """The original's fine-tuning files name it so."""
    path = tmp_path / "params.yaml"
    path.write_text(
        "train_input: {data_processor: Sst2DataProcessor, data_dir: ., vocab_file: vocab.txt,"
        " max_sequence_length: 72, batch_size: 12}\n"
        f"model: {{pretrain_params_path: {ROOT}/configs/params_bert_large_msl128.yaml}}\n"
    )
    params = get_params(path)
    assert (params.task, params.model.num_hidden_layers) == ("classification", 24)
