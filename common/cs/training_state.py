# SPDX-License-Identifier: Apache-2.0
"""The optimizer's state of the vendor's SDK as arrays of a checkpoint, and back.

A run in TensorFlow resumes what a run on the CS target has saved, and the other way round.
"""

import numpy as np

from common.checkpoints.formats import ours
from common.training.checks import check_fits
from common.training.run_state import PREFIX

SLOTS = {"m": "exp_avg", "v": "exp_avg_sq"}  # our slot -> the vendor's
SLOT_ARRAY = "{}/{}/{}"  # name in the training state: optimizer, slot, weight
# The loss scale: name in the training state -> the SDK's name, and type.
LOSS_SCALE = {
    "loss_scale/factor": ("loss_scale", np.float32),
    "loss_scale/steps": ("steps_since_rescale", np.int32),
    "loss_scale/overflows": ("overflows_since_rescale", np.int32),
}


class TrainingState:
    """What a training has besides its weights.

    Args:
        optimizer: the vendor's, of OptimizerParams `cfg`.
        trained: {neutral name: Weight}, the weights that it updates.
    """

    def __init__(self, optimizer, trained, cfg):
        self.optimizer, self.trained, self.cfg = optimizer, trained, cfg
        self.resumed = {}  # {name: array} of the resumed checkpoint

    @property
    def best_step(self):
        """The step of the best checkpoint so far, which evaluations in TensorFlow chose, or -1."""
        return int(self.resumed.get(f"{PREFIX}best_step", -1))

    def restore(self, path):
        """Restores the optimizer's slots from a checkpoint."""
        state = ours.read_state(path)
        self.resumed = {name: np.asarray(state[name].read()) for name in state}
        kind = self.cfg.optimizer_type
        expected = {
            SLOT_ARRAY.format(kind, slot, name): (weight, vendor_slot)
            for slot, vendor_slot in SLOTS.items()
            for name, weight in self.trained.items()
        }
        saved = {n: state[n] for n in state if n.startswith((f"{kind}/", "raw/"))}
        check_fits(path, {name: weight for name, (weight, _) in expected.items()}, saved)
        slots = self.optimizer.state_dict()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        places = {id(parameter): place for place, parameter in enumerate(parameters)}
        for name, (weight, vendor_slot) in expected.items():
            place = places[id(weight.parameter)]
            slots["state"][place][vendor_slot] = weight.as_stored(self.resumed[name])
        self.optimizer.load_state_dict(slots)

    def restore_scale(self, scaler):
        """Gives the SDK's loss scaling the values of the resumed checkpoint, if that has some."""
        if "loss_scale/factor" in self.resumed:
            scaler.load_state_dict(
                {key: self.resumed[name].item() for name, (key, _) in LOSS_SCALE.items()}
            )

    def arrays(self, step, scaler, to_numpy):
        """Returns {name: array} for a checkpoint, as a run in TensorFlow has them.

        scaler: the SDK's loss scaling, or None where nothing is scaled. to_numpy: tensor -> array.
        """
        arrays = {"global_step": np.asarray(step, np.int64)}
        kind = self.cfg.optimizer_type
        for slot, vendor_slot in SLOTS.items():
            for name, weight in self.trained.items():
                values = self.optimizer.state[weight.parameter][vendor_slot]
                arrays[SLOT_ARRAY.format(kind, slot, name)] = weight.as_neutral(values)
        arrays |= self._scale(scaler, to_numpy)
        # The rest of the state of a run in TensorFlow, except losses that it has not reported yet.
        for name, array in self.resumed.items():
            if name.startswith(PREFIX) and name != f"{PREFIX}losses":
                arrays[name] = array
        return arrays

    def _scale(self, scaler, to_numpy):
        """Returns {name: array} like common/optimizers/loss_scale.py; {} for a fixed scale."""
        if not isinstance(self.cfg.loss_scaling_factor, str):
            return {}
        if scaler is None:  # float32 on the CPU does not scale: keep the state
            state = {"loss_scale/factor": self.cfg.initial_loss_scale} | self.resumed
            return {n: np.asarray(state.get(n, 0), dtype) for n, (_, dtype) in LOSS_SCALE.items()}
        state = scaler.state_dict()
        return {
            name: np.asarray(to_numpy(state[key].detach().cpu()), dtype)
            for name, (key, dtype) in LOSS_SCALE.items()
        }
