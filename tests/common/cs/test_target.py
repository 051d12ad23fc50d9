# SPDX-License-Identifier: Apache-2.0
"""Which runs go to a CS system, and what is refused before anything is sent."""

import argparse
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from common.cs import target
from common.errors import RunError, UserError
from common.params import Params

ROOT = Path(__file__).resolve().parents[3]


def make_params(mode="train", **sections):
    """Params of a small file; `sections` gives keys: train_input={"repeat": False}."""
    values = {
        "train_input": {
            "data_processor": "Sst2DataProcessor",
            "data_dir": "none",
            "max_sequence_length": 8,
            "batch_size": 4,
        },
        "model": {},
        "optimizer": {},
        "csconfig": {},
        "runconfig": {"mode": mode, "max_steps": 10},
    }
    for name, keys in sections.items():
        values.setdefault(name, {}).update(keys)
    return Params.model_validate(values)


def parse(*arguments):
    parser = argparse.ArgumentParser()
    target.add_flags(parser)
    return parser.parse_args(arguments)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (target.LAUNCHER, target.MOUNT_DIRS, target.CS_PYTHON, "K8S_CS_IP"):
        monkeypatch.delenv(name, raising=False)


# ---- The choice ----------------------------------------------------------------------------------


def test_a_run_without_an_address_stays_on_this_machine():
    assert not target.is_for_cs(parse(), make_params())


@pytest.mark.parametrize(
    "sections",
    [
        {"runconfig": {"cs_ip": "10.0.0.1"}},
        {"csconfig": {"mgmt_address": "cluster.example:443"}},
    ],
)
def test_an_address_sends_the_run_to_the_cluster(sections):
    assert target.is_for_cs(parse(), make_params(**sections))


def test_target_overrules_address_and_launcher(monkeypatch):
    monkeypatch.setenv(target.LAUNCHER, "csrun_wse")
    params = make_params(runconfig={"cs_ip": "10.0.0.1"})
    assert not target.is_for_cs(parse("--target", "gpu"), params)
    monkeypatch.delenv(target.LAUNCHER)
    assert target.is_for_cs(parse("--target", "cs"), make_params())


@pytest.mark.parametrize(
    ("launcher", "flag", "expected"),
    [
        ("csrun_wse", None, True),
        ("csrun_cpu", None, False),
        ("csrun_cpu", "validate_only", True),
        ("csrun_cpu", "compile_only", True),
        (None, "validate_only", False),
    ],
)
def test_the_launcher_decides_as_the_originals_did(monkeypatch, launcher, flag, expected):
    if launcher:
        monkeypatch.setenv(target.LAUNCHER, launcher)
    params = make_params(runconfig={flag: True} if flag else {})
    assert target.is_for_cs(parse(), params) == expected


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"runconfig": {"cs_ip": "10.0.0.1"}}, "10.0.0.1:9000"),
        ({"runconfig": {"cs_ip": "10.0.0.1:443"}}, "10.0.0.1:443"),
        (
            {"runconfig": {"cs_ip": "10.0.0.1"}, "csconfig": {"mgmt_address": "c.example:443"}},
            "c.example:443",
        ),
    ],
)
def test_port_9000_is_added_to_an_address_without_one(sections, expected):
    assert target.address_of(make_params(**sections)) == expected


def test_flags_without_effect_are_named(capsys):
    args = parse("--execution_strategy", "pipeline", "--disable_version_check")
    assert target.overrides_of_launcher(args) == {}
    told = capsys.readouterr().err
    assert "--execution_strategy has no effect" in told
    assert "--disable_version_check has no effect" in told


def test_mount_dirs_of_the_launcher_reach_the_params(monkeypatch):
    monkeypatch.setenv(target.MOUNT_DIRS, "/a:/b")
    assert target.overrides_of_launcher(parse()) == {"csconfig.mount_dirs": ["/a", "/b"]}
    assert target.overrides_of_launcher(parse("--mount_dirs", "/c")) == {}


