# SPDX-License-Identifier: Apache-2.0
"""`method: bayes`: Optuna's tree of Parzen estimators, asked and told by the controller alone.

optuna.jsonl in model_dir is its journal, which Optuna's own dashboard reads. The controller's
journal is the truth: a combination there goes on after a kill; a trial that Optuna knows alone is
told to have failed.
"""

from common.errors import UserError

FILE = "optuna.jsonl"


class Bayes:
    """Gives the values of a combination by what is known of the former ones.

    experiment: Experiment. folder: Path. known: number of combinations in the controller's journal.
    """

    def __init__(self, experiment, folder, known):
        try:
            import optuna
        except ImportError:
            raise UserError(
                "method: bayes needs the package optuna: pip install 'optuna>=5', or write "
                "method: random"
            ) from None
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.experiment, self.optuna = experiment, optuna
        goal = experiment.metric.goal
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / FILE))),
            study_name=experiment.experiment,
            direction=goal,
            load_if_exists=True,
        )
        self.places = {
            key: distribution_of(each, optuna.distributions)
            for key, each in experiment.parameters.items()
        }
        # {combination: number of its trial}: one that was asked and never planned has been asked
        # again, and the last is what was planned.
        asked = {each.user_attrs.get("combination"): each.number for each in self.study.trials}
        if lost := [number for number in range(known) if number not in asked]:
            raise UserError(
                f"{folder / FILE} lacks combination {lost[0]}, which has been tried: put the file "
                "back, or name another model_dir"
            )
        self.trial_of = {number: asked[number] for number in range(known)}
        for trial in self.study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            if trial.number not in self.trial_of.values():
                self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    def has(self, number):
        return number < self.experiment.max_combinations

    def values(self, number):
        """Returns the values of the next combination, which has this number."""
        seed = self.experiment.random_seed + number  # the same whatever was killed before
        self.study.sampler = self.optuna.samplers.TPESampler(seed=seed)
        trial = self.study.ask(self.places)
        trial.set_user_attr("combination", number)
        self.trial_of[number] = trial.number
        return {
            key: self.experiment.parameters[key].choices[place] if is_choice(self, key) else place
            for key, place in trial.params.items()
        }

    def tell(self, number, figure):
        """Tells the figure of a combination; None: it has none."""
        states = self.optuna.trial.TrialState
        state = states.COMPLETE if figure is not None else states.FAIL
        self.study.tell(self.trial_of[number], figure, state=state, skip_if_finished=True)


def is_choice(bayes, key):
    return bayes.experiment.parameters[key].distribution is None


def distribution_of(parameter, kinds):
    """Returns Optuna's distribution of a Parameter; of one with values, that of their places."""
    low, high = parameter.min, parameter.max
    match parameter.distribution:
        case None:
            return kinds.CategoricalDistribution(range(len(parameter.choices)))
        case "int_uniform":
            return kinds.IntDistribution(int(low), int(high))
        case "log_uniform_values":
            return kinds.FloatDistribution(low, high, log=True)
        case "q_uniform":
            return kinds.FloatDistribution(low, high, step=parameter.q)
        case _:
            return kinds.FloatDistribution(low, high)
