# SPDX-License-Identifier: Apache-2.0
"""Which keys may change when a run is resumed, and the refusal of the others."""

from fnmatch import fnmatchcase

from common.errors import UserError

# What a changed value leaves as it was: the network, the order of rows, every update of the
# weights, and what evaluations measure.
MAY_CHANGE = (
    "runconfig.*",  # how long, how often, where; but see MEANING
    "csconfig*",
    "predict_input*",
    *(f"{name}.{key}" for name in ("train_input", "eval_input") for key in (
        "data_dir", "cache_dir", "cache", "vocab_file", "vocab_size",
    )),
    *(f"eval_input.{key}" for key in ("batch_size", "packing", "num_buckets")),
    *(f"model.{key}" for key in (
        "recompute", "tf_summary", "boundary_casting", "enable_gpu_optimizations",
        "pretrain_params_path",
    )),
    *(f"optimizer.{key}" for key in ("log_summaries", "log_grads", "log_hists", "ws_summary")),
)  # fmt: skip
MEANING = ("runconfig.tf_random_seed",)


def changes_of_meaning(changes):
    """Those of (dotted key, old value, new value) after which a run would be another one."""
    return [
        change
        for change in changes
        if change[0] in MEANING or not any(fnmatchcase(change[0], p) for p in MAY_CHANGE)
    ]


def refuse_changes_of_meaning(changes, checkpoint, is_allowed):
    """Raises UserError where params differ in meaning from those a checkpoint was made with.

    Args:
        changes: of `utils.changes_from`.
        checkpoint: path of what is to be resumed, for the message.
        is_allowed: bool. `runconfig.allow_changed_params`: nothing is refused.
    """
    changed = changes_of_meaning(changes)
    if not changed or is_allowed:
        return
    listed = "\n".join(f"  {key} was {old}, is now {new}" for key, old, new in changed)
    raise UserError(
        f"{checkpoint} cannot be resumed with params of another meaning:\n{listed}\n"
        "Give back the former values (params.yaml beside it has them), choose another --model_dir, "
        "or go on with the new ones: --allow_changed_params"
    )
