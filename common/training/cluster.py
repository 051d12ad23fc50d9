# SPDX-License-Identifier: Apache-2.0
"""The processes that train together, read from TF_CONFIG without importing TensorFlow."""

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
    """The processes, and which of them this one is."""

    addresses: tuple[str, ...]  # `host:port` of every process, the chief's first
    worker: int  # the number of this process; 0 is the chief

    @property
    def is_chief(self):
        return self.worker == 0

    @property
    def num_workers(self):
        return len(self.addresses)


ALONE = Cluster(("localhost:0",), 0)


def read_cluster(run, environ=os.environ):
    """Returns the Cluster that a run belongs to; ALONE for a run of one process.

    Only training requires TF_CONFIG. Evaluation and prediction without it run in one process, with
    the same result. Raises UserError where it is missing and required, or is invalid.
    """
    text = environ.get(TF_CONFIG, "")
    if not run.multiple_workers or run.mode in ("export", "inspect"):
        return ALONE
    if not text.strip():
        if run.mode not in ("train", "train_and_eval"):
            return ALONE
        raise _refusal("is not set", "set it for every process, with that process's index")
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise _refusal(
            f"is not JSON at character {error.pos} ({error.msg}): {text[:200]}",
            "check the shell's quotes around it; it looks like",
        ) from None
    return _parse(config)


def _parse(config):
    jobs = _member(config, "cluster")
    task = _member(config, "task")
    unknown = sorted(set(jobs) - set(JOBS))
    if unknown:
        raise _refusal(
            f"lists the jobs {', '.join(map(repr, unknown))} in its cluster",
            "every process here is a worker; list it as chief or worker",
        )
    addresses = {job: jobs.get(job, []) for job in JOBS}
    for job, job_addresses in addresses.items():
        if not isinstance(job_addresses, list):
            raise _refusal(f"has {job_addresses!r} for {job}", "give a list of host:port")
        for address in job_addresses:
            match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
            if match is None or not 0 < int(match[2]) < 2**16:
                advice = "write host:port, with a port from 1 to 65535"
                raise _refusal(f"lists the address {address!r}", advice)
    all_addresses = [*addresses["chief"], *addresses["worker"]]
    if not all_addresses:
        raise _refusal("lists no process in its cluster", "list the address of each")
    repeated = sorted({each for each in all_addresses if all_addresses.count(each) > 1})
    if repeated:
        raise _refusal(
            f"lists {', '.join(repeated)} more than once",
            "every process needs its own address; on one machine, its own port",
        )
    if len(addresses["chief"]) > 1:
        raise _refusal("lists more than one chief", "list the others as workers")
    job, index = task.get("type"), task.get("index")
    if not isinstance(job, str) or not addresses.get(job):
        types = " or ".join(repr(job) for job in JOBS if addresses[job])
        raise _refusal(f"gives this process the type {job!r}", f"its cluster has {types}")
    is_index = isinstance(index, int) and not isinstance(index, bool)
    if not is_index or not 0 <= index < len(addresses[job]):
        count = len(addresses[job])
        raise _refusal(
            f"makes this process {job} number {index!r}",
            f"its cluster has {count} of type {job}, so the index is "
            + ("0" if count == 1 else f"a number from 0 to {count - 1}"),
        )
    first = len(addresses["chief"]) if job == "worker" else 0
    return Cluster(tuple(all_addresses), first + index)


def _member(config, name):
    value = config.get(name) if isinstance(config, dict) else None
    if not isinstance(value, dict):
        raise _refusal(f"has no mapping {name!r}", "it looks like")
    return value


def _refusal(fault, advice):
    return UserError(
        f"runconfig.multiple_workers is true, and the environment variable {TF_CONFIG} {fault}; "
        f"{advice}: {EXAMPLE}"
    )
