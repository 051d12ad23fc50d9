# SPDX-License-Identifier: Apache-2.0
"""What people look at after or during a run, all of it below `model_dir`:

metrics.jsonl                 one JSON object per line: {"time", "split", "step", names: values}
events.out.tfevents.*         the same figures of training for TensorBoard
eval/events.out.tfevents.*    and of evaluation, under the original's names
eval/report-<name>.json       the latest evaluation: per-class metrics and confusion matrix
plots/confusion_<name>.png    that matrix
plots/learning_curves.png     loss, accuracy and learning rate over the steps
"""

import contextlib
import io
import json
import math
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from common.errors import RunError
from common.files import write_whole

# Okabe and Ito 2008: told apart with every common form of colour blindness.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
GREY = "#555555"
ACCURACY_LABELS = {
    "eval/accuracy_cls": "evaluation",
    "eval/accuracy_matched": "matched",
    "eval/accuracy_mismatched": "mismatched",
}
MAX_NAMED_CLASSES = 40  # above, the picture of a confusion matrix has neither names nor counts
MAX_TABLE_WIDTH = 100  # columns of text; a wider confusion matrix is left to its picture
DPI = 160


class Reports:
    """Writes the files listed above. Nothing exists on disk before the first figure arrives.

    Args:
        model_dir: str or Path.
    """

    def __init__(self, model_dir):
        self.model_dir = Path(model_dir)
        self.metrics_path = self.model_dir / "metrics.jsonl"
        self._metrics_file = None
        self._writers = {}

    def scalars(self, split, step, values):
        """Appends one line to metrics.jsonl and writes TensorBoard events; both are flushed.

        Args:
            split: "train" or "eval".
            step: int, the global step the figures belong to.
            values: {name: float}. JSON has no word for a number that is not finite: it is written
                as the string "NaN", "Infinity" or "-Infinity", which `float()` reads back.
        """
        if split not in ("train", "eval"):
            raise ValueError(f"split is {split!r}; available: eval, train")
        values = {name: float(value) for name, value in values.items()}
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "split": split, "step": int(step), **values}
        if self._metrics_file is None:
            self.model_dir.mkdir(parents=True, exist_ok=True)
            _drop_torn_line(self.metrics_path)
            self._metrics_file = open(self.metrics_path, "a", encoding="utf-8")  # noqa: SIM115
        try:
            self._metrics_file.write(_json(line) + "\n")
            self._metrics_file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):  # closing it would write again, and fail again
                self._metrics_file.close()
            self._metrics_file = None
            raise _could_not_be_written(self.metrics_path, error.strerror) from error
        self._write_events(split, step, values)

    def _write_events(self, split, step, values):
        # Imported here: a report of figures alone, and its tests, do without TensorFlow's 5 s.
        import tensorflow as tf
        from tensorflow.core.framework.summary_pb2 import SummaryMetadata

        # What tf.summary.scalar writes; that function needs the package tensorboard installed.
        metadata = SummaryMetadata(
            plugin_data={"plugin_name": "scalars"}, data_class="DATA_CLASS_SCALAR"
        )
        with self._events(split):
            for name, value in values.items():
                tf.summary.write(name, tf.constant(value, tf.float32), int(step), metadata)

    @contextlib.contextmanager
    def _events(self, split):
        """While open, tf.summary writes to the events of a split, which are then flushed."""
        import tensorflow as tf

        event_dir = self.model_dir if split == "train" else self.model_dir / "eval"
        with _losses_explained(event_dir):
            if split not in self._writers:
                self._writers[split] = tf.summary.create_file_writer(str(event_dir))
            with self._writers[split].as_default():
                yield
            self._writers[split].flush()

    def histograms(self, split, step, values):
        """Writes TensorBoard events.

        Args:
            split: "train" or "eval".
            step: int, the global step the figures belong to.
            values: {name: <float64>[K, 3]}: left edge, right edge and count of K buckets.
        """
        import tensorflow as tf
        from tensorflow.core.framework.summary_pb2 import SummaryMetadata

        # What tf.summary.histogram writes; that function needs the package tensorboard installed.
        metadata = SummaryMetadata(plugin_data={"plugin_name": "histograms"})
        with self._events(split):
            for name, value in values.items():
                tf.summary.write(name, value, int(step), metadata)

    def evaluation(self, step, report, name="validation"):
        """Writes report-<name>.json and confusion_<name>.png; returns the report as a text table.

        Args:
            step: int, the global step of the weights that were evaluated.
            report: dict as `classification_report` or `regression_report` returns it.
            name: str, which split or file was evaluated; becomes part of both file names.
        """
        content = _json({"name": name, "step": int(step), **report}, indent=2) + "\n"
        write_whole(self.model_dir / "eval" / f"report-{name}.json", content)
        if "confusion" not in report:  # of a regression
            figures = {key: value for key, value in report.items() if key != "num_examples"}
            listed = ", ".join(f"{key} {value:.4f}" for key, value in figures.items())
            return f"{name} at step {step}: {listed}, {report['num_examples']} examples"
        scored = f"accuracy {report['accuracy']:.4f} over {report['num_examples']:,} examples"
        title = f"{name}, step {step:,}\n{scored}"
        figure = draw_confusion(report, title)
        _save_figure(figure, self.model_dir / "plots" / f"confusion_{name}.png")
        return evaluation_table(step, report, name)

    def plot_curves(self):
        """Draws learning_curves.png from metrics.jsonl; returns its path, None without figures."""
        curves = read_curves(self.metrics_path)
        figure = draw_curves(curves, f"Learning curves of {self.model_dir.resolve().name}")
        if figure is None:
            return None
        path = self.model_dir / "plots" / "learning_curves.png"
        _save_figure(figure, path)
        return path

    def has_evaluation(self, step):
        """Whether metrics.jsonl has an evaluation of a step."""
        return self.metrics_path.exists() and any(
            (figures["split"], figures["step"]) == ("eval", step)
            for _, figures in _lines(self.metrics_path)
        )

    def truncate_after(self, step, evaluated_step=None):
        """Drops what metrics.jsonl says of later steps, before a run resumes from this one.

        TensorBoard's files cannot be shortened; an event tells it to do the same.

        Args:
            step: int.
            evaluated_step: int or None. Evaluations of later steps are dropped; None: `step`.
        """
        last = {"train": step, "eval": step if evaluated_step is None else evaluated_step}
        self._close_metrics_file()
        if not self.metrics_path.exists():
            return
        kept = [
            line
            for line, figures in _lines(self.metrics_path)
            if figures["step"] <= last.get(figures["split"], step)
        ]
        kept = "".join(kept).encode()
        if kept == self.metrics_path.read_bytes():
            return
        write_whole(self.metrics_path, kept)
        for event_dir in (self.model_dir, self.model_dir / "eval"):
            if any(event_dir.glob("events.out.tfevents.*")):
                with _losses_explained(event_dir):
                    _write_restart_event(event_dir, step + 1)

    def close(self):
        """Closes the files. A later call of `scalars` opens them again."""
        self._close_metrics_file()
        if self._writers:
            import tensorflow as tf
        for writer in self._writers.values():
            # All of it has been flushed, or has been told to be lost.
            with contextlib.suppress(tf.errors.OpError):
                writer.close()
        self._writers = {}

    def _close_metrics_file(self):
        if self._metrics_file is not None:
            self._metrics_file.close()
            self._metrics_file = None


