# SPDX-License-Identifier: Apache-2.0
"""Calls a function in several processes, each item in one of them.

One process imports TensorFlow and forks the others before anything of it has started, so that they
share its memory: 0.2 GB that each would have by itself. They end when this process does, however
it ends: each waits for its end of a pipe.
"""

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import traceback

from common.errors import RunError, UserError
from common.platform.quiet_imports import silent_stderr
from common.signals import poll

POLL_SECONDS = 0.2


def map_unordered(make_function, items, num_processes):
    """Yields (item, function(item)) as they come, which may be in any order.

    Args:
        make_function: () -> function, called once in each process; can be pickled.
        items: list.
        num_processes: int. 1: in this process.
    Raises:
        UserError, OSError: of the function. RunError: a process has died.
        Stopped: a signal has asked to stop.
    """
    if num_processes == 1 or len(items) <= 1:
        function = make_function() if items else None
        for item in items:
            poll()
            yield item, function(item)
        return
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    # Pickled here, so that it imports TensorFlow only where its messages are kept back.
    arguments = theirs, pickle.dumps(make_function), items, min(num_processes, len(items))
    leader = context.Process(target=_lead, args=arguments, daemon=False)
    leader.start()
    theirs.close()
    try:
        for _ in items:
            while not ours.poll(POLL_SECONDS):
                poll()
            yield _answer(ours)
    finally:
        ours.close()
        leader.join()


def _answer(connection):
    """Returns (item, result) of a worker, or raises what it raised."""
    try:
        item, result, error = connection.recv()
    except EOFError:
        raise RunError(
            "a process that prepared data was killed, perhaps for want of memory; what it had "
            "finished is kept, and the same command goes on. Fewer num_processes take less memory"
        ) from None
    if error is not None:
        raise error
    return item, result


def _lead(connection, make_function, items, number):
    """Runs in the first process: deals items to the workers, and passes their answers on.

    make_function: bytes, pickled.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the run polls for it
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the tokenizer runs on the CPU
    with silent_stderr():
        make_function = pickle.loads(make_function)
        import tensorflow  # noqa: F401  (before the fork, so that the workers share it)

    context = multiprocessing.get_context("fork")
    pipes, processes = [], []
    for _ in range(number):
        ours, theirs = context.Pipe()
        others = [connection, ours, *pipes]
        process = context.Process(target=_work, args=(theirs, others, make_function), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        _deal(connection, pipes, items)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # a worker or the run has died; the run finds out by the pipe
    finally:
        for process in processes:
            process.kill()
            process.join()
    os._exit(0)  # taking TensorFlow down takes seconds


def _deal(connection, pipes, items):
    """Gives each worker its next item, and passes the answers on, until all are there.

    connection: to the run; pipes: to the workers.
    """
    waiting = list(reversed(items))
    for pipe in pipes:
        pipe.send(waiting.pop())
    for _ in items:
        ready = multiprocessing.connection.wait([connection, *pipes])
        if connection in ready:  # nothing is ever sent: the run has ended
            return
        connection.send(ready[0].recv())
        if waiting:
            ready[0].send(waiting.pop())


def _work(connection, others, make_function):
    """Runs in a worker."""
    for other in others:  # so that each pipe ends with the process that it belongs to
        other.close()
    try:
        function = make_function()
        while True:
            item = connection.recv()
            try:
                answer = item, function(item), None
            except (UserError, RunError, OSError) as error:
                answer = item, None, error
            except Exception:
                answer = item, None, RunError(traceback.format_exc())
            connection.send(answer)
    except (EOFError, BrokenPipeError):
        return
