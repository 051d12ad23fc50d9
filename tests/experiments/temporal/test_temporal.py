# SPDX-License-Identifier: Apache-2.0
"""experiments/temporal with a real server, and runs that count in place of runs that train.

What an experiment ends with is what the local controller ends with, whatever is killed on the way.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("temporalio", reason="make test-temporal has the environment")

from temporalio.client import WorkflowFailureError

from common.errors import RunError, UserError
from common.signals import Control, Stopped
from experiments import controller
from experiments.temporal import executor
from experiments.temporal.connection import connect
from experiments.temporal.executor import file_of, run_experiment
from experiments.temporal.types import BertExperimentInput, BertFineTuneConfig, ExperimentFile
from experiments.temporal.workflows import BertFineTuningWorkflow
from tests.experiments.counting import (
    BAYES,
    counting,
    experiment_of,
    states,
    trainers_in,
    values_in,
    wait_for,
)
from tests.experiments.temporal.processes import Server, Worker, free_port

pytestmark = pytest.mark.temporal
ROOT = Path(__file__).resolve().parents[3]
SECONDS = 60  # within which anything here has happened


@pytest.fixture(scope="module", autouse=True)
def impatience():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "HEARTBEAT_SECONDS", 4.0)
        patch.setattr(executor, "POLL_SECONDS", 0.2)
        patch.setattr(controller, "POLL_SECONDS", 0.02)
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def work(server, tmp_path):
    """Starts workers, and ends them after the test."""
    started = []

    def start(*given, at=server, **options):
        started.append(Worker(at, tmp_path / "runs", *given, **options))
        return started[-1]

    yield start
    for worker in started:
        worker.stop()
    assert not trainers_in(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The states and the table of the local controller."""
    folder = tmp_path_factory.mktemp("local")
    result, _ = controller.run_experiment(experiment_of(), folder, {}, Control(), counting())
    return states(folder), result.output


class Client:
    """The command that makes an experiment, in a thread."""

    def __init__(self, server, folder, **given):
        self.server, self.folder, self.control = server, folder, Control()
        self.experiment = experiment_of(**{"max_parallel": 2} | given)
        pool = ThreadPoolExecutor(1)
        arguments = self.experiment, folder, {}, self.control, server.address, "default"
        self.outcome = pool.submit(run_experiment, *arguments)
        pool.shutdown(wait=False)

    def result(self):
        """Returns the Result and the failed runs."""
        return self.outcome.result(timeout=SECONDS)

    def ask(self, what, *arguments):
        """Returns what the experiment's workflow answers to a query, or sends it a signal."""

        async def answer():
            client = await connect(self.server.address)
            handle = client.get_workflow_handle(self.experiment.experiment)
            return await getattr(handle, what)(*arguments)

        return asyncio.run(answer())

    def states(self):
        told = self.ask("query", BertFineTuningWorkflow.progress).runs
        return {run.run_id: run.state for run in told}


def as_local(found, name):
    """The states of an experiment called `name` under the names of the local one."""
    return {run_id.replace(f"{name}-run", "tried-run"): state for run_id, state in found.items()}


def test_the_table_and_the_journal_are_those_of_the_local_controller(
    server, work, undisturbed, tmp_path
):
    work()
    result, failed = Client(server, tmp_path / "a", experiment="tried").result()
    assert (states(tmp_path / "a"), result.output, failed) == (*undisturbed, [])
    assert len(list((tmp_path / "a").glob("*/events*.hparams"))) == 6  # for TensorBoard
    # The local controller takes the folder over, and finds everything done.
    control = Control()
    local, _ = controller.run_experiment(
        experiment_of(max_parallel=2), tmp_path / "a", {}, control, counting("fails")
    )
    assert local.output == result.output
    starts = [path.read_text().count("start") for path in (tmp_path / "a").glob("*/starts")]
    assert starts == [1] * 6


