# SPDX-License-Identifier: Apache-2.0
"""Question answering: where the answer to a question begins and ends in a text; all that is of this
task."""

from dataclasses import dataclass
from typing import ClassVar

import keras
import numpy as np
from keras import ops

from common.backbones.backbone import make_backbone
from common.backbones.initializers import CLASSIFIER, FreshWeights
from common.BaseModel import TRAIN, BaseModel
from common.losses import token_cross_entropy
from common.metrics.answers import AnswerMetrics
from common.params.words import DEFAULT_STRIDE
from common.tasks.answer import Answer
from common.tasks.pooler import make_word_pooler
from common.tasks.span_answers import Context, Scored, answer
from common.tasks.targets import Targets, TargetSpec

NO_TOKEN = -1e30  # logit of what is no token of the row: its probability is 0
SPAN = Answer(
    kind="question answering",
    description="where the answer begins and ends, a logit for each token; [CLS] is no answer",
    architecture="BertForQuestionAnswering",
    pipeline_tag="question-answering",
    problem_type=None,
    probabilities=None,
    served=("start_logits", "end_logits", "input_ids"),
    example=("Who wrote it?", "Ada Lovelace wrote it."),
    decoder="questions",
    reading={
        "saved_model": """start, end = (result[f"{n}_logits"][0].numpy() for n in ("start", "end"))
print(result["input_ids"][0].numpy()[start.argmax() : end.argmax() + 1])""",
        "ids": """first, last = start_logits[0].argmax(), end_logits[0].argmax()
print(features["input_ids"][0][first : last + 1])""",
        "huggingface": """outputs = model(**rows)
first, last = outputs.start_logits[0].argmax(), outputs.end_logits[0].argmax()
print(tokenizer.decode(rows["input_ids"][0][first : last + 1]))""",
    },
)


@dataclass(frozen=True)
class SpanTargets(Targets):
    """Places of the answer in a row, [CLS] where it holds none: {"start_positions" and
    "end_positions": int32 [N]}.

    may_be_unanswerable: bool. A question may have no answer in its text.
    """

    default_outputs: ClassVar = None
    rows: ClassVar = "questions"
    may_be_unanswerable: bool = False
    specs: ClassVar = {
        name: TargetSpec((), np.dtype(np.int32)) for name in ("start_positions", "end_positions")
    }

    @classmethod
    def of(cls, cfg):
        return cls((), cfg.version_2_with_negative)

    def named(self, column):
        del column
        return self

    @property
    def settings(self):
        return [*super().settings, f"unanswerable {self.may_be_unanswerable}"]

    def describe(self, arrays):
        number = int((arrays["start_positions"] > 0).sum()) if arrays else 0
        return f"with an answer {number:,}"

    def faults(self, arrays):
        del arrays
        return {}  # a source of questions names its own

    @property
    def missing(self):
        return {}


