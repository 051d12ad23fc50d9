# SPDX-License-Identifier: Apache-2.0
"""The table of several runs: what differs in their params, and their figures over seeds."""

import dataclasses
import math
import statistics

from common.errors import UserError

MAX_WIDTH = 28  # of a cell


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs that differ by their seed alone.

    settings: {dotted key: value} of what differs between the groups.
    """

    settings: dict
    runs: list

    def by_seed(self, metric):
        """Returns {seed: figure}; where a seed was trained twice, the later run counts."""
        return {run.seed: run.figures[metric] for run in self.runs if metric in run.figures}

    def mean(self, metric):
        values = list(self.by_seed(metric).values())
        return statistics.fmean(values) if values else None

    def deviation(self, metric):
        """Returns the sample standard deviation over seeds; None for fewer than two."""
        values = list(self.by_seed(metric).values())
        return statistics.stdev(values) if len(values) > 1 else None


def metrics_of(runs):
    """Returns the names of all figures of runs, in alphabetical order."""
    return sorted({name for run in runs for name in run.figures})


def metric_of(runs, name=None):
    """Returns the name of the figure that counts: the one given, or else the runs' best_metric.

    Raises UserError where no run has it, or the runs name different ones.
    """
    if name is None:
        named = {run.params.get("runconfig.best_metric") for run in runs} - {None}
        if len(named) != 1:
            listed = ", ".join(sorted(named)) or "none"
            raise UserError(
                f"the runs were chosen by {listed}; name one figure with --metric, such as "
                f"{', '.join(metrics_of(runs)[:3]) or 'eval/accuracy_cls'}"
            )
        name = named.pop()
    if all(name not in run.figures for run in runs):
        known = ", ".join(metrics_of(runs)) or "none yet"
        raise UserError(f"no run has a figure {name}; those there are: {known}")
    return name


def is_less_better(runs, metric):
    """Whether a lower figure is better: as the runs say of their best_metric, else by its name."""
    modes = {
        run.params.get("runconfig.best_metric_mode")
        for run in runs
        if run.params.get("runconfig.best_metric") == metric
    } - {None}
    if len(modes) == 1:
        return modes == {"min"}
    return any(word in metric for word in ("loss", "perplexity", "error", "cost"))


def differing(runs):
    """Returns the dotted keys whose values differ between runs, without those of their seeds."""
    keys = dict.fromkeys(key for run in runs for key in run.varying)
    first = runs[0].varying
    return [key for key in keys if any(run.varying.get(key) != first.get(key) for run in runs)]


def grouped(runs, keys=()):
    """Returns list of Group, in the order of their first runs.

    keys: dotted keys that settings have even where they are the same in all runs.
    """
    keys, groups = list(dict.fromkeys([*keys, *differing(runs)])), {}
    for run in runs:
        settings = {key: run.varying.get(key) for key in keys}
        groups.setdefault(repr(settings), Group(settings, [])).runs.append(run)
    return list(groups.values())


def ranked(groups, metric, less_is_better):
    """Returns the groups, best mean first; those without the figure come last."""

    def place(group):
        mean = group.mean(metric)
        if mean is None or math.isnan(mean):
            return math.inf
        return mean if less_is_better else -mean

    return sorted(groups, key=place)


def paired(group, best, metric):
    """Returns the differences of a group to another on the seeds that both have: list of float."""
    ours, theirs = group.by_seed(metric), best.by_seed(metric)
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def comparison_lines(runs, metric, less_is_better, keys=()):
    """Returns the lines of the table: one for each combination, the best first.

    keys: as of `grouped`.
    """
    groups = ranked(grouped(runs, keys), metric, less_is_better)
    keys = list(groups[0].settings)
    header = [*map(short_key(keys), keys), "seeds", metric, "sd", "to the best, paired", "runs"]
    rows = []
    for group in groups:
        mean, deviation = group.mean(metric), group.deviation(metric)
        rows.append(
            [
                *(shown(group.settings[key]) for key in keys),
                str(len(group.by_seed(metric))),
                "-" if mean is None else f"{mean:.4f}",
                "-" if deviation is None else f"{deviation:.4f}",
                "" if group is groups[0] else difference(paired(group, groups[0], metric)),
                names_of(group.runs),
            ]
        )
    return table(header, rows)


def difference(values):
    """Returns "-0.0120 ± 0.0031 (3)": mean, sample deviation and number of differences."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):+.4f}"
    if len(values) == 1:
        return f"{mean} (1)"
    return f"{mean} ± {statistics.stdev(values):.4f} ({len(values)})"


def list_lines(runs, metric=None):
    """Returns the lines of a table with a line for each run."""
    header = ["run", "state", "seed", "evaluations", metric or "figure", "at step", "started"]
    rows = []
    for run in runs:
        name = metric or run.params.get("runconfig.best_metric") or "eval/accuracy_cls"
        value = run.figures.get(name)
        figure = "-" if value is None else f"{value:.4f}"
        rows.append(
            [
                run.name,
                run.state or "-",
                shown(run.seed),
                str(run.num_evaluations),
                figure if metric or value is None else f"{name} {figure}",
                shown(run.step),
                run.record.get("started", "-"),
            ]
        )
    return table(header, rows)


def names_of(runs):
    first = runs[0].name
    return first if len(runs) == 1 else f"{first} and {len(runs) - 1} more"


def short_key(keys):
    """Returns a function from a dotted key to its last part, where no other key has the same."""
    last = [key.rpartition(".")[2] for key in keys]
    return lambda key: end if last.count(end := key.rpartition(".")[2]) == 1 else key


def shown(value):
    """Returns a value of the params as a cell."""
    text = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MAX_WIDTH else f"{text[: MAX_WIDTH - 3]}..."


def table(header, rows):
    """Returns the lines of a table: columns padded to their widest cell, two blanks between."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
