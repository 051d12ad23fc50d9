# SPDX-License-Identifier: Apache-2.0
"""Which values each combination of an experiment has.

Combination n is the same at every start: a grid's is the n-th of the product, in the order of the
file; a random one is a function of (random_seed, n).
"""

import itertools
import math

import numpy as np

MAX_DRAWS = 100  # to find a combination that none before it has


class Listed:
    """The combinations of a grid or of random draws, all known before the first run."""

    def __init__(self, experiment):
        make = {"grid": grid, "random": random_draws}[experiment.method]
        self.all = list(itertools.islice(make(experiment), experiment.max_combinations))

    def has(self, number):
        return number < len(self.all)

    def values(self, number):
        """Returns {dotted key: value} of a combination."""
        return self.all[number]

    def tell(self, number, figure):
        """Is told the figure of a combination, on which no other one depends."""


def num_combinations(experiment):
    """Returns how many combinations an Experiment has: int."""
    if experiment.method == "bayes":
        return experiment.max_combinations
    return len(Listed(experiment).all)


def ends_of(experiment):
    """Returns combinations in which each parameter has both its ends, or each of its values."""
    ends = {
        key: each.choices if each.distribution is None else (each.min, each.max)
        for key, each in experiment.parameters.items()
    }
    number = max(map(len, ends.values()), default=0)
    return [{key: values[n % len(values)] for key, values in ends.items()} for n in range(number)]


def grid(experiment):
    """Yields every combination of the values; the last key changes fastest."""
    choices = [parameter.choices for parameter in experiment.parameters.values()]
    for values in itertools.product(*choices):
        yield dict(zip(experiment.parameters, values, strict=True))


def random_draws(experiment):
    """Yields combinations that differ; ends where MAX_DRAWS draws in a row gave none."""
    former = []
    for number in itertools.count():
        generator = np.random.default_rng((experiment.random_seed, number))
        for _ in range(MAX_DRAWS):
            values = {key: draw(each, generator) for key, each in experiment.parameters.items()}
            if values not in former:
                break
        else:
            return
        former.append(values)
        yield values


def draw(parameter, generator):
    """Returns a value of a Parameter. generator: np.random.Generator."""
    low, high = parameter.min, parameter.max
    match parameter.distribution:
        case None:
            return parameter.choices[int(generator.integers(len(parameter.choices)))]
        case "int_uniform":
            return int(generator.integers(int(low), int(high), endpoint=True))
        case "log_uniform_values":
            return float(math.exp(generator.uniform(math.log(low), math.log(high))))
        case "q_uniform":
            return rounded_to(parameter.q, float(generator.uniform(low, high)))
        case _:
            return float(generator.uniform(low, high))


def rounded_to(q, value):
    """Returns the multiple of q nearest to value: int where q is whole."""
    multiple = round(value / q)
    return int(multiple * q) if float(q).is_integer() else round(multiple * q, 12)
