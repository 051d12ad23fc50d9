# SPDX-License-Identifier: Apache-2.0
"""TF_CONFIG: which process is which, and what is refused."""

import json

import pytest

from common.errors import UserError
from common.params import RunParams
from common.training.cluster import ALONE, EXAMPLE, Cluster, read_cluster


def read(config, mode="train", **run):
    run = RunParams(mode=mode, **{"multiple_workers": True, **run})
    environ = {} if config is None else {"TF_CONFIG": config}
    return read_cluster(run, environ)


def config(cluster=None, task=None):
    cluster = {"worker": ["a:1", "b:2"]} if cluster is None else cluster
    return json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0, **(task or {})}})


def test_processes_are_numbered_with_the_chief_first():
    assert read(config(task={"index": 1})) == Cluster(("a:1", "b:2"), 1)
    whole = {"worker": ["a:1", "b:2"], "chief": ["c:3"]}
    assert read(config(whole, {"type": "chief"})) == Cluster(("c:3", "a:1", "b:2"), 0)
    second = read(config(whole, {"index": 1}))
    assert second == Cluster(("c:3", "a:1", "b:2"), 2)
    assert (second.is_chief, second.num_workers) == (False, 3)
    assert read(config()).is_chief  # worker 0, where nobody is called chief
    assert read(EXAMPLE).num_workers == 2
    assert read(config({"worker": ["[::1]:1", "node-7.site:65535"]})).num_workers == 2


def test_tf_config_counts_only_where_the_params_ask_for_workers():
    assert read(config(), multiple_workers=False) is ALONE
    assert ALONE.is_chief and ALONE.num_workers == 1


@pytest.mark.parametrize("mode", ["eval", "eval_all", "predict"])
def test_evaluation_without_tf_config_runs_in_one_process(mode):
    assert read(None, mode) is ALONE
    assert read(config(), mode).num_workers == 2


def test_an_export_is_made_by_one_process():
    assert read(config(), "export") is ALONE


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "is not set"),
        (" ", "is not set"),
        ("{'cluster': 1}", "not JSON at character 1"),
        ("[]", "no mapping 'cluster'"),
        ('{"cluster": {"worker": ["a:1"]}}', "no mapping 'task'"),
        (config({"worker": ["a:1"], "ps": ["b:2"]}), "jobs 'ps'"),
        (config({"worker": "a:1"}), "'a:1' for worker"),
        (config({"worker": ["a"]}), "address 'a'"),
        (config({"worker": ["a:0"]}), "address 'a:0'"),
        (config({"worker": ["a:65536"]}), "address 'a:65536'"),
        (config({"worker": ["http://a:1"]}), "address 'http://a:1'"),
        (config({"worker": [7]}), "address 7"),
        (config({}), "no process"),
        (config({"worker": ["a:1", "a:1"]}), "a:1 more than once"),
        (config({"worker": ["a:1"], "chief": ["b:1", "c:1"]}), "more than one chief"),
        (config(task={"type": "chief"}), "the type 'chief'; its cluster has 'worker'"),
        (config(task={"type": ["worker"]}), "the type"),
        (config(task={"index": 2}), "worker number 2; .* from 0 to 1"),
        (config(task={"index": -1}), "worker number -1"),
        (config(task={"index": "0"}), "worker number '0'"),
        (config(task={"index": True}), "worker number True"),
        (config({"worker": ["a:1"]}, {"index": 1}), "so the index is 0"),
    ],
)
def test_an_invalid_tf_config_is_refused_with_what_to_write(text, fault):
    with pytest.raises(UserError, match=f"TF_CONFIG.*{fault}") as caught:
        read(text)
    assert str(caught.value).endswith(EXAMPLE)
