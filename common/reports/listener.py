# SPDX-License-Identifier: Apache-2.0
"""The events of a running mode, and the base class of what shows or records them.

Trainer, evaluator and predictor print nothing and write no reports: they call the methods below.
Of several workers only the chief has listeners.
"""

from common.errors import RunError


class Listener:
    """Subclasses override the methods they need; by default each does nothing."""

    def on_message(self, text):
        """Lines of text for the user."""

    def on_resume(self, step, evaluated_step):
        """Training continues at `step`. Later figures, and evaluations after `evaluated_step`, come
        again."""

    def on_start(self, first_step, last_step, rate):
        """The training loop begins. rate: StepRate, updated by the loop."""

    def on_step(self, step, figures):
        """An update has been computed or queued on the device.

        figures: {name: number or scalar tensor}. Reading a tensor may wait for the device.
        """

    def on_stop(self):
        """The training loop has ended: after its last step, by a signal or an exception."""

    def on_figures(self, split, step, values, histograms=None, facts=None):
        """Figures of a split, "train" or "eval", at a global step are due.

        values: {name: float}. histograms: {name: <float64>[K, 3]}: left edge, right edge and count
        of K buckets. facts: of an evaluation, see `Evaluator.evaluate`.
        """

    def on_batch(self, description, done, total):
        """`done` batches of an evaluation or prediction are done: 0 before the first."""

    def on_evaluation(self, step, report, is_chosen=True, rows=None, folder=""):
        """Every split has been evaluated, with the weights of a global step.

        report: dict of figures, made by the task, with "num_examples". A classification has
        "per_class" and "confusion" too. is_chosen: False where best_metric has chosen another
        checkpoint, of which the files of an evaluation are. rows: () -> {split: (columns, rows,
        mistakes)}, of `rows_of` and `BaseModel.compare`; or None. folder: str, below eval/ and
        plots/, of an evaluation whose files are not the run's.
        """

    def on_save(self, step, path):
        """A checkpoint is whole on disk. Called in the thread that writes it."""

    def on_end(self, result):
        """The mode has ended without an error. result: its Result."""

    def close(self):
        """Closes files and bars; a later call of another method opens them again."""


class Listeners(Listener):
    """Calls each of several listeners, in order.

    Args:
        listeners: iterable of Listener.
        outlasts: bool. Whether the work goes on without a listener that cannot write its files.
    Attributes:
        not_written: list of str, why such listeners were left out.
    """

    def __init__(self, listeners=(), outlasts=False):
        self.listeners, self.outlasts = tuple(listeners), outlasts
        self.not_written = []

    def _tell(self, listener, name, arguments, keywords):
        try:
            getattr(listener, name)(*arguments, **keywords)
        except (OSError, RunError) as error:
            if not self.outlasts:
                raise
            self.not_written.append(str(error))
            self.listeners = tuple(each for each in self.listeners if each is not listener)


def _forward(name):
    def tell(self, *args, **kwargs):
        for listener in self.listeners:
            self._tell(listener, name, args, kwargs)

    return tell


for _name in vars(Listener):
    if not _name.startswith("_"):
        setattr(Listeners, _name, _forward(_name))
