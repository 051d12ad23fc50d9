# SPDX-License-Identifier: Apache-2.0
"""Decides whether a run goes to a CS system, checks it before anything is sent there, and ends the
part of the main environment. Imports neither TensorFlow nor PyTorch."""

import os
import socket
import sys
from pathlib import Path

from common.console import counted, log
from common.errors import RunError, UserError
from common.params.families import BERT
from common.params.pretraining import REPLACED_TOKENS

TARGETS = ("CPU", "GPU", "CS")
LAUNCHER = "BERT_CS_LAUNCHER"  # the name of the launcher, set by bin/csrun_cpu and bin/csrun_wse
MOUNT_DIRS = "BERT_CS_MOUNT_DIRS"  # their --mount-dirs, separated by colons
CS_PYTHON = "BERT_CS_PYTHON"  # an interpreter with cerebras.pytorch other than .venv-cs
ROOT = Path(__file__).resolve().parents[2]

CS_IP_PORT = 9000  # the original's scripts appended it to --cs_ip
CONNECT_SECONDS = 5.0
MODES = ("train", "eval", "predict")
OPTIMIZERS = ("adam", "adamw")
TASKS = ("classification", "regression", "pretraining")  # of `tasks.py`, which imports PyTorch

# Flags of the original's run_appliance.py and of its successor that have no effect here.
IGNORED_FLAGS = {
    "--execution_strategy": "weights are streamed; the vendor's pipeline execution is gone",
    "--num_act_servers": "the cluster chooses",
    "--num_workers_per_csx": "one worker a system keeps the order of rows",
    "--transfer_processes": "the SDK chooses",
    "--debug_args_path": "for the vendor's own use",
    "--logging": "the SDK's messages go to stderr",
    "--disable_version_check": "versions are pinned in requirements-cs.txt",
}


def add_flags(parser):
    """Adds the flags of a CS system to the parser of run.py."""
    group = parser.add_argument_group("CS system", "see docs/cs_system.md")
    add = group.add_argument
    add(
        "--target",
        type=str.upper,
        choices=TARGETS,
        help="where to run (default: CS with --cs_ip, --mgmt_address or csrun_wse, else this "
        "machine's GPU or CPU)",
    )
    add("--cs_ip", metavar="IP", help=f"the cluster's address (default port: {CS_IP_PORT})")
    add("--mgmt_address", metavar="HOST:PORT", help="the cluster's management server")
    add("--credentials_path", metavar="FILE", help="its TLS certificate")
    add("--num_csx", type=int, metavar="N", help="number of CS systems that share each batch")
    add("--num_wgt_servers", type=int, metavar="N", help="maximum number of weight servers")
    add(
        "--mount_dirs",
        nargs="+",
        metavar="DIR",
        help="folders that the cluster's workers can access",
    )
    add("--python_paths", nargs="+", metavar="DIR", help="folders on their Python path")
    add("--job_labels", nargs="+", metavar="KEY=VALUE", help="labels of the cluster's jobs")
    add("--job_time_sec", type=int, metavar="N", help="time limit of the cluster's jobs")
    add("--compile_dir", metavar="DIR", help="where the cluster keeps compiled programs")
    for flag, reason in IGNORED_FLAGS.items():
        is_switch = flag == "--disable_version_check"
        add(
            flag,
            **({"action": "store_true"} if is_switch else {"metavar": "X"}),
            help=f"no effect: {reason}",
        )


def overrides_of_launcher(args):
    """Returns the launcher's settings, {dotted key: value}. Reports flags without effect."""
    for flag, reason in IGNORED_FLAGS.items():
        if getattr(args, flag.removeprefix("--")):
            log(f"{flag} has no effect: {reason}")
    folders = os.environ.get(MOUNT_DIRS)
    if args.mount_dirs is not None or not folders:
        return {}
    return {"csconfig.mount_dirs": folders.split(os.pathsep)}


