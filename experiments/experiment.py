# SPDX-License-Identifier: Apache-2.0
"""The YAML file of an experiment: a base, what varies, and what counts.

The words are those of sweep files elsewhere; the names of parameters are the dotted keys of a
params file. See docs/experiments.md.
"""

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from common.errors import UserError
from common.params import as_yaml
from common.params.values import Count, Seed, to_float
from common.params.yaml_faults import message_of
from common.params.yaml_file import read_yaml
from utils import find_file

Number = Annotated[float, BeforeValidator(to_float)]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MAX_COMBINATIONS = 10_000  # all are listed and checked before the first run, 10 ms each
DISTRIBUTIONS = ("uniform", "int_uniform", "q_uniform", "log_uniform_values")
SET_BY_EXPERIMENT = {
    "runconfig.tf_random_seed": "seeds",
    "runconfig.best_metric": "metric",
    "runconfig.best_metric_mode": "metric.goal",
    "runconfig.model_dir": "--model_dir",
    "runconfig.mode": "train_and_eval, which every run has",
}


class Part(BaseModel):
    """A mapping in the file. It is no Section, whose keys are all those of params files."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Metric(Part):
    """The figure that counts: that of the checkpoint which a run chooses by it."""

    name: str  # as runconfig.best_metric
    goal: Literal["maximize", "minimize"]


class Parameter(Part):
    """What one key may be: a `value`, one of `values`, or a draw from a `distribution`."""

    value: Any = None
    values: tuple[Any, ...] | None = None
    distribution: Literal["uniform", "int_uniform", "q_uniform", "log_uniform_values"] | None = None
    min: Number | None = None
    max: Number | None = None
    q: Number | None = None  # q_uniform: draws are multiples of it

    @property
    def choices(self):
        """Returns the values of a parameter that has no distribution: tuple."""
        return self.values if self.values is not None else (self.value,)

    @property
    def fault(self):
        """Returns what is wrong between the keys: str, or None."""
        given = [
            key for key in ("value", "values", "distribution") if getattr(self, key) is not None
        ]
        if len(given) != 1:
            has = " and ".join(given) or "none of them"
            return f"has {has}; write one of value, values and distribution"
        if self.values is not None and not self.values:
            return "values is an empty list"
        shown = [as_yaml(value) for value in self.choices]
        doubled = next((each for n, each in enumerate(shown) if each in shown[:n]), None)
        if doubled is not None:
            return f"values has {doubled} twice; each would train the same runs"
        bounds = {key: getattr(self, key) for key in ("min", "max", "q")}
        if self.distribution is None:
            extra = [key for key, bound in bounds.items() if bound is not None]
            return f"{extra[0]} is for a distribution; leave it out" if extra else None
        if self.min is None or self.max is None:
            return f"distribution {self.distribution} needs min and max"
        if not self.min < self.max:
            return f"min is {self.min:g} and max {self.max:g}; min has to be the smaller one"
        if self.distribution == "log_uniform_values" and self.min <= 0:
            return f"min is {self.min:g}; log_uniform_values needs numbers above 0"
        is_whole = self.min.is_integer() and self.max.is_integer()
        if self.distribution == "int_uniform" and not is_whole:
            return f"min is {self.min:g} and max {self.max:g}; int_uniform needs whole numbers"
        if (self.distribution == "q_uniform") != (self.q is not None):
            return "q is given where distribution is q_uniform, and only there"
        if self.q is not None and self.q <= 0:
            return "q is not above 0"
        for key, bound in (("min", self.min), ("max", self.max)):
            if self.q is not None and abs(bound / self.q - round(bound / self.q)) > 1e-9:
                return f"{key} is {bound:g}, which is no multiple of q {self.q:g}, as draws are"
        return None


class EarlyTerminate(Part):
    """Successive halving: of the combinations that reached a rung the best 1/eta go on."""

    type: Literal["hyperband"]
    min_iter: Count  # the step of the first rung
    eta: Annotated[float, Field(gt=1), BeforeValidator(to_float)] = 3.0

    def step(self, rung):
        """Returns the step of a rung: int."""
        return round(self.min_iter * self.eta**rung)

    def num_promoted(self, number):
        """Returns how many of a number of combinations go on: int, at least 1."""
        return max(1, math.floor(number / self.eta + 1e-9))


class Experiment(Part):
    """What the file says."""

    experiment: str  # its name, with which the names of runs begin
    base: str  # the params file of every run; a relative path starts in the working directory
    method: Literal["grid", "random", "bayes"]
    metric: Metric
    parameters: dict[str, Parameter]  # {dotted key: ...}
    seeds: tuple[Seed, ...] = (1,)  # each combination trains once with each
    run_cap: Count | None = None  # runs at most, over all seeds
    max_parallel: Count = 1
    random_seed: Seed = 1  # of the draws
    early_terminate: EarlyTerminate | None = None

    @property
    def max_combinations(self):
        """How many combinations run_cap allows: int, or None."""
        return None if self.run_cap is None else self.run_cap // len(self.seeds)

    @property
    def base_name(self):
        """The name of the base, as names of runs end: `bert_minilm_sample`."""
        return Path(self.base).stem.removeprefix("params_")

    def run_id(self, number):
        """Returns the name of a run and of its folder. number: int, counted over all seeds."""
        return f"{self.experiment}-run-{number}-{self.base_name}"


def read_experiment(path):
    """Returns the Experiment of a YAML file. Raises UserError, which lists all faults."""
    path = find_file(path)
    values, lines, faults = read_yaml(path)
    found = [(fault.path, fault.text) for fault in faults]
    experiment = None
    try:
        experiment = Experiment.model_validate(values)
    except ValidationError as error:
        found += [(each["loc"], sentence_of(each, values)) for each in error.errors()]
    else:
        found += list(faults_between(experiment))
    if found:
        listed = [f"  {where(loc, lines)}{dotted(loc)}: {text}" for loc, text in found]
        raise UserError("\n".join([f"{path}: {len(found)} to correct", *listed]))
    return experiment


def sentence_of(error, values):
    """Returns what a fault of the schema is, in words. error: one of pydantic's. values: dict."""
    kind, loc = error["type"], error["loc"]
    if kind == "missing":
        return "not given"
    if kind == "extra_forbidden":
        section = SECTION_OF.get(loc[0], Experiment) if loc[1:] else Experiment
        return f"unknown key; accepted: {', '.join(section.model_fields)}"
    if kind in ("model_type", "dict_type"):
        wanted = EXAMPLES["values" if loc[1:] else loc[0]]
        return f"is {as_yaml(error['input'])}; keys are wanted below it, such as `{wanted}`"
    return message_of(error, loc, values, {})


