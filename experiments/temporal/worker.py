# SPDX-License-Identifier: Apache-2.0
"""Makes the runs that a Temporal server gives out, on this machine.

    python -m experiments.temporal.worker [--temporal_address HOST:PORT] [--slots N]

SIGTERM or Ctrl-C lets its runs save and ends it; they go on at the next worker of this host. It
listens to bert-finetune-task-queue, which is of all workers, and to two queues of its own host, for
runs and for inference, since the model_dirs of its runs lie there. Exit code 2: wrong usage, or no
server answers.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import socket
from datetime import timedelta

from common.console import escape_unencodable, log
from common.errors import UserError
from common.platform.standard_streams import end_at_once
from experiments.temporal import check_installed
from experiments.temporal.types import ADDRESS, NAMESPACE, QUEUE, inference_queue

THROTTLE = timedelta(seconds=2)  # a cancel comes with the answer to a heartbeat


def make_parser():
    parser = argparse.ArgumentParser(
        prog="python -m experiments.temporal.worker",
        description="Makes the runs that a Temporal server gives out, on this machine.",
    )
    add_server_flags(parser)
    add = parser.add_argument
    add("--slots", type=int, default=1, metavar="N", help="runs at the same time (default: 1)")
    add(
        "--storage",
        default=socket.gethostname(),
        metavar="NAME",
        help="name of what holds the model_dirs: workers of one name go on with each other's runs "
        "(default: the host's name; give one name to hosts that share a file system)",
    )
    add(
        "--runs_dir",
        default="model_dir/temporal",
        metavar="DIR",
        help="where a run lies whose request names no model_dir (default: model_dir/temporal)",
    )
    add(
        "--weights",
        action="append",
        default=[],
        metavar="MODEL_NAME=PATH",
        help="the weights of a model_name, such as bert-base-uncased=/data/bert_base; repeatable",
    )
    return parser


def add_server_flags(parser):
    add = parser.add_argument
    add("--temporal_address", default=ADDRESS, metavar="HOST:PORT", help=f"default: {ADDRESS}")
    add("--temporal_namespace", default=NAMESPACE, metavar="NAME", help=f"default: {NAMESPACE}")


def read_weights(given):
    """Returns {model_name: path} of the values of --weights."""
    from experiments.temporal.known_names import MODELS

    weights = {}
    for each in given:
        name, _, path = each.partition("=")
        if name not in MODELS or not path:
            raise UserError(f"--weights {each}: MODEL_NAME=PATH; names: {', '.join(MODELS)}")
        weights[name] = os.path.abspath(os.path.expanduser(path))
    return weights


@contextlib.asynccontextmanager
async def working(client, slots, storage, runs_dir, weights, **options):
    """While open, this process makes runs. options: as of Activities."""
    from temporalio.worker import Worker

    from experiments.temporal.activities import Activities, Slots
    from experiments.temporal.loaded_models import LoadedModels
    from experiments.temporal.workflows import (
        BertFineTuningWorkflow,
        BertInferenceWorkflow,
        BertRunWorkflow,
    )

    models = LoadedModels()
    made = Activities(client, Slots(slots), models, storage, runs_dir, weights, **options)
    interval = {
        "max_heartbeat_throttle_interval": THROTTLE,
        "default_heartbeat_throttle_interval": THROTTLE,
    }
    workers = [
        Worker(
            client,
            task_queue=QUEUE,
            workflows=[BertFineTuningWorkflow, BertRunWorkflow, BertInferenceWorkflow],
            activities=[made.choose_host, made.choose_combination, made.locate_run],
        ),
        Worker(
            client,
            task_queue=made.queue,
            activities=[made.fine_tune_bert],
            max_concurrent_activities=slots,
            **interval,
        ),
        Worker(
            client,
            task_queue=inference_queue(made.queue),
            activities=[made.run_bert_inference],
            **interval,
        ),
    ]
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(models.close)
        for worker in workers:
            await stack.enter_async_context(worker)
        yield made


async def work(args):
    from experiments.temporal.connection import connect

    if args.slots < 1:
        raise UserError(f"--slots is {args.slots}; a worker makes 1 run or more")
    weights = read_weights(args.weights)
    client = await connect(args.temporal_address, args.temporal_namespace)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with working(client, args.slots, args.storage, args.runs_dir, weights) as made:
        log(f"Working on {QUEUE} and {made.queue}, {args.slots} at a time")
        await stop.wait()
        log("Stopping: runs save, and go on at the next worker")
    return 0


def main(argv=None):
    escape_unencodable()
    args = make_parser().parse_args(argv)
    try:
        check_installed()
        return asyncio.run(work(args))
    except UserError as error:
        log(str(error))
        return 2


if __name__ == "__main__":
    end_at_once(main())