def is_for_cs(args, params):
    """Returns whether this run is for a CS system.

    --target decides; else the launcher (csrun_wse: yes; csrun_cpu: if it validates or compiles, as
    in the original's container); else whether an address is given.
    """
    if args.target is not None:
        return args.target == "CS"
    launcher = os.environ.get(LAUNCHER)
    run = params.runconfig
    if launcher == "csrun_cpu":
        return run.validate_only or run.compile_only
    return launcher == "csrun_wse" or address_of(params) is not None


def address_of(params):
    """Returns "host:port" of the cluster, or None if no address is given."""
    address = params.csconfig.mgmt_address or params.runconfig.cs_ip or os.environ.get("K8S_CS_IP")
    if address is None or ":" in address:
        return address
    return f"{address}:{CS_IP_PORT}"


def check(params):
    """Checks what needs no data. Returns the Path of the SDK's interpreter.

    params: Params, with model_dir. Raises:
        UserError: a rule of the system is broken, or the SDK is not installed.
        RunError: no cluster answers.
    """
    check_rules(params)
    python = find_python()
    if needs_cluster(params):
        check_reachable(params)
    return python


def hand_over(python, folder):
    """Replaces this process with `common.cs.worker`. Does not return.

    python: path-like, of `check`. folder: path-like, of `prepare`, which runs in between.
    """
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(python, [str(python), "-m", "common.cs.worker", str(folder)], environment)


def find_python():
    """Returns the Path of an interpreter with the vendor's SDK. Raises UserError without one."""
    venv = ROOT / ".venv-cs"
    path = Path(os.environ.get(CS_PYTHON) or venv / "bin" / "python")
    if not path.is_file():
        raise UserError(
            f"the Cerebras SDK is not installed: there is no {path}. `make cs-setup` installs it "
            f"(Python 3.11, 5 GB); or set {CS_PYTHON} to an interpreter that has it"
        )
    if CS_PYTHON not in os.environ and not (venv / ".installed").exists():
        raise UserError(f"{venv} is not complete; `make cs-setup` completes it")
    return path


def needs_cluster(params):
    """Returns whether the run needs a cluster: all but validation and the SDK's CPU backend do."""
    is_lowered = params.runconfig.validate_only or compiles_here(params)
    return not is_lowered and params.csconfig.backend == "csx"


def compiles_here(params):
    """Returns whether --compile_only has no cluster to compile on; the front end needs none."""
    is_on_cluster = address_of(params) is not None or params.csconfig.backend == "cpu"
    return params.runconfig.compile_only and not is_on_cluster


def check_reachable(params):
    """Raises RunError where no address is given, or nothing answers there, before anything is read
    or written."""
    address = address_of(params)
    if address is None:
        raise RunError(
            "no address of a CS system is given: give --cs_ip, or --mgmt_address HOST:PORT "
            "(csconfig.mgmt_address in the params file). --validate_only and csconfig.backend: cpu "
            "do not need one"
        )
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), CONNECT_SECONDS):
            pass
    except (OSError, ValueError, OverflowError) as error:
        setting = "--mgmt_address" if params.csconfig.mgmt_address else "--cs_ip"
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RunError(
            f"no CS system answers at {address} ({reason}); correct {setting}, or check that "
            "this machine can reach the cluster's network. Nothing was changed"
        ) from None


def family_faults(model):
    """What a CS system cannot run of the families of networks: list of str.

    model: ModelParams; a checkpoint may say the family when it is opened.
    """
    if (model.backbone or BERT) == BERT:
        return []
    return [f"model.backbone: {model.backbone}, and a CS system runs {BERT} alone; run it here"]


