# SPDX-License-Identifier: Apache-2.0
"""`csconfig`: a CS system, and how it is reached."""

from typing import Literal

from common.params.values import Count, Key, Path, Section, Switch, Whole


class CsParams(Section):
    """A CS system and how to reach it; other devices ignore these keys."""

    mgmt_address: str | None = Key(
        None,
        "Management server of the cluster, HOST:PORT. Not given: runconfig.cs_ip.",
        pattern=r".:[0-9]+$",
        flag=True,
    )
    credentials_path: Path | None = Key(
        None,
        "TLS certificate of the cluster. Not given: the one that the machine is configured with.",
        flag=True,
    )
    num_csx: Count = Key(1, "Number of CS systems that share each batch.", flag=True)
    num_wgt_servers: Whole = Key(
        0, "Largest number of weight servers. 0: the cluster chooses.", flag=True
    )
    mount_dirs: tuple[Path, ...] = Key(
        (),
        "Folders that the cluster's workers can read, besides this project and model_dir.",
        flag=True,
    )
    python_paths: tuple[Path, ...] = Key((), "Folders on the workers' Python path.", flag=True)
    job_labels: tuple[str, ...] = Key((), "KEY=VALUE labels of the cluster's jobs.", flag=True)
    job_time_sec: Count | None = Key(
        None, "Time limit of the cluster's jobs in seconds, without time in the queue.", flag=True
    )
    compile_dir: str | None = Key(
        None, "Folder in which the cluster keeps compiled programs.", min_length=1, flag=True
    )
    use_cbfloat16: Switch = Key(
        False, "Compute in the vendor's 16-bit floating-point type instead of float16."
    )
    backend: Literal["csx", "cpu"] = Key(
        "csx",
        "What the vendor's SDK runs the model on: csx, CS systems; cpu, this machine, "
        "which needs no cluster.",
    )
