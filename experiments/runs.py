# SPDX-License-Identifier: Apache-2.0
"""Lists, compares and keeps runs: the folders that trainings have written.

    python -m experiments.runs list DIR [--metric NAME] [--json]
    python -m experiments.runs compare DIR [--metric NAME] [--json]
    python -m experiments.runs best DIR [--metric NAME] [--json]
    python -m experiments.runs promote RUN NAME@champion [--registry DIR]

`compare` has a line for each combination of params, with mean and sample standard deviation over
seeds, and the mean difference to the best one on the seeds that both have. A run's figures are
those of the checkpoint that it chose. Exit code 2: wrong usage.
"""

import argparse
import json
import sys

from common.console import counted, escape_unencodable, log
from common.errors import RunError, UserError
from experiments import comparison
from experiments.registry import promote
from experiments.run_folder import read_runs


def make_parser():
    parser = argparse.ArgumentParser(
        prog="python -m experiments.runs",
        description="Lists, compares and keeps the runs in a folder.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("list", "a line for each run: state, seed, step and figure"),
        ("compare", "a line for each combination of params, with its figures over seeds"),
        ("best", "the best combination, its params and the folder of its best run"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("folder", metavar="DIR", help="the folder of the runs")
        command.add_argument("--metric", help="the figure, such as eval/accuracy_cls")
        command.add_argument("--json", action="store_true", help="print JSON, for programs")
    text = "copies a run's chosen checkpoint into the registry, under the next number"
    command = commands.add_parser("promote", help=text, description=text)
    command.add_argument("run", metavar="RUN", help="the run's folder")
    command.add_argument("name", metavar="NAME@ALIAS", help="such as sentiment@champion")
    command.add_argument("--registry", default="registry", metavar="DIR", help="default: registry")
    return parser


def as_json(group, metric):
    """Returns what a program wants of a Group: dict."""
    return {
        "params": group.settings,
        "figures": {str(seed): value for seed, value in group.by_seed(metric).items()},
        "mean": group.mean(metric),
        "deviation": group.deviation(metric),
        "runs": [str(run.path) for run in group.runs],
    }


def list_runs(args):
    runs = read_runs(args.folder)
    if args.json:
        keys = ("name", "state", "seed", "step", "figures")
        return [json.dumps({key: getattr(run, key) for key in keys}) for run in runs]
    if args.metric is not None and comparison.metrics_of(runs):
        comparison.metric_of(runs, args.metric)  # refuses one that no run has
    return comparison.list_lines(runs, args.metric)


def compare(args):
    runs = read_runs(args.folder)
    metric = comparison.metric_of(runs, args.metric)
    less = comparison.is_less_better(runs, metric)
    if args.json:
        groups = comparison.ranked(comparison.grouped(runs), metric, less)
        content = {"metric": metric, "groups": [as_json(group, metric) for group in groups]}
        return [json.dumps(content)]
    return comparison.comparison_lines(runs, metric, less)


def best(args):
    runs = read_runs(args.folder)
    metric = comparison.metric_of(runs, args.metric)
    less = comparison.is_less_better(runs, metric)
    group = comparison.ranked(comparison.grouped(runs), metric, less)[0]
    choose = min if less else max
    with_figure = [run for run in group.runs if metric in run.figures]
    run = choose(with_figure, key=lambda run: run.figures[metric])
    if args.json:
        return [json.dumps({**as_json(group, metric), "metric": metric, "run": str(run.path)})]
    deviation = group.deviation(metric)
    spread = "" if deviation is None else f", standard deviation {deviation:.4f}"
    return [
        f"{metric} {group.mean(metric):.4f}: mean of {counted(len(with_figure), 'seed')}{spread}",
        *(f"  {key}: {comparison.shown(value)}" for key, value in group.settings.items()),
        f"best of them: {run.path}, {metric} {run.figures[metric]:.4f}",
    ]


def promote_run(args):
    version, alias = promote(args.run, args.name, args.registry)
    return [f"{version}" + (f" is now {args.name}" if alias else "")]


COMMANDS = {"list": list_runs, "compare": compare, "best": best, "promote": promote_run}


def main(argv=None):
    escape_unencodable()
    args = make_parser().parse_args(argv)
    try:
        print(*COMMANDS[args.command](args), sep="\n")
    except UserError as error:
        log(str(error))
        return 2
    except (RunError, OSError) as error:
        log(f"The command failed: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