# ---- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "sections", "told"),
    [
        ("train_and_eval", {}, "run --mode train, then --mode eval"),
        ("eval_all", {}, "once for each checkpoint"),
        ("export", {}, "it needs no CS system"),
        ("train", {"runconfig": {"max_steps": None}}, "needs its length; give --num_epochs"),
        ("train", {"train_input": {"repeat": False}}, "train_input.repeat"),
        ("train", {"runconfig": {"max_steps": None, "max_seconds": 9}}, "give --max_steps"),
        ("train", {"optimizer": {"optimizer_type": "rmsprop"}}, "adam, adamw"),
        ("train", {"optimizer": {"optimizer_type": "lamb"}}, "lamb has no exact counterpart"),
        ("train", {"optimizer": {"grad_accum_steps": 3}}, "train_input.batch_size: 12"),
        ("train", {"optimizer": {"grad_accum_schedule": [[0, 2]]}}, "grad_accum_schedule"),
        ("train", {"optimizer": {"moving_average_decay": 0.9}}, "moving_average_decay"),
        ("train", {"optimizer": {"lazy_word_embeddings": True}}, "lazy_word_embeddings"),
        ("train", {"distillation": {"teacher": "t"}}, "no teacher runs on a CS system"),
        ("train", {"csconfig": {"num_csx": 5}}, "5 systems"),
        ("train", {"csconfig": {"use_cbfloat16": True}}, "needs model.mixed_precision: true"),
    ],
)
def test_what_the_system_cannot_do_is_refused_with_what_to_write(mode, sections, told):
    with pytest.raises(UserError, match="1 rule of a CS system broken") as error:
        target.check_rules(make_params(mode, **sections))
    assert told in str(error.value)


def test_a_discriminator_is_not_computed_there():
    params = make_params("train")
    model = params.model.model_copy(update={"pretraining_objective": "replaced_tokens"})
    with pytest.raises(UserError, match="replaced_tokens is not computed on a CS system"):
        target.check_rules(params.model_copy(update={"model": model}))


@pytest.mark.parametrize("mode", ["eval", "predict"])
def test_what_trains_nothing_needs_no_length(mode):
    target.check_rules(make_params(mode, runconfig={"max_steps": None}))


def test_a_length_in_epochs_is_one_for_a_cs_system():
    params = make_params("train", runconfig={"max_steps": None, "num_epochs": 2})
    target.check_rules(params)
    target.check_rules(make_params("train", optimizer={"decay": "linear", "warmup_ratio": 0.1}))


@pytest.mark.parametrize("task", ["multi_label", "token_classification", "question_answering"])
def test_a_task_that_has_no_twin_is_refused(task):
    params = make_params("predict")
    section = params.predict_input.model_copy(update={"task": task})
    refusal = f"task: {task}, and a CS system runs classification, reg.* run it on this machine"
    with pytest.raises(UserError, match=refusal):
        target.check_rules(params.model_copy(update={"predict_input": section}))


def test_every_broken_rule_is_told_at_once():
    params = make_params(train_input={"repeat": False}, optimizer={"grad_accum_steps": 2})
    with pytest.raises(UserError, match="2 rules") as error:
        target.check_rules(params)
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize("mode", target.MODES)
def test_what_the_system_can_do_passes(mode):
    target.check_rules(make_params(mode))


def test_an_absent_sdk_is_refused_with_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setenv(target.CS_PYTHON, str(tmp_path / "python"))
    with pytest.raises(UserError, match="make cs-setup"):
        target.find_python()
    (tmp_path / "python").write_text("")
    assert target.find_python() == tmp_path / "python"


def test_half_an_installation_of_the_sdk_is_refused_too(monkeypatch, tmp_path):
    monkeypatch.setattr(target, "ROOT", tmp_path)
    python = tmp_path / ".venv-cs" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("")
    with pytest.raises(UserError, match=r"\.venv-cs is not complete; `make cs-setup`"):
        target.find_python()
    (tmp_path / ".venv-cs" / ".installed").touch()
    assert target.find_python() == python


def test_an_address_where_nothing_answers_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # a port that is ours, and not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RunError, match=f"no CS system answers at {address}") as error:
            target.check_reachable(make_params(csconfig={"mgmt_address": address}))
    assert "--mgmt_address" in str(error.value)


def test_a_server_that_listens_is_taken_for_a_cluster():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        target.check_reachable(make_params(csconfig={"mgmt_address": address}))


def test_no_address_at_all_is_told_with_the_flags_that_give_one():
    with pytest.raises(RunError, match="--mgmt_address HOST:PORT"):
        target.check_reachable(make_params())