class NoReports(Reports):
    """Writes nothing: of a process whose figures another one reports."""

    def scalars(self, split, step, values):
        pass

    def histograms(self, split, step, values):
        pass

    def evaluation(self, step, report, name="validation"):
        return evaluation_table(step, report, name)

    def plot_curves(self):
        return None

    def has_evaluation(self, step):
        return False

    def truncate_after(self, step, evaluated_step=None):
        pass


@contextlib.contextmanager
def _losses_explained(event_dir):
    """Turns TensorFlow's error on events that cannot be written into a RunError."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        path = event_dir / "events.out.tfevents.*"
        raise _could_not_be_written(path, error.message.splitlines()[0]) from error


def _could_not_be_written(path, reason):
    return RunError(
        f"{path} could not be written: {reason}. Checkpoints are whole; make room or choose "
        "another --model_dir, and run again"
    )


def closing_summary(items):
    """Returns (name, value) pairs of str as aligned lines, names left, values in one column."""
    width = max((len(name) for name, _ in items), default=0)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in items)


def evaluation_table(step, report, name="validation"):
    """Returns the per-class metrics and the confusion matrix as text; see `Reports.evaluation`."""
    classes = report["per_class"]
    head = (
        f"{name} at step {step}: accuracy {report['accuracy']:.4f}, loss {report['loss']:.4f}, "
        f"{report['num_examples']} examples"
    )
    rows = [["class", "precision", "recall", "f1", "examples"]]
    for figures in classes:
        scores = [f"{figures[metric]:.4f}" for metric in ("precision", "recall", "f1")]
        rows.append([figures["label"], *scores, str(figures["support"])])
    matrix = [["true \\ predicted", *(figures["label"] for figures in classes)]]
    for figures, counts in zip(classes, report["confusion"], strict=True):
        matrix.append([figures["label"], *map(str, counts)])
    matrix = _align(matrix)
    if max(map(len, matrix)) > MAX_TABLE_WIDTH:
        matrix = [f"confusion matrix of {len(classes)} classes: plots/confusion_{name}.png"]
    return "\n".join([head, *_align(rows), "", *matrix])


def _align(rows):
    """Rows of str as lines: the first column left, the others right aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in rows
    ]


