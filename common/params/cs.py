# SPDX-License-Identifier: Apache-2.0
"""`csconfig`: a CS system, and how it is reached."""

from typing import Literal

from pydantic import Field

from common.params.values import Count, Path, Section, Whole


class CsParams(Section):
    """A CS system and how it is reached; on another device these keys have no meaning."""

    mgmt_address: str | None = Field(
        None,
        pattern=r".:[0-9]+$",
        description="Management server of the cluster, HOST:PORT. Not given: runconfig.cs_ip.",
    )
    credentials_path: Path | None = Field(
        None, description="TLS certificate of the cluster. Not given: the machine's own set-up."
    )
    num_csx: Count = Field(1, description="CS systems that share each batch.")
    num_wgt_servers: Whole = Field(
        0, description="Weight servers, at most. 0: as many as the cluster sees fit."
    )
    mount_dirs: tuple[Path, ...] = Field(
        (),
        description="Folders that the cluster's workers see, besides this project and model_dir.",
    )
    python_paths: tuple[Path, ...] = Field((), description="Folders on their Python path.")
    job_labels: tuple[str, ...] = Field((), description="KEY=VALUE labels of the cluster's jobs.")
    job_time_sec: Count | None = Field(
        None, description="Time limit of the cluster's jobs in seconds, without their queue."
    )
    compile_dir: str | None = Field(
        None, min_length=1, description="Where the cluster keeps compiled programs."
    )
    use_cbfloat16: bool = Field(
        False,
        strict=True,
        description="Compute in the vendor's 16-bit floating-point type instead of float16.",
    )
    backend: Literal["csx", "cpu"] = Field(
        "csx",
        description="What the vendor's SDK runs the model on: csx, CS systems; cpu, this machine, "
        "which needs no cluster.",
    )