def test_only_validation_and_the_cpu_backend_need_no_cluster():
    assert target.needs_cluster(make_params())
    compiled = {"compile_only": True}
    assert target.needs_cluster(make_params(runconfig=compiled | {"cs_ip": "10.0.0.1"}))
    assert not target.needs_cluster(make_params(runconfig=compiled))  # the front end alone
    assert not target.needs_cluster(make_params(runconfig={"validate_only": True}))
    assert not target.needs_cluster(make_params(csconfig={"backend": "cpu"}))


def test_run_py_knows_its_target_before_it_imports_a_framework(tmp_path):
    """`--target CS` without a cluster ends before TensorFlow, and never loads PyTorch."""
    python = tmp_path / "python"
    python.write_text("")
    program = (
        "import sys, run\n"
        f"code = run.main(['--mode', 'train', '--params', 'configs/params_bert_tiny.yaml',"
        f" '--model_dir', {str(tmp_path / 'd')!r}, '--cs_ip', '127.0.0.1:1'])\n"
        "print(code, *sorted({'tensorflow', 'torch', 'keras'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {target.CS_PYTHON: str(python)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == ["1"], done.stderr
    assert "no CS system answers at 127.0.0.1:1" in done.stderr


# ---- bin/csrun_cpu, bin/csrun_wse ----------------------------------------------------------------

SHOW = 'printf "%s|" "$BERT_CS_LAUNCHER" "$BERT_CS_MOUNT_DIRS" "$@"; exit 7'


def launch(name, *arguments, path=None):
    environment = os.environ | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
    return subprocess.run(
        [str(ROOT / "bin" / name), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )


@pytest.mark.parametrize("name", ["csrun_cpu", "csrun_wse"])
def test_a_launcher_passes_every_argument_and_the_exit_code_on(name):
    done = launch(name, "bash", "-c", SHOW, "_", "--mode", "two words", "")
    assert done.stdout == f"{name}||--mode|two words||"
    assert done.returncode == 7
    assert done.stderr == ""


def test_options_of_the_original_are_taken_and_those_without_effect_named():
    done = launch(
        *("csrun_wse", "--mount-dirs", "/a,/b", "--total-nodes", "3", "--cyclic"),
        *("--alloc-node=False", "--tasks_per_node=2", "bash", "-c", SHOW, "_", "--cyclic"),
    )
    assert done.stdout == "csrun_wse|/a:/b|--cyclic|"
    for option in ("--total-nodes 3", "--cyclic", "--alloc-node=False", "--tasks_per_node=2"):
        assert f"csrun_wse: {option} has no effect" in done.stderr


def test_a_sites_own_wrapper_is_left_alone(tmp_path):
    wrapper = tmp_path / "csrun_cpu"
    wrapper.write_text('#!/bin/sh\nprintf "site|"; printf "%s|" "$@"; exit 3\n')
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    done = launch("csrun_cpu", "--alloc-node=True", "python", "x y", path=tmp_path)
    assert done.stdout == "site|--alloc-node=True|python|x y|"
    assert done.returncode == 3
    # The other name has none there, and the folder of ours on the PATH is no site's.
    done = launch("csrun_wse", "bash", "-c", SHOW, path=f"{tmp_path}:{ROOT / 'bin'}")
    assert done.stdout.startswith("csrun_wse|")


def test_a_launcher_without_a_command_says_how_it_is_used():
    done = launch("csrun_cpu", "--alloc-node=True")
    assert done.returncode == 2
    assert "Usage: csrun_cpu" in done.stderr
    assert launch("csrun_cpu", "--help").returncode == 0


# ---- A blank in model_dir ------------------------------------------------------------------------


def test_a_blank_in_model_dir_is_refused_before_the_vendors_compiler_meets_it(tmp_path):
    def of(name, **sections):
        run = {"model_dir": str(tmp_path / name)} | sections.pop("runconfig", {})
        return make_params(runconfig=run, **sections)

    for runconfig in ({}, {"validate_only": True}, {"compile_only": True}):
        with pytest.raises(UserError, match=r"--model_dir: .*/my runs has a blank in it.* without"):
            target.check_rules(of("my runs", runconfig=runconfig))
    target.check_rules(of("runs"))
    target.check_rules(of("my runs", csconfig={"backend": "cpu"}))  # where nothing is compiled