SECTION_OF = {"metric": Metric, "parameters": Parameter, "early_terminate": EarlyTerminate}
EXAMPLES = {
    "metric": "{name: eval/accuracy_cls, goal: maximize}",
    "parameters": "optimizer.learning_rate: {values: [5e-5, 2e-4]}",
    "early_terminate": "{type: hyperband, min_iter: 200}",
    "values": "values: [1, 2]",
}


def faults_between(experiment):
    """Yields (keys, text) of the faults between keys."""
    each = experiment
    if not NAME.fullmatch(each.experiment):
        yield ("experiment",), f"is {as_yaml(each.experiment)}; letters, digits, `.`, `_` and `-`"
    if not each.parameters:
        yield ("parameters",), "is empty; write what varies, or repeat the base over its seeds"
    for key, parameter in each.parameters.items():
        if parameter.fault:
            yield ("parameters", key), parameter.fault
        elif key in SET_BY_EXPERIMENT:
            yield ("parameters", key), f"is what the experiment sets: {SET_BY_EXPERIMENT[key]}"
        elif each.method == "grid" and parameter.distribution:
            yield ("parameters", key), "a grid has values; write a list, or method: random"
    if len(set(each.seeds)) < len(each.seeds) or not each.seeds:
        yield ("seeds",), f"is {list(each.seeds)}; each seed stands once, and there is one"
    if each.method != "grid" and each.run_cap is None:
        yield ("run_cap",), f"not given; method {each.method} needs the number of runs"
    if each.max_combinations == 0:
        yield ("run_cap",), f"is {each.run_cap}, and each combination has {len(each.seeds)} seeds"
    number = math.prod(len(parameter.choices) for parameter in each.parameters.values())
    number = number if each.method == "grid" else each.max_combinations or 0
    number = min(number, each.max_combinations or number)
    if number > MAX_COMBINATIONS:
        text = f"the file has {number:,} combinations, and {MAX_COMBINATIONS:,} are the most"
        yield ("run_cap",), f"{text}; write fewer values, or a lower run_cap"
    if each.early_terminate is not None and each.method == "bayes":
        text = "compares combinations that train side by side, and bayes chooses one after another"
        yield ("early_terminate",), f"{text}; write method: random or grid"


def where(loc, lines):
    """Returns "line 3: " where the file has the keys."""
    line = next((lines[loc[:n]] for n in range(len(loc), 0, -1) if loc[:n] in lines), None)
    return "" if line is None else f"line {line}: "


def dotted(loc):
    return ".".join(map(str, loc))


def overrides_of(experiment, values, flags):
    """Returns {dotted key: value}: what a run has in place of the base's."""
    metric = experiment.metric
    return {
        **flags,
        "runconfig.mode": "train_and_eval",
        "runconfig.best_metric": metric.name,
        "runconfig.best_metric_mode": {"maximize": "max", "minimize": "min"}[metric.goal],
        **values,
    }