def test_runs_whose_worker_is_killed_go_on_at_another_one(server, work, undisturbed, tmp_path):
    worker = work(pause="0.3")
    client = Client(server, tmp_path / "a", experiment="killed")
    wait_for(lambda: len(states(tmp_path / "a")) == 2)
    worker.kill()
    wait_for(lambda: not trainers_in(tmp_path))  # they have saved
    steps = [json.loads(state)[0] for state in states(tmp_path / "a").values()]
    assert all(1 <= step < 12 for step in steps)
    work()
    client.result()
    assert as_local(states(tmp_path / "a"), "killed") == undisturbed[0]


def test_a_server_that_is_killed_goes_on_where_it_was(work, undisturbed, tmp_path):
    server = Server(tmp_path)
    work(at=server, pause="0.2")
    client = Client(server, tmp_path / "a", experiment="restarted")
    wait_for(lambda: len(states(tmp_path / "a")) == 2)
    server.kill()
    time.sleep(3)
    server.start()
    client.result()
    assert as_local(states(tmp_path / "a"), "restarted") == undisturbed[0]
    server.kill()


def test_a_client_that_is_stopped_attaches_again(server, work, undisturbed, tmp_path):
    work()
    first = Client(server, tmp_path / "a", experiment="attached")
    wait_for(lambda: states(tmp_path / "a"))
    first.control.request_stop(signal.SIGTERM)
    with pytest.raises(Stopped):
        first.result()
    second = Client(server, tmp_path / "a", experiment="attached", max_parallel=3)
    assert second.result()[0].output[1].split()[:4] == undisturbed[1][1].split()[:4]
    assert as_local(states(tmp_path / "a"), "attached") == undisturbed[0]
    starts = [path.read_text().count("start") for path in (tmp_path / "a").glob("*/starts")]
    assert starts == [1] * 6


def test_a_larger_run_cap_adds_runs_to_an_experiment_that_goes_on(
    server, work, undisturbed, tmp_path
):
    work(pause="0.2")
    first = Client(server, tmp_path / "a", experiment="raised", run_cap=2)
    wait_for(lambda: states(tmp_path / "a"))
    second = Client(server, tmp_path / "a", experiment="raised")
    assert len(first.result()[0].output) == len(second.result()[0].output) == 4
    assert as_local(states(tmp_path / "a"), "raised") == undisturbed[0]


def test_another_folder_is_refused_while_the_experiment_goes_on(server, work, tmp_path):
    work(pause="0.2")
    first = Client(server, tmp_path / "a", experiment="twice", run_cap=2)
    wait_for(lambda: states(tmp_path / "a"))
    with pytest.raises(UserError, match=f"experiment twice in .*{tmp_path}/a"):
        Client(server, tmp_path / "b", experiment="twice").result()
    first.result()


def test_nothing_trains_after_a_cancel_and_what_was_done_is_saved(server, work, tmp_path):
    work(pause="0.3")
    client = Client(server, tmp_path / "a", experiment="cancelled")
    wait_for(lambda: len(states(tmp_path / "a")) == 2)
    client.ask("cancel")
    started = time.monotonic()
    with pytest.raises(RunError, match=r"cancelled: .*[Cc]ancelled"):
        client.result()
    assert time.monotonic() - started < 10
    assert not trainers_in(tmp_path)  # it is over only once they have left
    found = states(tmp_path / "a")
    time.sleep(1)
    assert states(tmp_path / "a") == found and len(found) == 2


def test_paused_runs_save_and_leave_and_none_starts_until_they_are_resumed(
    server, work, undisturbed, tmp_path
):
    work(pause="0.1")
    client = Client(server, tmp_path / "a", experiment="paused")
    wait_for(lambda: len(states(tmp_path / "a")) == 2)
    client.ask("signal", BertFineTuningWorkflow.pause)
    wait_for(lambda: not trainers_in(tmp_path))
    found = states(tmp_path / "a")
    time.sleep(2)
    assert states(tmp_path / "a") == found
    client.ask("signal", BertFineTuningWorkflow.resume)
    client.result()
    assert as_local(states(tmp_path / "a"), "paused") == undisturbed[0]


