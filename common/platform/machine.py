# SPDX-License-Identifier: Apache-2.0
"""Facts of this machine: versions, processor, cores, GPUs, free memory, network.

Needs no TensorFlow but for GPUs.
"""

import contextlib
import os
import platform
import socket
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.files import hash_of
from common.platform.packages import version_of
from common.platform.tf_private import gpu_memory

LIBRARIES = ("tensorflow", "keras", "numpy")
# Environment variables that change what is compiled, or which kernels run.
SETTINGS = (
    *("XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS", "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA"),
    *("TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS"),
)
# Names in /proc/cpuinfo: Intel from Cooper Lake on and AMD from Zen 4 on; Intel from Sapphire
# Rapids on; Arm from Neoverse V1 on.
BFLOAT16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}
# Where this variable has one of these values, a product in bfloat16 ends the process.
ONEDNN_LIMIT = "ONEDNN_MAX_CPU_ISA"
LIMITS_WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2")
MIN_CAPABILITY_FOR_BFLOAT16 = (8, 0)  # Ampere
CONNECT_SECONDS = 5.0  # the farthest host answers within half a second


def machine_facts():
    """Returns what machine code depends on besides the program, and the last bits of results with
    it: {fact: str}."""
    facts = {name: version_of(name) for name in LIBRARIES}
    facts |= {"python": platform.python_version(), "architecture": platform.machine()}
    fields = _cpuinfo()
    facts["processor"] = fields.get("model name", platform.processor())
    if fields:
        facts["instructions"] = hash_of(sorted(_instructions(fields)))[:16]
    facts["cores"] = str(len(os.sched_getaffinity(0)))
    facts |= {name: os.environ[name] for name in SETTINGS if name in os.environ}
    return facts


def differences(then, now, limit=3):
    """Returns how two flat dicts differ, as text with at most `limit` keys."""
    texts = [
        f"{key} was {then.get(key, 'not set')}, is {now.get(key, 'not set')}"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]
    more = f", and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more


def _cpuinfo():
    """Returns Linux's description of the first core, {field: str}; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (row.partition(":") for row in lines)}


def _instructions(fields):
    return set(fields.get("flags", fields.get("Features", "")).split())


def check_reachable(urls):
    """Raises OSError where the host of no URL answers: libraries try again for minutes.

    urls: iterable of str. Behind a proxy this machine need not reach a host itself, and nothing is
    tried.
    """
    addresses = {
        (parts.hostname, parts.port or parts.scheme)
        for parts in map(urllib.parse.urlsplit, urls)
        if parts.scheme in ("http", "https")
    }
    if not addresses or urllib.request.getproxies():
        return
    with ThreadPoolExecutor(len(addresses)) as pool:
        faults = dict(zip(addresses, pool.map(_fault_of, addresses), strict=True))
    if all(faults.values()):
        told = (f"{host}: {fault}" for (host, _), fault in sorted(faults.items(), key=str))
        raise ConnectionError(f"no host answers ({'; '.join(told)})")


def _fault_of(address):
    """Why nothing answers at an address, (host, port or scheme); None where something does."""
    try:
        socket.create_connection(address, CONNECT_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def best_precision(gpu_capabilities):
    """Returns the dtype policy that `mixed_precision: auto` stands for on this machine.

    "mixed_bfloat16", or "float32": without instructions for bfloat16, TensorFlow converts to
    float32, computes, and converts back, which is slower than float32.

    gpu_capabilities: (major, minor) CUDA compute capability of each GPU of the run; empty: CPU.
    """
    if gpu_capabilities:
        is_fast = min(gpu_capabilities) >= MIN_CAPABILITY_FOR_BFLOAT16
    else:
        is_fast = bool(BFLOAT16_INSTRUCTIONS & _instructions(_cpuinfo()))
        is_fast = is_fast and onednn_has_bfloat16()
    return "mixed_bfloat16" if is_fast else "float32"


def onednn_has_bfloat16():
    """Whether the user lets oneDNN, where it computes, use the instructions that bfloat16 needs."""
    limit = os.environ.get(ONEDNN_LIMIT, "").upper()
    return limit not in LIMITS_WITHOUT_BFLOAT16 or os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0"


def gpus_of(device):
    """The GPUs that a run on `device` (None: the default) may take: tf.config.PhysicalDevices."""
    if device is not None and "cpu" in device.lower():
        return []
    import tensorflow as tf

    return tf.config.list_physical_devices("GPU")


def num_cores():
    """How many operations TensorFlow runs at once: by default the cores that this process has."""
    num_threads = int(os.environ.get("TF_NUM_INTEROP_THREADS") or 0)
    return num_threads or len(os.sched_getaffinity(0))


def available_bytes(device_type):
    """Returns the memory that a run can take now: int, or None where it is not known.

    For a GPU it is what TensorFlow would reserve. For the CPU it is the smaller of what Linux can
    give without swapping and what the control group of the process leaves.
    """
    if device_type == "GPU":
        return min(gpu_memory(), default=None)
    limits = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        limits.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError, KeyError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text("ascii"))
        lines = (group / "memory.stat").read_text("ascii").splitlines()
        used = dict(line.split() for line in lines)
        limits.append(limit - int(used["anon"]))  # the kernel gives back pages of files
    return min(limits, default=None)
