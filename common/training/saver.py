# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a training run: what goes into one, and how training goes on from it."""

from common.checkpoints import store
from common.checkpoints.formats import ours
from common.checkpoints.load import check_finite
from common.checkpoints.writer import CheckpointWriter, NoWriter
from common.platform.machine import differences, machine_facts
from common.training.checks import check_fits
from common.training.lock import check_still_there
from common.training.run_state import PREFIX, RunState


def config_of(session, model, best_metric=None):
    """Returns what the config.json of a checkpoint says of a training, whoever computes it: all but
    the step and the machine.

    model: BaseModel of the session. best_metric: BestMetric, or its str, or None.
    """
    params = session.params
    return {
        **{key: getattr(params.model, key) for key in ours.GEOMETRY},
        **model.checkpoint_config(),
        "do_lower_case": params.predict_input.do_lower,
        "tf_random_seed": session.run.tf_random_seed,
        "best_metric": None if best_metric is None else str(best_metric),
        "contents": session.contents,
        "budget": session.budget,
    }


class Saver:
    """Saves and restores weights, optimizer, RunState, and which checkpoint is the best.

    Of several workers only the chief writes. metric: BestMetric, or None where no best is kept.
    """

    def __init__(self, session, model, optimizer, metric, listeners):
        self.session, self.model, self.optimizer = session, model, optimizer
        self.metric, self.listeners = metric, listeners
        self.model_dir = session.model_dir
        self.state = RunState()
        self.saved_step = None  # of the last checkpoint saved or restored
        self.writer = NoWriter()
        if session.distribution.is_chief:
            self.model_dir.mkdir(parents=True, exist_ok=True)
            self.writer = CheckpointWriter(self.model_dir)

    def weights(self):
        """Returns {neutral name: variable}, the averages in the place of weights that have one."""
        weights = {name: weight.value for name, weight in self.model.weights_by_name().items()}
        return weights | self.optimizer.averages

    def _tensors(self):
        """Returns the values of weights and optimizer state now: two dicts of name to tensor."""
        return tuple(
            {name: variable.read_value() for name, variable in variables.items()}
            for variables in (self.weights(), self.optimizer.state)
        )

    def reserve(self):
        """Begins to take the memory that saves need, while training goes on."""
        weights, state = self._tensors()
        self.writer.reserve(weights | state)

    def save(self, step):
        """Begins to save; `self.writer` says when it is done."""
        check_still_there(self.model_dir)
        config = config_of(self.session, self.model, self.metric)
        config |= {"step": step, "machine": machine_facts()}
        weights, state = self._tensors()
        self.writer.save(
            step,
            weights,
            state | self.state.to_arrays(),
            config,
            self.session.vocab,
            self.session.run.keep_checkpoint_max,
            keep={self.state.best_step},
        )
        path = self.model_dir / f"checkpoint-{step}"
        self.writer.then(lambda: self.listeners.on_save(step, path))
        self.saved_step = step

    def restore(self, path):
        """Puts every weight and the whole training state back. Returns the global step.

        Tells the listeners where the machine, or its settings, give other last bits than before.
        """
        state = ours.read_state(path)
        self.state = RunState.from_tensors(state)
        state = {name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)}
        for variables, tensors in (
            (self.weights(), ours.read_weights(path)),
            (self.optimizer.state, state),
        ):
            check_fits(path, variables, tensors)
            for name, variable in variables.items():
                variable.assign(check_finite(path, name, tensors[name].read()))
        self.saved_step = int(self.optimizer.step.numpy())
        config = ours.read_config(path)
        changed = differences(config.get("machine") or machine_facts(), machine_facts())
        if changed:
            self.listeners.on_message(
                f"{path.name} was computed otherwise, so the last bits can differ: {changed}"
            )
        if self.metric is None or str(self.metric) != config.get("best_metric"):
            # As before the first evaluation: another metric is to be compared.
            state = self.state
            state.best_step, state.best_value, state.num_without_better = -1, 0.0, 0
        if self.session.distribution.is_chief:
            # best.json says what the resumed run knows: a later best is found again.
            if store.checkpoint_at(self.model_dir, self.state.best_step) is not None:
                self._write_best(self.state.best_step, self.state.best_value)
            else:
                store.delete_best(self.model_dir)
        return self.saved_step

    def _write_best(self, step, value):
        metric, mode = self.metric.name, self.metric.mode
        store.write_best(self.model_dir, step, metric=metric, mode=mode, value=value)

    def is_best(self, figures):
        """Whether an evaluation is the best so far; without a BestMetric, the latest always is."""
        metric = self.metric
        return metric is None or self.state.is_best(metric.value_in(figures), metric)

    def count_evaluation(self, step, figures):
        """Counts an evaluation, and keeps the checkpoint of the best so far.

        Returns the figure of the best metric, float, where it is the best so far, else None.
        """
        value = None if self.metric is None else self.metric.value_in(figures)
        if not self.state.count_evaluation(step, value, self.metric):
            return None
        if self.saved_step != step:
            self.save(step)
        self.writer.then(lambda: self._write_best(step, value))
        return value