def read_curves(metrics_path):
    """Returns {(split, name): {step: float}} with rising steps, from a metrics.jsonl.

    A step that occurs twice, after a resume, keeps the later figure. A line that is not whole,
    after a kill, is left out. A missing file has no curves.
    """
    curves = {}
    if not Path(metrics_path).exists():
        return curves
    for _, figures in _lines(metrics_path):
        for name in figures.keys() - {"time", "split", "step"}:
            curve = curves.setdefault((figures["split"], name), {})
            curve[figures["step"]] = float(figures[name])
    return {key: dict(sorted(curve.items())) for key, curve in sorted(curves.items())}


def _lines(metrics_path):
    """Yields (line, its dict) of the whole lines of a metrics.jsonl."""
    with open(metrics_path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                figures = json.loads(line)
            except ValueError:
                continue
            if (
                line.endswith("\n")
                and isinstance(figures, dict)
                and {"split", "step"} <= figures.keys()
            ):
                yield line, figures


def _drop_torn_line(path):
    """Cuts off what follows the last line end, so that the next line starts on its own."""
    if path.exists():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)


def _write_restart_event(event_dir, step):
    """Makes TensorBoard forget earlier events from `step` on, as the original's Estimator did.

    "-restart" sorts before the ".<process>" of an event file of the same second, so that it is read
    before what the resumed run writes.
    """
    import tensorflow as tf

    now = time.time()
    path = event_dir / f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}-restart"
    version = tf.compat.v1.Event(wall_time=now, file_version="brain.Event:2")
    session = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
    start = tf.compat.v1.Event(wall_time=now, step=step, session_log=session)
    with tf.io.TFRecordWriter(str(path)) as writer:
        # Twice: the first start in a folder counts as the run's beginning, the next as a restart
        # (tensorboard/backend/event_processing/plugin_event_accumulator.py).
        for event in (version, start, start):
            writer.write(event.SerializeToString())


def _json(value, indent=None):
    """Valid JSON of any figures; see `Reports.scalars` for those that are not finite."""
    return json.dumps(_finite(value), allow_nan=False, ensure_ascii=False, indent=indent)


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _save_figure(figure, path):
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.15)
    write_whole(path, png.getvalue())