def check_rules(params):
    """Raises a UserError that lists all limits of a CS system which the params break, with the
    correction of each, before anything is sent."""
    model, optimizer, run, cs = params.model, params.optimizer, params.runconfig, params.csconfig
    faults = []
    model_dir = str(Path(run.model_dir or "").resolve())
    is_compiled = cs.backend == "csx" or run.validate_only or run.compile_only
    if is_compiled and any(map(str.isspace, model_dir)):
        faults.append(
            f"--model_dir: {model_dir} has a blank in it, at which the vendor's compiler cuts the "
            "paths of the files it writes there; give a folder without"
        )
    if run.mode == "train_and_eval":
        faults.append(
            "--mode train_and_eval: a run on a CS system has one program; run --mode train, then "
            "--mode eval (with csconfig.backend: cpu, or on a GPU, both can share model_dir)"
        )
    elif run.mode == "eval_all":
        faults.append(
            "--mode eval_all: a run on a CS system has one program; run --mode eval with "
            "--checkpoint_path once for each checkpoint"
        )
    elif run.mode not in MODES:
        faults.append(f"--mode {run.mode}: leave out --target, it needs no CS system")
    if params.task not in TASKS:
        faults.append(
            f"task: {params.task}, and a CS system runs {', '.join(TASKS)} alone; run it on this "
            "machine, without csrun_wse, csrun_cpu and --target CS"
        )
    faults += family_faults(model)
    if model.pretraining_objective == REPLACED_TOKENS:
        faults.append(
            f"model.pretraining_objective: {REPLACED_TOKENS} is not computed on a CS system; leave "
            "it out, or run it on this machine, without csrun_wse, csrun_cpu and --target CS"
        )
    if params.distillation is not None and run.is_training:
        faults.append(
            "distillation: no teacher runs on a CS system; leave the section out, or run it on "
            "this machine, without csrun_wse, csrun_cpu and --target CS"
        )
    if run.mode == "train":
        is_long = run.steps or run.has_end
        if not run.validate_only and not run.compile_only and not is_long:
            faults.append("a CS run needs its length; give --num_epochs, --max_steps or --steps")
        if not params.train_input.repeat:
            faults.append(
                "train_input.repeat: false ends when the rows do; write true, and "
                "runconfig.num_epochs: 1"
            )
        if run.max_seconds is not None:
            faults.append(
                "runconfig.max_seconds: the speed of a CS system is not measured; give --max_steps"
            )
        if optimizer.optimizer_type not in OPTIMIZERS:
            faults.append(
                f"optimizer.optimizer_type: {optimizer.optimizer_type} has no exact counterpart "
                f"on a CS system; write one of {', '.join(OPTIMIZERS)}"
            )
        if optimizer.grad_accum_steps != 1:
            rows = params.train_input.batch_size * optimizer.grad_accum_steps
            faults.append(
                f"optimizer.grad_accum_steps: {optimizer.grad_accum_steps}; the vendor's compiler "
                f"divides batches itself: write 1 and train_input.batch_size: {rows}"
            )
        if optimizer.grad_accum_schedule is not None:
            faults.append("optimizer.grad_accum_schedule: not on a CS system; leave it out")
        if optimizer.moving_average_decay is not None:
            faults.append("optimizer.moving_average_decay: not on a CS system; leave it out")
        if optimizer.lazy_word_embeddings:
            faults.append("optimizer.lazy_word_embeddings: not on a CS system; leave it out")
        if params.train_input.batch_size < cs.num_csx:
            faults.append(
                f"train_input.batch_size: {counted(params.train_input.batch_size, 'row')} cannot "
                f"be shared by csconfig.num_csx {cs.num_csx} systems"
            )
    if model.dtype_policy == "float32" and cs.use_cbfloat16:
        faults.append(
            "csconfig.use_cbfloat16: true needs model.mixed_precision: true, as in the original"
        )
    if faults:
        noun = "rule" if len(faults) == 1 else "rules"
        text = "\n".join(f"  {fault}" for fault in faults)
        raise UserError(f"{len(faults)} {noun} of a CS system broken\n{text}")