class QuestionAnsweringTask(BaseModel):
    """Backbone, dense(2) on every token: the logits of start and end.

    Devlin et al. 2019, section 4.2. Shapes: B rows, T tokens, D hidden size. Packed, R long rows
    have the B short ones, and the logits are unpacked.

    Args:
        params: complete Params. label_names: not used.
    Call:
        features: as of `Backbone`. Returns logits, <float32>[B, T, 2].
    """

    targets, answer = SpanTargets, SPAN
    head: ClassVar = {"qa": None}
    export_formats = (
        *("saved_model", "huggingface", "keras", "onnx", "tflite", "tf1"),
        *("keras_source", "pytorch_source"),
    )
    served_features = ("input_ids",)
    label_names = ()

    def __init__(self, params, label_names=(), name="bert"):
        cfg, rows = params.model, params.predict_input
        backbone = make_backbone(cfg, params.dropout_seed or 0, params.runconfig.num_streams)
        super().__init__(backbone, rows, name=name, dtype=cfg.dtype_policy)
        del label_names
        self.task, self.frozen = params.task, cfg.freeze
        self.sums_losses, self.includes_padding = cfg.qa_loss == "sum", cfg.span_softmax == "row"
        self.n_best, self.max_tokens = cfg.n_best_size, cfg.max_answer_length
        self.may_be_unanswerable = rows.version_2_with_negative
        self.given_threshold = cfg.null_score_diff_threshold  # None: as the checkpoint has it
        self.threshold = self.given_threshold or 0.0
        self.pooler, self.head_activation = make_word_pooler(cfg), cfg.family.head_activation
        if self.pooler is not None:
            self.head = {"pooler": None, **self.head}
        fresh = FreshWeights(cfg.keras_initializer, cfg.weight_initialization_seed, CLASSIFIER)
        # float32 under every policy: logits feed a softmax.
        self.qa = keras.layers.Dense(2, kernel_initializer=fresh, dtype="float32", name="qa")

    def build(self, input_shape=None):
        del input_shape  # every shape follows from the params
        self.backbone.build()
        if self.pooler is not None:
            self.pooler.build((None, None, self.backbone.hidden_size))
        self.qa.build((None, None, self.backbone.hidden_size))
        self.freeze(self.frozen)
        self.built = True

    def call(self, features, training=False):
        x, packed = self.backbone.in_long_rows(features, training=training)  # [R, T, D]
        x = x if self.pooler is None else self.pooler(x)
        logits, mask = self.qa(x), features["padding_mask"]  # <float32>[R, T, 2]
        if packed is not None:
            logits, mask = packed.unpack(logits)  # [B, T, 2]
        if packed is None and self.includes_padding:
            return logits
        return ops.where(ops.expand_dims(mask, -1) > 0, logits, NO_TOKEN)

    def build_model(self, features, mode):
        """Returns {"start_logits", "end_logits": <float32>[B, T]}."""
        logits = self(self.network_features(features), training=mode == TRAIN)
        return {"start_logits": logits[:, :, 0], "end_logits": logits[:, :, 1]}

    def build_total_loss(self, outputs, targets):
        """The mean of the cross entropies of start and end, or with `qa_loss: sum` their sum.

        targets: {"start_positions", "end_positions": <int32>[B]}.
        """
        losses = [
            ops.mean(token_cross_entropy(outputs[f"{side}_logits"], targets[f"{side}_positions"]))
            for side in ("start", "end")
        ]
        return (losses[0] + losses[1]) / (1.0 if self.sums_losses else 2.0)

    def build_train_ops(self, total_loss):
        del total_loss  # it depends on every weight that is not frozen
        return self.trainable_weights

    def build_eval_metric_ops(self):
        return AnswerMetrics(self.answer_all, self.may_be_unanswerable, self.threshold)

    build_gathered = build_eval_metric_ops

    def answer_all(self, outputs, origins, rows):
        """Returns the Answered of every question.

        outputs: {"start_logits", "end_logits": <float32>[tokens of all rows]}; origins: Origins of
        the questions; rows: QuestionRows.
        """
        ends = np.cumsum(rows.num_tokens)
        begins = ends - rows.num_tokens
        start, end = outputs["start_logits"], outputs["end_logits"]
        answered = []
        for n, (_, text) in enumerate(origins.texts):
            first, last = rows.offsets[n : n + 2]
            best, windows = rows.best[first:last], []
            for row in rows.rows_of(n):
                begin = int(rows.windows.start[row])
                tokens = slice(begin, begin + int(rows.windows.count[row]))
                place = int(rows.num_question[row]) + rows.num_special - 1
                of_row = slice(begins[row], ends[row])
                has_most = best[tokens] == row
                windows.append(Scored(begin, place, has_most, start[of_row], end[of_row]))
            pieces = rows.pieces_of(n, self.vocab)
            words = np.array(origins.words[n], np.int64).reshape(-1, 2)
            context = Context(text, words, pieces, rows.word_of_piece(n))
            settings = self.n_best, self.max_tokens, self.may_be_unanswerable
            answered.append(answer(context, windows, rows.normalize, *settings))
        return answered

    def shorten(self, record):
        place = f"{record['start']}-{record['end']}" if record["start"] else "-"
        scores = f"{record['score']:.4f}", f"{record['margin']:.2f}"
        return [record["answer"] or "-", place, *scores]

    def rank(self, record):
        return not record["answer"], -record["margin"]

    def export_outputs(self, outputs):
        """{"start_logits", "end_logits": <float32>[B, T]}."""
        return dict(outputs)

    def decoder_settings(self, cfg):
        return {
            "window_stride": cfg.window_stride or DEFAULT_STRIDE,
            "max_query_length": cfg.longest_question,
            "n_best_size": self.n_best,
            "max_answer_length": self.max_tokens,
            "version_2_with_negative": self.may_be_unanswerable,
            "null_score_diff_threshold": self.threshold,
        }

    def onnx_outputs(self):
        """{"start_logits", "end_logits": [B, T]}."""
        return {f"{side}_logits": ["batch", "tokens"] for side in ("start", "end")}

    def write_onnx(self, graph):
        x = graph.pooler(graph.backbone(), self.head_activation)
        x = graph.add("MatMul", x, graph.weight("qa/kernel"))
        x = graph.add("Add", x, graph.weight("qa/bias"))  # [B, T, 2]
        for number, side in enumerate(("start", "end")):
            graph.add("Gather", x, np.array(number), axis=2, output=f"{side}_logits")

    def checkpoint_config(self):
        config = {"task": self.task}
        if self.threshold:
            config["null_threshold"] = self.threshold
        return config

    def restore(self, config):
        kept, given = config.get("null_threshold"), self.given_threshold
        self.threshold = float((kept or 0.0) if given is None else given)
        if not self.may_be_unanswerable or kept is None:
            return []
        is_other = self.threshold != kept
        instead = f" as given, in place of the checkpoint's {kept:.4f}" if is_other else ""
        return [f"null threshold {self.threshold:.4f}{instead}"]
