# SPDX-License-Identifier: Apache-2.0
"""ELECTRA's discriminator: which tokens of a row were replaced by others.

Clark et al. 2020, arXiv:2003.10555, section 2: `task: pretraining` with
`model.pretraining_objective: replaced_tokens`. The paper's replacements are drawn from a generator
that is trained beside it; here they are the random tokens of `input/masking.py`.
"""

from typing import ClassVar

from keras import ops

from common.backbones.backbone import make_backbone
from common.backbones.initializers import DISCRIMINATOR, FreshWeights
from common.BaseModel import PREDICT, TRAIN, BaseModel
from common.layers.activations import ACTIVATIONS
from common.layers.replaced_tokens_head import ReplacedTokensHead
from common.metrics.replaced_tokens import ReplacedTokensMetrics
from common.tasks.answer import Answer
from common.tasks.targets import PretrainingTargets

READING = """for token, logit in zip(rows["input_ids"][0], model(**rows).logits[0]):
    print(tokenizer.convert_ids_to_tokens(token.item()), f"{logit.sigmoid().item():.4f}")"""


class ReplacedTokensTask(BaseModel):
    """Backbone, dense, activation, dense(1) on every token.

    Shapes: R rows of T tokens, P tokens of each that masking chose.

    Args:
        params: complete Params. label_names: not used; `vocab` names the words.
    Call:
        features: as of `Backbone`. Returns logits, <float32>[R, T].
    """

    targets = PretrainingTargets
    has_scores = True
    export_formats = ("huggingface",)
    loss_figures = ("train/cost",)
    head: ClassVar = {"discriminator": None}
    label_names = ()

    def __init__(self, params, label_names=(), name="bert"):
        cfg = params.model
        backbone = make_backbone(cfg, params.dropout_seed or 0, params.runconfig.num_streams)
        super().__init__(backbone, params.predict_input, name=name, dtype=cfg.dtype_policy)
        del label_names
        self.task, self.frozen = params.task, cfg.freeze
        self.discriminator = ReplacedTokensHead(
            cfg.hidden_size,
            ACTIVATIONS[cfg.encoder_nonlinearity].function,
            FreshWeights(cfg.keras_initializer, cfg.weight_initialization_seed, DISCRIMINATOR),
            dtype=self.dtype_policy,
            name="discriminator",
        )

    def build(self, input_shape=None):
        del input_shape  # every shape follows from the params
        self.backbone.build()
        self.discriminator.build()
        self.freeze(self.frozen)
        self.built = True

    def call(self, features, training=False):
        x, _ = self.backbone.in_long_rows(features, training=training)  # [R, T, D]
        return self.discriminator(x)  # <float32>[R, T]

    def build_model(self, features, mode):
        """features: the documented ones, and outside prediction `masked_lm_positions`.

        Returns {"logits": <float32>[R, T], "is_token": <float32>[R, T], 1 on tokens,
        "positions", "words": <int32>[R, P], where masking chose a token, and what is there}; in
        prediction {"replaced": <float32>[R, T], the probability, "is_token", "input_ids"}.
        """
        features = dict(features)
        positions, ids = features.pop("masked_lm_positions", None), features["input_ids"]
        features = self.network_features(features)
        logits = self(features, training=mode == TRAIN)
        is_token = ops.cast(features["padding_mask"], "float32")
        if mode == PREDICT:
            return {"replaced": ops.sigmoid(logits), "is_token": is_token, "input_ids": ids}
        words = ops.take_along_axis(ids, positions, axis=1)
        return {"logits": logits, "is_token": is_token, "positions": positions, "words": words}

    def replaced(self, outputs, targets):
        """Returns <float32>[R, T], 1 where another word stands. A token that was replaced by itself
        is none, as in the paper."""
        is_other = ops.not_equal(outputs["words"], targets["masked_lm_ids"])
        is_other = ops.cast(is_other, "float32") * targets["masked_lm_weights"]  # [R, P]
        place = ops.arange(ops.shape(outputs["logits"])[1], dtype="int32")
        positions = ops.cast(ops.expand_dims(outputs["positions"], -1), "int32")
        is_place = ops.cast(ops.equal(positions, place), "float32")  # [R, P, T]
        return ops.max(is_place * ops.expand_dims(is_other, -1), axis=1)

    def token_losses(self, outputs, replaced):
        """Returns <float32>[R, T], the cross entropy of each token, 0 on padding."""
        losses = ops.binary_crossentropy(replaced, outputs["logits"], from_logits=True)
        return losses * outputs["is_token"]

    def build_total_loss(self, outputs, targets):
        """The mean over the tokens of the batch, special ones too.

        targets: {"masked_lm_ids" <int32>[R, P], what stood there; "masked_lm_weights"
        <float32>[R, P], 1 on those that masking chose and 0 on filler}.
        """
        losses = self.token_losses(outputs, self.replaced(outputs, targets))
        return ops.sum(losses) / ops.maximum(ops.sum(outputs["is_token"]), 1.0)

    def build_train_ops(self, total_loss):
        del total_loss  # it depends on every weight that is not frozen
        return self.trainable_weights

    def build_scores(self, outputs, targets):
        """{"losses", "replaced", "logits", "is_token": <float32>[R, T]}."""
        replaced = self.replaced(outputs, targets)
        losses = self.token_losses(outputs, replaced)
        of_network = {name: outputs[name] for name in ("logits", "is_token")}
        return {"losses": losses, "replaced": replaced, **of_network}

    def build_eval_metric_ops(self):
        return ReplacedTokensMetrics()

    def predictions(self, outputs, origins=None):
        """The tokens that are more likely another one's replacement, each with its probability."""
        records = []
        arrays = (outputs[name] for name in ("replaced", "is_token", "input_ids"))
        for probabilities, is_token, ids in zip(*arrays, strict=True):
            found = (probabilities > 0.5) & (is_token > 0)
            pairs = zip(ids[found].tolist(), probabilities[found].tolist(), strict=True)
            records.append({"replaced": " ".join(f"{self.vocab[i]}:{p:.4f}" for i, p in pairs)})
        return records

    def shorten(self, record):
        return [record["replaced"] or "-"]

    @property
    def described(self):
        return "discriminator, which tells replaced tokens"

    @property
    def answer(self):
        return Answer(
            kind="discriminator",
            description="for each token, whether another word stood in its place",
            architecture="BertForPreTraining",
            problem_type=None,
            probabilities=None,
            served=(),
            reading={"huggingface": READING},
            made="Pre-trained",
            pipeline_tag="feature-extraction",
            example=("the film was a good film .",),
        )

    def checkpoint_config(self):
        return {"task": self.task}