def test_an_activity_that_is_paused_by_the_servers_program_saves_and_goes_on(
    server, work, undisturbed, tmp_path
):
    from experiments.temporal.connection import temporal_program

    work(pause="0.3")
    client = Client(server, tmp_path / "a", experiment="held", run_cap=2)
    wait_for(lambda: len(states(tmp_path / "a")) == 2)

    def command(verb):
        words = ["activity", verb, "--workflow-id", "held-run-0-bert_tiny"]
        words += ["--activity-id", "2", "--address", server.address]
        subprocess.run([temporal_program(), *words], check=True, capture_output=True)

    command("pause")
    wait_for(lambda: len(trainers_in(tmp_path)) == 1)
    time.sleep(1)
    assert len(trainers_in(tmp_path)) == 1
    command("unpause")
    client.result()
    expected = {name: undisturbed[0][name] for name in list(undisturbed[0])[:2]}
    assert as_local(states(tmp_path / "a"), "held") == expected


def test_a_worker_that_is_stopped_lets_its_runs_save(server, work, undisturbed, tmp_path):
    worker = work(pause="0.2")
    client = Client(server, tmp_path / "a", experiment="stopped", run_cap=2)
    wait_for(lambda: len(states(tmp_path / "a")) == 2)
    assert worker.stop() == 0
    assert not trainers_in(tmp_path)
    work()
    client.result()
    expected = {name: undisturbed[0][name] for name in list(undisturbed[0])[:2]}
    assert as_local(states(tmp_path / "a"), "stopped") == expected


def test_two_hosts_share_the_runs_and_each_goes_on_with_its_own(server, work, tmp_path):
    first, _ = work("one", slots=1, pause="0.3"), work("two", slots=1, pause="0.3")
    client = Client(server, tmp_path / "a", experiment="shared", run_cap=4)
    wait_for(lambda: len(states(tmp_path / "a")) == 2)
    first.kill()
    work("one", slots=1)
    client.result()
    told = client.ask("query", BertFineTuningWorkflow.progress).runs
    assert {run.queue.partition("@")[2] for run in told} == {"one", "two"}


def test_a_run_that_fails_is_tried_three_times_and_told(server, work, tmp_path):
    work(pause="fails")
    result, failed = Client(server, tmp_path / "a", experiment="failing").result()
    assert failed == ["failing-run-2-bert_tiny", "failing-run-3-bert_tiny"]
    assert [line.split()[0] for line in result.output[1:]] == ["0.3", "0.1"]
    assert (tmp_path / "a" / failed[0] / "starts").read_text().count("start") == 3


def test_of_those_at_a_rung_the_best_go_on(server, work, undisturbed, tmp_path):
    """As tests/experiments/test_controller.py has it."""
    early = {"type": "hyperband", "min_iter": 4, "eta": 1.5}
    work(pause="0.3")
    client = Client(server, tmp_path / "a", experiment="rungs", early_terminate=early)
    result, failed = client.result()
    assert not failed
    assert [line.split()[0] for line in result.output[1:]] == ["0.5"]
    found = as_local(states(tmp_path / "a"), "rungs")
    steps = {name: json.loads(state)[0] for name, state in found.items()}
    best = [f"tried-run-{n}-bert_tiny" for n in (2, 3)]  # 0.5
    assert all(found[name] == undisturbed[0][name] for name in best)
    assert all(steps[name] < 12 for name in steps if name not in best)


