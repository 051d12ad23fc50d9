# SPDX-License-Identifier: Apache-2.0
"""What people look at after or during a run, all of it below `model_dir`:

metrics.jsonl                 one JSON object per line: {"time", "split", "step", names: values}
events.out.tfevents.*         the same figures of training for TensorBoard
eval/events.out.tfevents.*    and of evaluation, under the original's names
eval/report-<name>.json       the latest evaluation: per-class metrics and confusion matrix
plots/confusion_<name>.png    that matrix
plots/learning_curves.png     loss, accuracy and learning rate over the steps
"""

from common.reports import metrics_file
from common.reports.evaluation_report import evaluation_text
from common.reports.listener import Listeners
from common.reports.listeners import standard_listeners


class Reports:
    """Writes the files listed above. Nothing exists on disk before the first figure arrives."""

    def __init__(self, model_dir):
        self.model_dir = model_dir
        *files, _ = standard_listeners(model_dir).listeners
        self.listeners = Listeners(files)

    def scalars(self, split, step, values):
        self.listeners.on_figures(split, step, values)

    def histograms(self, split, step, values):
        for listener in self.listeners.listeners[1:]:  # not the metrics file
            listener.on_figures(split, step, {}, values)

    def evaluation(self, step, report, name="validation"):
        self.listeners.on_evaluation(step, report, name)
        return evaluation_text(step, report, name)

    def plot_curves(self):
        self.listeners.on_end(None)

    def has_evaluation(self, step):
        return metrics_file.has_evaluation(self.model_dir, step)

    def truncate_after(self, step, evaluated_step=None):
        self.listeners.on_resume(step, step if evaluated_step is None else evaluated_step)

    def close(self):
        self.listeners.close()


class NoReports(Reports):
    """Writes nothing: of a process whose figures another one reports."""

    def __init__(self, model_dir):
        super().__init__(model_dir)
        self.listeners = Listeners()

    def has_evaluation(self, step):
        return False
