# SPDX-License-Identifier: Apache-2.0
"""`csconfig`: a CS system, and how it is reached."""

from functools import partial
from typing import Literal

from common.params.values import Count, Key, Path, Section, Switch, Whole

FlagKey = partial(Key, flag=True)


class CsParams(Section):
    """A CS system and how to reach it; other devices ignore these keys."""

    mgmt_address: str | None = FlagKey(
        None,
        "Management server of the cluster, HOST:PORT. Not given: runconfig.cs_ip.",
        pattern=r".:[0-9]+$",
    )
    credentials_path: Path | None = FlagKey(
        None,
        "TLS certificate of the cluster. Not given: the one that the machine is configured with.",
    )
    num_csx: Count = FlagKey(1, "Number of CS systems that share each batch.")
    num_wgt_servers: Whole = FlagKey(0, "Largest number of weight servers. 0: the cluster chooses.")
    mount_dirs: tuple[Path, ...] = FlagKey(
        (), "Folders that the cluster's workers can read, besides this project and model_dir."
    )
    python_paths: tuple[Path, ...] = FlagKey((), "Folders on the workers' Python path.")
    job_labels: tuple[str, ...] = FlagKey((), "KEY=VALUE labels of the cluster's jobs.")
    job_time_sec: Count | None = FlagKey(
        None, "Time limit of the cluster's jobs in seconds, without time in the queue."
    )
    compile_dir: str | None = FlagKey(
        None, "Folder in which the cluster keeps compiled programs.", min_length=1
    )
    use_cbfloat16: Switch = Key(
        False, "Compute in the vendor's 16-bit floating-point type instead of float16."
    )
    backend: Literal["csx", "cpu"] = Key(
        "csx",
        "What the vendor's SDK runs the model on: csx, CS systems; cpu, this machine, "
        "which needs no cluster.",
    )
