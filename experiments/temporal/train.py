# SPDX-License-Identifier: Apache-2.0
"""Makes an experiment whose runs are described in the words of Hugging Face.

    python -m experiments.temporal.train --input FILE [--temporal_address HOST:PORT]

FILE: YAML or JSON with the fields of BertExperimentInput in types.py, such as
configs/temporal/runs.yaml. Prints a line for each run. Killed, the same command
attaches to the experiment again. Exit codes: 0 done; 1 a run failed; 2 wrong usage, or no server.
"""

import argparse
import asyncio

from pydantic import ValidationError

from common.console import escape_unencodable, log
from common.errors import RunError, UserError
from common.params.yaml_file import read_yaml
from common.platform.standard_streams import end_at_once
from common.signals import Stopped, listening
from experiments.comparison import shown, table
from experiments.temporal import check_installed
from experiments.temporal.types import QUEUE, BertExperimentInput
from experiments.temporal.worker import add_server_flags
from utils import find_file


def make_parser():
    parser = argparse.ArgumentParser(
        prog="python -m experiments.temporal.train",
        description="Makes the runs of a file on a Temporal server.",
    )
    parser.add_argument("--input", required=True, metavar="FILE", help="YAML or JSON")
    add_server_flags(parser)
    return parser


def read_input(path):
    """Returns the BertExperimentInput of a file. Raises UserError, which lists all faults."""
    path = find_file(path)
    values, _, faults = read_yaml(path)
    found = [(fault.path, fault.text) for fault in faults]
    try:
        given = BertExperimentInput.model_validate(values)
    except ValidationError as error:
        found += [(each["loc"], each["msg"]) for each in error.errors()]
    if found:
        listed = [f"  {'.'.join(map(str, loc))}: {text}" for loc, text in found]
        raise UserError("\n".join([f"{path}: {len(found)} to correct", *listed]))
    return given


async def train(given, address, namespace, control):
    """Makes the experiment. Returns its BertExperimentOutput.

    given: BertExperimentInput. control: Control, which asks this process alone to stop.
    """
    from temporalio.common import WorkflowIDConflictPolicy as ConflictPolicy

    from experiments.temporal.connection import connect, make_searchable
    from experiments.temporal.executor import Watch, attributes_of
    from experiments.temporal.workflows import BertFineTuningWorkflow

    client = await connect(address, namespace)
    given = given.model_copy(update={"is_searchable": await make_searchable(client)})
    handle = await client.start_workflow(
        BertFineTuningWorkflow.run,
        given,
        id=given.experiment_name,
        task_queue=QUEUE,
        id_conflict_policy=ConflictPolicy.USE_EXISTING,
        search_attributes=attributes_of(given),
    )
    return await Watch(handle, control).run()


def lines_of(output):
    """Returns the table of a BertExperimentOutput: list of str."""
    header = ["run", "epochs", "batch", "learning_rate", "loss", "accuracy", "seconds"]
    rows = []
    for run in output.runs:
        config = run.config
        cells = (
            getattr(config, key, None) for key in ("num_epochs", "batch_size", "learning_rate")
        )
        figures = (run.train_loss, run.eval_accuracy, run.training_time_seconds)
        rows.append([run.run_id, *map(shown, cells), *map(shown, figures)])
    return table(header, rows)


def main(argv=None):
    escape_unencodable()
    args = make_parser().parse_args(argv)
    try:
        check_installed()
        given = read_input(args.input)
        with listening() as control:
            output = asyncio.run(
                train(given, args.temporal_address, args.temporal_namespace, control)
            )
        print(*lines_of(output), sep="\n")
        for run_id, reason in output.failed.items():
            log(f"{run_id} failed: {reason}")
        return 1 if output.failed else 0
    except UserError as error:
        log(str(error))
        return 2
    except RunError as error:
        log(f"The command failed: {error}")
        return 1
    except Stopped as stopped:
        return 128 + stopped.signal_number


if __name__ == "__main__":
    end_at_once(main())
