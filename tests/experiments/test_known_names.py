# SPDX-License-Identifier: Apache-2.0
"""Runs in the words of Hugging Face as params of this project; no server, and no temporalio."""

from pathlib import Path

import pytest

from common.errors import UserError
from experiments.temporal.known_names import DATASETS, MODELS, resolve
from experiments.temporal.train import read_input
from experiments.temporal.types import BertFineTuneConfig, BertFineTuneResult, ParamsRun, run_id_of
from utils import get_params

ROOT = Path(__file__).resolve().parents[2]
GIVEN = {
    "model_name": "bert-base-uncased",
    "dataset_name": "glue",
    "dataset_config_name": "sst2",
    "num_epochs": 3,
    "batch_size": 17,
    "learning_rate": 3e-5,
    "max_seq_length": 96,
    "use_gpu": False,
    "max_train_samples": 500,
    "max_eval_samples": 100,
}


@pytest.mark.parametrize("model_name", MODELS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_each_known_name_makes_params_that_run_py_accepts(model_name, dataset):
    names = {"model_name": model_name, "dataset_name": dataset[0]}
    names["dataset_config_name"] = dataset[1]
    base, overrides = resolve(BertFineTuneConfig.model_validate(GIVEN | names), {})
    params = get_params(base, overrides)
    assert params.train_input.batch_size == 17
    assert params.train_input.max_sequence_length == params.eval_input.max_sequence_length == 96
    assert params.train_input.max_train_samples == 500
    assert params.eval_input.max_eval_samples == 100
    assert params.runconfig.num_epochs == 3 and params.runconfig.device == "/cpu:0"
    size = {"base": 768, "large": 1024, "minilm": None}[MODELS[model_name][0]]
    assert params.model.hidden_size == size  # of MiniLM the checkpoint says it


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_name": "bert-huge"}, "model_name is bert-huge; available: bert-base-uncased"),
        ({"dataset_config_name": "cola"}, "is glue/cola; have: glue/sst2, glue/mnli"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_are_known(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        resolve(BertFineTuneConfig.model_validate(GIVEN | changes), {})


def test_weights_on_disk_replace_those_of_the_table():
    _, overrides = resolve(BertFineTuneConfig(**GIVEN), {"bert-base-uncased": "/data/bert"})
    assert overrides["runconfig.checkpoint_path"] == "/data/bert"


def test_the_runs_shipped_are_read_and_named_as_the_original_names_them():
    given = read_input(ROOT / "configs" / "temporal" / "runs.yaml")
    ids = [run_id_of(given.experiment_name, n, run) for n, run in enumerate(given.runs)]
    assert ids == [f"runs-run-{n}-sentence-transformers_all-MiniLM-L6-v2" for n in (0, 1)]
    for run in given.runs:
        get_params(*resolve(run, {}))


def test_a_faulty_file_is_refused_with_every_fault(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("experiment_name: a\nruns: []\nmodel_dri: b\nmax_parallel: 0\n")
    with pytest.raises(UserError, match=r"2 to correct\n  max_parallel: .*\n  model_dri: "):
        read_input(path)


def test_a_result_comes_back_from_json_as_it_was():
    """Of both kinds of runs, with steps as keys and a learning rate to the last bit."""
    for config in (
        BertFineTuneConfig(**GIVEN),
        ParamsRun(
            number=0, combination=0, model_name="x", base="/a.yaml", folder="/",
            overrides={"optimizer.learning_rate": 0.1 + 0.2}, values={},
        ),
    ):  # fmt: skip
        result = BertFineTuneResult(
            run_id="a", config=config, train_loss=None, eval_accuracy=0.1,
            training_time_seconds=1, num_parameters=2, curve={20: 0.5, 40: 0.25},
        )  # fmt: skip
        assert BertFineTuneResult.model_validate_json(result.model_dump_json()) == result
