# SPDX-License-Identifier: Apache-2.0
"""`method: bayes`: Optuna's tree of Parzen estimators.

What it is told of the former combinations, and the number of the next one, decide the values of
that one: nothing else is kept between two processes. So a kill loses nothing, and a combination
that was chosen and never begun is chosen again.
"""

import math

from common.errors import UserError

FILE = "optuna.jsonl"  # in model_dir: Optuna's journal, for its dashboard; written, never read


class Bayes:
    """Gives the values of a combination by what is known of the former ones.

    experiment: Experiment. tried: [(values, figure)] of the combinations so far; figure: the mean
    over seeds, None: not known yet. path: Path of the journal, written anew; None: none.
    """

    def __init__(self, experiment, tried, path=None):
        try:
            import optuna
        except ImportError:
            raise UserError(
                "method: bayes needs the package optuna: pip install 'optuna>=5', or write "
                "method: random"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.experiment, self.optuna = experiment, optuna
        self.study = optuna.create_study(
            storage=None if path is None else new_journal(path, optuna.storages),
            study_name=experiment.experiment,
            direction=experiment.metric.goal,
        )
        self.places = {
            key: distribution_of(each, optuna.distributions)
            for key, each in experiment.parameters.items()
        }
        states = optuna.trial.TrialState
        for values, figure in tried:
            figure = number_of(figure)
            trial = optuna.trial.create_trial(
                state=states.RUNNING if figure is None else states.COMPLETE,
                params={key: self._place(key, value) for key, value in values.items()},
                distributions=self.places,
                value=figure,
            )
            self.study.add_trial(trial)

    def has(self, number):
        return number < self.experiment.max_combinations

    def values(self, number):
        """Returns the values of the next combination, which has this number."""
        seed = self.experiment.random_seed + number  # the same whatever was killed before
        self.study.sampler = self.optuna.samplers.TPESampler(seed=seed)
        places = self.study.ask(self.places).params
        return {
            key: each.choices[places[key]] if each.distribution is None else places[key]
            for key, each in self.experiment.parameters.items()
        }

    def tell(self, number, figure):
        """Tells the figure of a combination; None: it has none."""
        figure, states = number_of(figure), self.optuna.trial.TrialState
        state = states.FAIL if figure is None else states.COMPLETE
        self.study.tell(number, figure, state=state)

    def _place(self, key, value):
        """Returns what Optuna knows of a value: of one of a list, its place there."""
        parameter = self.experiment.parameters[key]
        return parameter.choices.index(value) if parameter.distribution is None else value


def new_journal(path, storages):
    """Returns the storage of a file, which is begun anew. storages: Optuna's module."""
    for each in (path, path.with_name(f"{path.name}.lock")):  # the lock is of a process killed
        each.unlink(missing_ok=True)
    backend = storages.journal.JournalFileBackend(str(path))
    return storages.JournalStorage(backend)


def number_of(figure):
    """Returns a figure that can be compared, or None; it may be as a journal has it."""
    return None if figure is None or not math.isfinite(float(figure)) else float(figure)


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
