# SPDX-License-Identifier: Apache-2.0
"""A run is not resumed with another value of a key that changes the trained weights."""

from common.errors import UserError
from common.params import may_change


def changes_of_meaning(changes):
    """Returns those of (dotted key, old value, new value) that change the trained weights."""
    return [change for change in changes if not may_change(change[0])]


def refuse_changes_of_meaning(changes, checkpoint, is_allowed):
    """Raises UserError where the params would train other weights than the checkpoint's run.

    Args:
        changes: of `utils.changes_from`.
        checkpoint: path of the checkpoint to resume, for the message.
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
