# SPDX-License-Identifier: Apache-2.0
"""The listeners of every run."""

from common.reports.evaluation_report import EvaluationReport
from common.reports.listener import Listeners
from common.reports.metrics_file import MetricsFile
from common.reports.plots import Plots
from common.reports.prediction_files import EvaluationRows
from common.reports.progress import Console
from common.reports.tensorboard import TensorBoard


def standard_listeners(model_dir, log_steps=100, outlasts=False, has_console=True, others=()):
    """Returns the Listeners of the process that reports a run: the only one, or the chief.

    Files are written before the console shows their content, and none before the first figure.
    log_steps: int, training steps between two plain lines of progress. outlasts: as of `Listeners`.
    others: Listeners of a caller, which come last.
    """
    metrics_file = MetricsFile(model_dir)
    files = [metrics_file, TensorBoard(model_dir, metrics_file)]
    files += [kind(model_dir) for kind in (EvaluationReport, EvaluationRows, Plots)]
    console = [Console(log_steps)] if has_console else []
    return Listeners([*files, *console, *others], outlasts)
