# SPDX-License-Identifier: Apache-2.0
"""What the model of a run says of texts.

    python -m experiments.temporal.inference --run_id ID --text TEXT [--text TEXT] ...

The worker that has the run keeps its model loaded: the second call answers at once. Prints a line
for each text: label, confidence, text. Exit codes: 0 done; 1 it failed; 2 wrong usage, no server,
or no such run.
"""

import argparse
import asyncio
import secrets
import signal

from common.console import escape_unencodable, in_one_cell, log
from common.errors import RunError, UserError
from common.platform.standard_streams import end_at_once
from experiments.temporal import check_installed
from experiments.temporal.types import QUEUE, BertInferenceRequest
from experiments.temporal.worker import add_server_flags

QUIET_SECONDS = 10.0  # without an answer, before a sentence says what it may wait for


def make_parser():
    parser = argparse.ArgumentParser(
        prog="python -m experiments.temporal.inference",
        description="Classifies texts with the model of a run.",
    )
    add = parser.add_argument
    add("--run_id", required=True, metavar="ID", help="the name of the run")
    add("--text", action="append", required=True, metavar="TEXT", help="repeatable")
    add("--max_seq_length", type=int, default=64, metavar="N", help="default: 64")
    add("--use_gpu", action="store_true", help="on a GPU where the host has one")
    add_server_flags(parser)
    return parser


async def infer(request, address, namespace):
    """Returns the BertInferenceResult of a BertInferenceRequest."""
    from temporalio.client import WorkflowFailureError
    from temporalio.service import RPCError

    from experiments.temporal.connection import connect
    from experiments.temporal.workflows import BertInferenceWorkflow

    client = await connect(address, namespace)
    try:
        handle = await client.start_workflow(
            BertInferenceWorkflow.run,
            request,
            id=f"{request.run_id}-inference-{secrets.token_hex(4)}",
            task_queue=QUEUE,
        )
        answering = asyncio.ensure_future(handle.result())
        if not (await asyncio.wait([answering], timeout=QUIET_SECONDS))[0]:
            log(
                "No answer yet: the model loads, or no worker runs; start one: python -m "
                f"{__package__}.worker"
            )
        return await answering
    except RPCError as error:
        raise RunError(f"the Temporal server does not answer: {error.message}") from None
    except WorkflowFailureError as error:
        cause = error.cause
        while getattr(cause, "cause", None) is not None:
            cause = cause.cause
        raise UserError(str(cause)) from None


def main(argv=None):
    escape_unencodable()
    args = make_parser().parse_args(argv)
    try:
        check_installed()
        if args.max_seq_length < 1:
            raise UserError(f"--max_seq_length is {args.max_seq_length}; it is 1 or more")
        request = BertInferenceRequest(
            run_id=args.run_id,
            texts=args.text,
            max_seq_length=args.max_seq_length,
            use_gpu=args.use_gpu,
        )
        answer = asyncio.run(infer(request, args.temporal_address, args.temporal_namespace))
    except UserError as error:
        log(str(error))
        return 2
    except RunError as error:
        log(f"The command failed: {error}")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    rows = zip(answer.predicted_labels, answer.confidences, answer.texts, strict=True)
    for label, confidence, text in rows:
        print(f"{label}\t{confidence:.4f}\t{in_one_cell(text)}")
    return 0


if __name__ == "__main__":
    end_at_once(main())
