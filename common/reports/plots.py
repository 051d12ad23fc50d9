# SPDX-License-Identifier: Apache-2.0
"""Plots of a run: confusion matrices and learning curves. The first one imports matplotlib."""

import gc
import io
import math
import warnings
from pathlib import Path

import numpy as np

from common.console import counted, in_one_cell
from common.files import write_whole
from common.reports.listener import Listener
from common.reports.metrics_file import read_curves

# Okabe and Ito 2008: told apart with every common form of colour blindness.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
GREY = "#555555"
ACCURACY_LABELS = {
    "eval/accuracy_masked_lm": "masked words",
    "eval/accuracy_cls": "evaluation",
    "eval/accuracy_matched": "matched",
    "eval/accuracy_mismatched": "mismatched",
}
MAX_NAMED_CLASSES = 40  # above, the plot of a confusion matrix has neither names nor counts
DPI = 160


class Plots(Listener):
    """Writes a confusion matrix at each evaluation, learning curves at the end, into plots/.

    model_dir: path-like, whose metrics.jsonl has the curves.
    """

    def __init__(self, model_dir):
        self.model_dir = Path(model_dir)

    def on_evaluation(self, step, report, is_chosen=True, rows=None, folder=""):
        if is_chosen and "confusion" in report:
            examples = counted(report["num_examples"], "example")
            scored = f"accuracy {report['accuracy']:.4f} over {examples}"
            figure = draw_confusion(report, f"validation, step {step:,}\n{scored}")
            self._save(figure, Path(folder, "confusion_validation.png"))
            del figure
            # A Figure refers to itself in circles, for which Python by itself looks so rarely that
            # 0.75 MB piled up at each evaluation.
            gc.collect()

    def on_end(self, result):
        curves = read_curves(self.model_dir)
        figure = draw_curves(curves, f"Learning curves of {self.model_dir.resolve().name}")
        if figure is not None:
            self._save(figure, "learning_curves.png")

    def _save(self, figure, name):
        png = io.BytesIO()
        with warnings.catch_warnings():
            # matplotlib has no font for every writing; a label of another one is drawn as boxes.
            warnings.filterwarnings("ignore", r"Glyph \d+")
            figure.savefig(png, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.15)
        write_whole(self.model_dir / "plots" / name, png.getvalue())


def draw_confusion(report, title):
    """Returns a matplotlib Figure: counts, and as colour their share of the true class."""
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    names = [in_one_cell(figures["label"]) for figures in report["per_class"]]
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


def draw_curves(curves, title):
    """Returns a matplotlib Figure of what `read_curves` returns; None without a finite figure."""
    from matplotlib.figure import Figure

    points = {}  # steps and values of the curves' finite figures
    for key, curve in curves.items():
        finite = [(step, value) for step, value in curve.items() if math.isfinite(value)]
        if finite:
            points[key] = tuple(map(np.array, zip(*finite, strict=True)))
    whole, of_rows = ("train", "train/cost"), ("train", "train/cost_cls")
    training_loss = points.get(whole, points.get(of_rows))  # in pre-training the second is a part
    evaluation_loss = points.get(("eval", "loss"))
    learning_rate = points.get(("train", "train/lr"))
    accuracies = {
        label: points["eval", name]
        for name, label in ACCURACY_LABELS.items()
        if ("eval", name) in points
    }
    if "masked words" in accuracies and "evaluation" in accuracies:
        accuracies["next sentence"] = accuracies.pop("evaluation")
    heights = {}  # inches, top to bottom
    if training_loss or evaluation_loss:
        heights["loss"] = 2.8
    if accuracies:
        heights["accuracy"] = 2.8
    if learning_rate:
        heights["learning rate"] = 1.3
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
    label_steps(axes)
    figure.align_ylabels()
    figure.suptitle(title, parse_math=False, fontsize=12)
    return figure


def label_steps(axes):
    """Gives an axis of steps whole numbers, of a single step that one alone."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("step", fontsize=11)
    locator = MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _plot_line(axes, steps, values, **style):
    axes.plot(steps, values, linewidth=2, marker="o" if len(steps) == 1 else None, **style)


def _plot_evaluations(axes, steps, values, label, color, find_best):
    """Draws a curve of evaluations, its best point ringed and named in the legend."""
    best = find_best(values)
    label = f"{label}, best {values[best]:.4f} at step {steps[best]:,}"
    axes.plot(steps, values, color=color, linewidth=2, marker="o", markersize=4, label=label)
    ring = {"markersize": 12, "markerfacecolor": "none", "markeredgewidth": 2}
    axes.plot(steps[best], values[best], marker="o", color=color, **ring)
