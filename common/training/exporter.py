# SPDX-License-Identifier: Apache-2.0
"""Export of a checkpoint for other programs, with what is known of it and what it costs."""

import time
from pathlib import Path

from common.checkpoints.small_files import read_params_yaml
from common.errors import UserError
from common.export import onnx
from common.export.export import Classifier, export
from common.reports.metrics_file import read_curves
from common.training.result import Result


class Exporter:
    """Writes the session's checkpoint.

    Args:
        session: Session with a checkpoint, its params in float32.
        evaluator: Evaluator.
    """

    def __init__(self, session, evaluator):
        self.session, self.evaluator = session, evaluator
        self.model = evaluator.model
        self.started = time.monotonic()

    def export(self, export_format, export_dir=None, quantize=None):
        """Writes the checkpoint, and scores it again where it is quantized. Returns Result.

        Args:
            export_format, quantize: as `common/export/export.py`.
            export_dir: path-like; None is export/<format> in model_dir.
        """
        session, checkpoint = self.session, self.session.checkpoint
        params, data = session.params, session.data
        text_features = data.get_text_features(params)
        self.evaluator.inference.load(checkpoint)
        calibration = self.model.fold_calibration()
        step = checkpoint.config.get("step")
        classifier = Classifier(
            self.model,
            params,
            session.vocab,
            text_features,
            self._figures_of(checkpoint.path, step),
            step,
            quantize,
            data.describe(params.predict_input),
            self._params_of(checkpoint.path),
        )
        batches_of_split, comparison = None, []
        if quantize is not None:
            try:
                batches_of_split = data.eval_input_fn(params)
            except UserError as error:  # the export itself needs no data
                comparison.append(("Not scored", str(error)))

        def score(folder):
            scores, lines = self._compare_onnx_files(folder, batches_of_split)
            comparison.extend(lines)
            return scores

        folder, notes = export(
            export_format,
            classifier,
            export_dir or session.model_dir / "export" / export_format,
            score if batches_of_split else None,
        )
        lines = [("Exported", str(folder)), *(("Note", note) for note in notes)]
        return Result(
            mode=session.mode,
            outcome=f"Exported {checkpoint.path} as {export_format}",
            model_dir=str(session.model_dir),
            seconds=time.monotonic() - self.started,
            step=step,
            checkpoint=str(checkpoint.path),
            written=[str(folder)],
            lines=[*lines, *calibration, *comparison],
        )

    def _is_in_model_dir(self, path):
        return Path(path).resolve().is_relative_to(self.session.model_dir.resolve())

    def _params_of(self, path):
        """Returns {section: {key: value}} of the run that a checkpoint of model_dir is of."""
        if not self._is_in_model_dir(path):
            return None
        return read_params_yaml(self.session.model_dir) or None

    def _figures_of(self, path, step):
        """Returns {name: figure} of a checkpoint of model_dir that was evaluated, else {}."""
        curves = read_curves(self.session.model_dir) if self._is_in_model_dir(path) else {}
        return {
            name: curve[step]
            for (split, name), curve in curves.items()
            if split == "eval" and step in curve
        }

    def _compare_onnx_files(self, folder, batches_of_split):
        """Scores a network before and after quantization.

        Returns {file: {metric: float}}, and what it costs, as lines of a summary.
        """
        figures, totals, lines = {}, [], []
        for name in (onnx.MODEL_FILE, onnx.INT8_FILE):
            predict_step = onnx.make_predict_step(folder / name)
            scores = self.evaluator.score(batches_of_split, predict_step, name)
            figures[name], total = self.evaluator.total_of(scores)
            totals.append(total)
            described = total.describe(figures[name])
            lines.append((name, ", ".join(f"{key.lower()} {text}" for key, text in described)))
        before, after = figures.values()
        lost = {key: before[key] - after[key] for key in before if key.startswith("eval/")}
        text = ", ".join(
            f"{value:.4f} of {key.removeprefix('eval/').removesuffix('_cls')}"
            for key, value in lost.items()
        )
        difference = totals[0].describe_difference(totals[1])
        lines.append(("Lost to int8", "; ".join(filter(None, [text, difference]))))
        return figures, lines