def test_bayes_tries_what_the_local_controller_tries_also_where_nobody_watched(
    server, work, tmp_path
):
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    experiment = experiment_of(**BAYES | {"run_cap": 13})
    local = controller.run_experiment(experiment, tmp_path / "local", {}, Control(), counting("0"))
    work(slots=1, pause="0")
    given = {"experiment": "chosen", "max_parallel": 1}
    first = Client(server, tmp_path / "a", **BAYES | given | {"run_cap": 12})
    wait_for(lambda: states(tmp_path / "a"))
    first.control.request_stop(signal.SIGTERM)
    with pytest.raises(Stopped):
        first.result()
    wait_for(lambda: list(first.states().values()) == ["done"] * 12)
    result, failed = Client(server, tmp_path / "a", **BAYES | given | {"run_cap": 13}).result()
    assert values_in(tmp_path / "a") == values_in(tmp_path / "local")
    tables = [[line.split()[:4] for line in each.output] for each in (result, local[0])]
    assert tables[0] == tables[1] and not failed
    assert as_local(states(tmp_path / "a"), "chosen") == states(tmp_path / "local")
    # The local controller takes the folder over, and finds everything done.
    experiment = experiment_of(**BAYES | given | {"run_cap": 13})
    taken, _ = controller.run_experiment(
        experiment, tmp_path / "a", {}, Control(), counting("fails")
    )
    assert taken.output == result.output


def test_runs_are_pruned_and_found_and_ranked(server, work, tmp_path):
    work(pause="0.25")
    client = Client(server, tmp_path / "a", experiment="pruned", max_parallel=1)
    wait_for(lambda: states(tmp_path / "a"))
    client.ask("signal", BertFineTuningWorkflow.prune, "pruned-run-0-bert_tiny")
    client.ask("signal", BertFineTuningWorkflow.prune, "pruned-run-5-bert_tiny")
    result, failed = client.result()
    assert not failed and "4 runs done, 2 ended early" in result.outcome
    board = client.ask("query", BertFineTuningWorkflow.leaderboard)
    ranked = [int(run.run_id.split("-")[2]) for run in board if run.state == "done"]
    assert ranked == [3, 2, 4, 1]  # 6.02, 6.01, 3.61, 1.22

    async def search(query):
        listed = (await connect(server.address)).list_workflows(query)
        return sorted([each.id async for each in listed])

    query = "BertExperiment = 'pruned' and BertFigure > 6"
    wanted = ["pruned-run-2-bert_tiny", "pruned-run-3-bert_tiny"]
    wait_for(lambda: asyncio.run(search(query)) == wanted)


def test_hugging_faces_words_make_runs_and_what_is_unknown_is_refused(server, work, tmp_path):
    """Of such runs it is run.py's words that are new; here is what reaches the command."""
    work(pause="fails")
    config = BertFineTuneConfig(
        model_name="bert-tiny", dataset_name="glue", dataset_config_name="sst2", num_epochs=1,
        batch_size=8, learning_rate=1e-3, max_seq_length=32, use_gpu=False,
    )  # fmt: skip

    async def make(name):
        client = await connect(server.address)
        given = BertExperimentInput(experiment_name=name, runs=[config])
        return await client.execute_workflow(
            BertFineTuningWorkflow.run, given, id=name, task_queue="bert-finetune-task-queue"
        )

    with pytest.raises(WorkflowFailureError) as refused:
        asyncio.run(make("words"))
    cause = str(refused.value.cause)
    assert "words-run-0-bert-tiny: " in cause and "model_name is bert-tiny; available" in cause


def test_a_schedule_makes_new_runs_at_each_start_in_hugging_faces_words(server, work, tmp_path):
    from experiments.temporal.connection import temporal_program

    work(pause="0.01")
    run = {"model_name": "bert-base-uncased", "dataset_name": "glue", "num_epochs": 1}
    run |= {"dataset_config_name": "sst2", "batch_size": 8, "learning_rate": 0.25}
    run |= {"max_seq_length": 32, "use_gpu": False}

    def schedule(verb, *words):
        words = [temporal_program(), "schedule", verb, "--schedule-id", "nightly", *words]
        subprocess.run([*words, "--address", server.address], check=True, capture_output=True)

    given = json.dumps({"experiment_name": "", "runs": [run]})
    what = ["--type", "BertFineTuningWorkflow", "--task-queue", "bert-finetune-task-queue"]
    what += ["--workflow-id", "nightly", "--input", given, "--interval", "300d"]
    schedule("create", *what)
    schedule("trigger")
    wait_for(lambda: len(states(tmp_path / "runs")) == 1)
    time.sleep(1)  # the time of the next start, in seconds, is part of its name
    schedule("trigger")
    wait_for(lambda: len(states(tmp_path / "runs")) == 2)
    schedule("delete")
    assert all(name.startswith("nightly-20") for name in states(tmp_path / "runs"))
    # 12 steps of s = 0.9 s + 0.25
    wait_for(lambda: all("[12, 1.7939" in state for state in states(tmp_path / "runs").values()))


