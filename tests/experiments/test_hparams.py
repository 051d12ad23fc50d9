# SPDX-License-Identifier: Apache-2.0
"""TensorBoard's HParams tab, asked by its own backend, shows the params and figures of runs."""

import json

import yaml
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, get_experiment, list_session_groups
from tensorboard.plugins.hparams.backend_context import Context

from common.reports.metrics_file import MetricsFile
from common.reports.tensorboard import TensorBoard
from experiments.hparams import write_hparams

RATES = {"a": 1e-3, "b": 3e-5}


def make_run(folder, rate, seed):
    """Writes what a training of two steps and two evaluations writes."""
    folder.mkdir(parents=True)
    params = {"optimizer": {"learning_rate": rate}, "runconfig": {"tf_random_seed": seed}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "best.json").write_text(json.dumps({"step": 2, "metric": "eval/accuracy_cls"}))
    metrics_file = MetricsFile(folder)
    board = TensorBoard(folder, metrics_file)
    for step in (1, 2):
        for listener in (metrics_file, board):
            listener.on_figures("train", step, {"train/cost_cls": 1 / step})
            listener.on_figures("eval", step, {"eval/accuracy_cls": rate * 100 + seed * step})
    for listener in (metrics_file, board):
        listener.close()
    write_hparams(folder, ["optimizer.learning_rate"])


def test_the_tab_has_a_row_for_each_run_with_its_params_and_last_figures(tmp_path):
    for seed, (name, rate) in enumerate(RATES.items(), 1):
        make_run(tmp_path / name, rate, seed)
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(tmp_path)).Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(tmp_path))
    backend, asked = Context(TBContext(data_provider=provider)), RequestContext()
    experiment = get_experiment.Handler(asked, backend, "", api_pb2.GetExperimentRequest()).run()
    assert {info.name for info in experiment.hparam_infos} == {
        "optimizer.learning_rate",
        "runconfig.tf_random_seed",
    }
    named = {(info.name.group, info.name.tag) for info in experiment.metric_infos}
    assert named == {("", "train/cost_cls"), ("eval", "eval/accuracy_cls")}
    request = api_pb2.ListSessionGroupsRequest(
        slice_size=10,
        allowed_statuses=api_pb2.Status.values(),
        col_params=[api_pb2.ColParams(metric=info.name) for info in experiment.metric_infos],
    )
    groups = list_session_groups.Handler(asked, backend, "", request).run().session_groups
    shown = {}
    for group in groups:
        (session,) = group.sessions
        figures = {value.name.tag: value.value for value in session.metric_values}
        shown[session.name] = group.hparams["optimizer.learning_rate"].number_value, figures
    # 0.001 * 100 + 1 * 2 and 0.00003 * 100 + 2 * 2, in float32
    assert shown.keys() == RATES.keys()
    for name, accuracy in (("a", 2.1), ("b", 4.003)):
        rate, figures = shown[name]
        assert rate == RATES[name]
        assert abs(figures["eval/accuracy_cls"] - accuracy) < 1e-6
        assert figures["train/cost_cls"] == 0.5