def draw_confusion(report, title):
    """Returns a matplotlib Figure: counts, and in colour their share of the true class."""
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    names = [figures["label"] for figures in report["per_class"]]
    counts = np.asarray(report["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    num_classes = len(names)
    has_names, has_shares = num_classes <= MAX_NAMED_CLASSES, num_classes <= 8
    cell = 1.5 if num_classes <= 3 else 0.85 if has_shares else 0.55  # inches
    side = cell * min(num_classes, MAX_NAMED_CLASSES)
    figure = Figure(figsize=(side + 2, side + 2), layout="constrained")
    axes = figure.add_subplot()
    # One hue from light to dark: read the same with every form of colour blindness and in grey.
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if has_names:
        for (row, column), count in np.ndenumerate(counts):
            share = shares[row, column]
            axes.text(
                column,
                row,
                f"{count:,}\n{share:.1%}" if has_shares else f"{count:,}",
                ha="center",
                va="center",
                fontsize=13 if num_classes <= 3 else 10,
                color="white" if share > 0.55 else "black",
                in_layout=False,  # inside the axes; measuring 400 of them takes seconds
            )
        is_slanted = max(map(len, names)) > 10 * cell  # characters that fit side by side
        # parse_math: a label such as "$10" is text, not TeX.
        axes.set_yticks(range(num_classes), names, parse_math=False, fontsize=11)
        axes.set_xticks(range(num_classes), names, parse_math=False, fontsize=11)
        if is_slanted:
            for label in axes.get_xticklabels():
                label.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    shade = "percentage and shade" if has_shares else "shade"
    axes.set_xlabel(f"predicted class\n({shade}: share of the row)", fontsize=11, color=GREY)
    axes.set_ylabel("true class", fontsize=11, color=GREY)
    axes.set_title(title, loc="left", parse_math=False, fontsize=12)
    return figure


def smooth(values, window):
    """Returns the centred running mean, float64 [N]; the window shrinks towards both ends."""
    values = np.asarray(values, np.float64)
    half = window // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, len(values) - 1 - index))
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


def _finite_points(curve):
    """Steps and values of a curve's finite figures, as two arrays."""
    points = [(step, value) for step, value in curve.items() if math.isfinite(value)]
    return np.array([step for step, _ in points]), np.array([value for _, value in points])


def draw_curves(curves, title):
    """Returns a matplotlib Figure of what `read_curves` returns; None without a finite figure."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    points = {key: _finite_points(curve) for key, curve in curves.items()}
    points = {key: curve for key, curve in points.items() if len(curve[0])}
    training_loss = points.get(("train", "train/cost_cls"))
    evaluation_loss = points.get(("eval", "loss"))
    learning_rate = points.get(("train", "train/lr"))
    accuracies = {
        ACCURACY_LABELS[name]: points["eval", name]
        for name in ACCURACY_LABELS
        if ("eval", name) in points
    }
    heights = {"loss": 2.8, "accuracy": 2.8, "learning rate": 1.3}  # inches, top to bottom
    has_panel = [training_loss or evaluation_loss, accuracies, learning_rate]
    heights = {
        name: inches for (name, inches), has in zip(heights.items(), has_panel, strict=True) if has
    }
    if not heights:
        return None

    figure = Figure(figsize=(9, sum(heights.values()) + 1), layout="constrained")
    panels = figure.subplots(
        len(heights), sharex=True, squeeze=False, height_ratios=list(heights.values())
    )[:, 0]
    panels = dict(zip(heights, panels, strict=True))
    if training_loss:
        steps, values = training_loss
        smoothed = smooth(values, len(values) // 15)
        panels["loss"].plot(steps, values, color=BLUE, alpha=0.25, linewidth=1)
        _plot_line(panels["loss"], steps, smoothed, color=BLUE, label="training, smoothed")
    if evaluation_loss:
        _plot_evaluations(panels["loss"], *evaluation_loss, "evaluation", ORANGE, np.argmin)
    for (label, curve), color in zip(accuracies.items(), (ORANGE, GREEN, PURPLE), strict=False):
        _plot_evaluations(panels["accuracy"], *curve, label, color, np.argmax)
    if learning_rate:
        _plot_line(panels["learning rate"], *learning_rate, color=BLUE)
        panels["learning rate"].ticklabel_format(axis="y", scilimits=(-2, 3))

    for name, axes in panels.items():
        axes.set_ylabel(name, fontsize=11)
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        if name != "learning rate":
            axes.legend(frameon=False, fontsize=10)
    axes.set_xlabel("step", fontsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.align_ylabels()
    figure.suptitle(title, parse_math=False, fontsize=12)
    return figure


def _plot_line(axes, steps, values, **style):
    axes.plot(steps, values, linewidth=2, marker="o" if len(steps) == 1 else None, **style)


def _plot_evaluations(axes, steps, values, label, color, find_best):
    """One curve of evaluations, its best point ringed and named in the legend."""
    best = find_best(values)
    label = f"{label}, best {values[best]:.4f} at step {steps[best]:,}"
    axes.plot(steps, values, color=color, linewidth=2, marker="o", markersize=4, label=label)
    ring = {"markersize": 12, "markerfacecolor": "none", "markeredgewidth": 2}
    axes.plot(steps[best], values[best], marker="o", color=color, **ring)