def test_the_runs_of_a_file_are_those_of_the_local_controller():
    file = file_of(experiment_of(), {"runconfig.max_steps": 5})
    runs = ExperimentFile.model_validate_json(file.model_dump_json()).runs(1, {"a.b": 2})
    assert [(run.number, run.combination) for run in runs] == [(2, 1), (3, 1)]
    assert runs[1].overrides["a.b"] == 2
    assert runs[1].overrides["runconfig.tf_random_seed"] == 2
    assert runs[1].overrides["runconfig.max_steps"] == 5


@pytest.mark.parametrize(
    "words",
    [
        ["run.py", "--mode", "experiment", "--executor", "temporal", "--params", "{file}"],
        ["-m", "experiments.temporal.worker"],
        ["-m", "experiments.temporal.inference", "--run_id", "a", "--text", "b"],
    ],
)
def test_without_a_server_the_command_that_starts_one_is_told(words, tmp_path):
    file = ROOT / "configs" / "experiments" / "sample_rates.yaml"
    words = [word.format(file=file) for word in words]
    address = f"127.0.0.1:{free_port()}"
    done = subprocess.run(
        [sys.executable, *words, "--temporal_address", address],
        capture_output=True, text=True, cwd=ROOT, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert f"no Temporal server answers at {address}" in done.stderr
    assert "temporal server start-dev" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["run.py", "--mode", "experiment", "--executor", "temporal", "--params", "{file}"],
        ["-m", "experiments.temporal.worker"],
        ["-m", "experiments.temporal.train", "--input", "configs/temporal/runs.yaml"],
        ["-m", "experiments.temporal.inference", "--run_id", "a", "--text", "b"],
    ],
)
def test_a_namespace_that_the_server_lacks_is_told(server, words, tmp_path):
    file = ROOT / "configs" / "experiments" / "sample_rates.yaml"
    words = [word.format(file=file) for word in words]
    words += ["--model_dir", str(tmp_path / "runs")] if words[0] == "run.py" else []
    words += ["--temporal_address", server.address, "--temporal_namespace", "nope"]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=ROOT, timeout=SECONDS
    )
    assert done.returncode == 2, done.stderr
    assert f"{server.address} has no namespace nope; make it" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "runs").exists()


# ---- Inference -----------------------------------------------------------------------------------

ECHOES = """
import json, os, sys
for line in sys.stdin:
    texts = json.loads(line)["texts"]
    if "bad" in texts:
        print(json.dumps({"error": "it is bad"}), flush=True)
    elif "die" in texts:
        sys.exit(3)
    else:
        answer = {"predicted_labels": [os.getpid()] * len(texts), "confidences": [1.0] * len(texts)}
        print(json.dumps(answer), flush=True)
"""


def test_a_model_stays_loaded_and_those_asked_longest_ago_leave():
    from experiments.temporal.loaded_models import LoadedModels

    async def ask():
        models = LoadedModels(2, [sys.executable, "-c", ECHOES])
        labels = []
        for folder in ("a", "b", "a", "c", "a", "b"):
            answer = await models.ask(folder, 8, False, ["x", "y"])
            labels.append(answer["predicted_labels"][0])
        with pytest.raises(UserError, match="it is bad"):
            await models.ask("a", 8, False, ["bad"])
        with pytest.raises(RunError, match="exit code 3"):
            await models.ask("a", 8, False, ["die"])
        again = (await models.ask("a", 8, False, ["x"]))["predicted_labels"][0]
        await models.close()
        return labels, again

    (a, b, a2, c, a3, b2), again = asyncio.run(ask())
    assert a == a2 == a3 and len({a, b, c, b2, again}) == 5
    for process in (a, b, c, b2, again):
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
