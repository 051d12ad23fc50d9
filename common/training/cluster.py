# SPDX-License-Identifier: Apache-2.0
"""The processes that train together, as TF_CONFIG names them; read without importing TensorFlow."""

import json
import os
import re
from dataclasses import dataclass

from common.errors import UserError

TF_CONFIG = "TF_CONFIG"
EXAMPLE = (
    '{"cluster": {"worker": ["host0:12345", "host1:12345"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
JOBS = ("chief", "worker")  # in the order in which their processes are numbered
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(\d{1,5})")


@dataclass(frozen=True)
class Cluster:
    """Attributes:
    addresses: str `host:port` of every process, the chief's first.
    worker: int. Which of them this process is; 0 is the chief.
    """

    addresses: tuple[str, ...]
    worker: int

    @property
    def is_chief(self):
        return self.worker == 0

    @property
    def num_workers(self):
        return len(self.addresses)


ALONE = Cluster(("localhost:0",), 0)


def read_cluster(run, environ=os.environ):
    """Returns the Cluster that a run is to be part of; ALONE where it is to be none.

    Only training asks for TF_CONFIG: whoever evaluates or predicts without one does it alone, with
    the same result.

    Args:
        run: RunParams.
        environ: mapping of str, the environment.
    Raises:
        UserError: TF_CONFIG is absent where it is needed, or cannot be meant so.
    """
    text = environ.get(TF_CONFIG, "")
    if not run.multiple_workers or run.mode in ("export", "inspect"):
        return ALONE
    if not text.strip():
        if run.mode not in ("train", "train_and_eval"):
            return ALONE
        raise _refusal("is not set", "set it for every process, to this but for the index")
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise _refusal(
            f"is no JSON at character {error.pos} ({error.msg}): {text[:200]}",
            "mind the quotes of the shell around it; it looks like",
        ) from None
    return _parse(config)


def _parse(config):
    jobs = _member(config, "cluster")
    task = _member(config, "task")
    unknown = sorted(set(jobs) - set(JOBS))
    if unknown:
        raise _refusal(
            f"lists the jobs {', '.join(map(repr, unknown))} in its cluster",
            "every process here is a worker, and may be called chief or worker",
        )
    addresses = {job: jobs.get(job, []) for job in JOBS}
    for job, listed in addresses.items():
        if not isinstance(listed, list):
            raise _refusal(f"has {listed!r} for {job}", "give a list of host:port")
        for address in listed:
            _check_address(address)
    everyone = [address for listed in addresses.values() for address in listed]
    if not everyone:
        raise _refusal("lists no process in its cluster", "list the address of each")
    twice = sorted({address for address in everyone if everyone.count(address) > 1})
    if twice:
        raise _refusal(
            f"lists {', '.join(twice)} more than once",
            "every process needs an address of its own; on one machine, another port",
        )
    if len(addresses["chief"]) > 1:
        raise _refusal("lists more than one chief", "list the others as workers")
    job, index = task.get("type"), task.get("index")
    if not isinstance(job, str) or not addresses.get(job):
        there = " or ".join(repr(job) for job in JOBS if addresses[job])
        raise _refusal(f"says that this process is of type {job!r}", f"its cluster has {there}")
    is_index = isinstance(index, int) and not isinstance(index, bool)
    if not is_index or not 0 <= index < len(addresses[job]):
        count = len(addresses[job])
        raise _refusal(
            f"says that this process is {job} number {index!r}",
            f"its cluster has {count} of type {job}, so the index is "
            + ("0" if count == 1 else f"a number from 0 to {count - 1}"),
        )
    return Cluster(tuple(everyone), index + (len(addresses["chief"]) if job == "worker" else 0))


def _member(config, name):
    value = config.get(name) if isinstance(config, dict) else None
    if not isinstance(value, dict):
        raise _refusal(f"has no mapping {name!r}", "it looks like")
    return value


def _check_address(address):
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if match is None or not 0 < int(match[2]) < 2**16:
        raise _refusal(
            f"lists the address {address!r}", "write host:port, with a port from 1 to 65535"
        )


def _refusal(found, wanted):
    return UserError(
        f"runconfig.multiple_workers is true, and the environment variable {TF_CONFIG} {found}; "
        f"{wanted}: {EXAMPLE}"
    )
