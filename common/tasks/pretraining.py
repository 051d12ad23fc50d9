# SPDX-License-Identifier: Apache-2.0
"""Pre-training: masked words, and whether the second text of a row follows the first.

Which tokens of a row are masked, `input/masking.py` decides. The task's keys stand in
`common/params/pretraining.py`.
"""

import keras
import numpy as np
from keras import ops

from common.backbones.backbone import make_backbone
from common.backbones.initializers import MASKED_LM, NEXT_SENTENCE, POOLER, FreshWeights
from common.BaseModel import PREDICT, TRAIN, BaseModel
from common.kernels.needed_tokens import SomeTokens, tokens_at
from common.layers.activations import ACTIVATIONS
from common.layers.masked_lm_head import MaskedLmHead
from common.losses import MaskedLmLoss, token_cross_entropy
from common.metrics.pretraining import NUM_BEST, PretrainingMetrics, masked_word_predictions
from common.tasks.answer import Answer
from common.tasks.targets import PretrainingTargets

MASKS = ("[MASK]", "<mask>")  # the second is that of RoBERTa's vocabulary


class PretrainingTask(BaseModel):
    """Backbone, the masked-word head on the tokens to predict, the next-sentence head on `[CLS]`.

    Devlin et al. 2019, section 3.1. Shapes: B rows, T tokens, P tokens to predict in each row,
    V vocabulary size. Packed, R long rows have the B short ones, and P tokens to predict each.

    Args:
        params: complete Params. With `model.disable_nsp` there is no next-sentence head.
        label_names: not used; `vocab` names the words.
    Call:
        features: as of `Backbone`, and `masked_lm_positions` <int32>[R, P], ascending, 0 on filler.
    Returns:
        logits of the masked words <float32>[R, P, V]; of the next sentence <float32>[B, 2]: it
        follows, it does not; None without that head.
    """

    targets = PretrainingTargets
    has_scores = True
    export_formats = (
        *("saved_model", "huggingface", "keras", "onnx", "tf1"),
        *("keras_source", "pytorch_source"),
    )
    served_features = ("input_ids",)
    loss_figures = ("train/cost", "train/cost_cls", "train/cost_masked_lm")
    needs_logits = False  # whether a loss besides the task's reads them in training

    def __init__(self, params, label_names=(), name="bert"):
        cfg = params.model
        backbone = make_backbone(cfg, params.dropout_seed or 0, params.runconfig.num_streams)
        super().__init__(backbone, params.predict_input, name=name, dtype=cfg.dtype_policy)
        del label_names
        self.task, self.label_names = params.task, ()
        self.frozen, self.has_nsp = cfg.freeze, not cfg.disable_nsp
        self.activations = cfg.mlm_activation, cfg.nsp_activation
        self.masked_lm_loss = MaskedLmLoss(cfg.mlm_loss_scaling)
        self.mlm_loss_weight = cfg.mlm_loss_weight

        def fresh(part):
            return FreshWeights(cfg.keras_initializer, cfg.weight_initialization_seed, part)

        self.mlm = MaskedLmHead(
            cfg.hidden_size,
            cfg.word_size,
            cfg.vocab_size,
            ACTIVATIONS[cfg.mlm_activation],
            cfg.layer_norm_epsilon,
            fresh(MASKED_LM),
            has_own_table=not cfg.share_embedding_weights,
            use_bias=cfg.use_ffn_bias_in_mlm,
            use_output_bias=cfg.use_output_bias_in_mlm,
            has_projection=not cfg.family.projects_sum,
            use_norm_bias=cfg.family.use_norm_bias,
            dtype=self.dtype_policy,
            name="mlm",
        )
        self.head = {"mlm": None}
        if not self.has_nsp:
            self.loss_figures = ("train/cost", "train/cost_masked_lm")
        else:
            self.head = {"pooler": None, "nsp": None, "mlm": None}
            self.pooler = keras.layers.Dense(
                cfg.hidden_size,
                ACTIVATIONS[cfg.nsp_activation].function,
                use_bias=cfg.use_nsp_bias,
                kernel_initializer=fresh(POOLER),
                dtype=self.dtype_policy,
                name="pooler",
            )
            # float32 under every policy: logits feed a softmax.
            self.nsp = keras.layers.Dense(
                2,
                use_bias=cfg.use_nsp_bias,
                kernel_initializer=fresh(NEXT_SENTENCE),
                dtype="float32",
                name="nsp",
            )

    def build(self, input_shape=None):
        del input_shape  # every shape follows from the params
        self.backbone.build()
        self.mlm.build()
        if self.has_nsp:
            self.pooler.build((None, self.backbone.hidden_size))
            self.nsp.build((None, self.backbone.hidden_size))
        self.freeze(self.frozen)
        self.built = True

    def all_dense(self):
        return [*self.encoder.all_dense(), *self.mlm.all_dense()]

    def vectors(self, features, training=False):
        """Returns the vectors of the first tokens <float>[B, D], None without the next-sentence
        head, and of the tokens to predict <float>[R * P, D]."""
        features = dict(features)
        positions = features.pop("masked_lm_positions")  # [R, P]
        if self.needs_all:
            return self._of_all(features, positions, training)
        rows = features.get("starts", features["input_ids"])
        needed = SomeTokens(positions, ops.shape(rows)[0] if self.has_nsp else None)
        return self.backbone(features, needed, training)[0]

    def _of_all(self, features, positions, training):
        """As `vectors`, of those of all tokens."""
        x, packed = self.backbone.in_long_rows(features, training=training)  # [R, T, D]
        flat = ops.reshape(x, (-1, x.shape[-1]))
        first = None
        if self.has_nsp:
            first = x[:, 0] if packed is None else ops.take(flat, features["starts"], axis=0)
        return first, ops.reshape(tokens_at(x, positions), (-1, x.shape[-1]))

    def call(self, features, training=False):
        first, masked = self.vectors(features, training)
        logits = self.mlm(masked, self.embeddings.word_embeddings)  # [R * P, V]
        shape = ops.shape(features["masked_lm_positions"])
        return ops.reshape(logits, (*shape, logits.shape[-1])), self._next_sentence(first)

    def _next_sentence(self, first):
        return None if first is None else self.nsp(self.pooler(first))  # <float32>[B, 2]

    def build_model(self, features, mode):
        """features: the documented ones, and `masked_lm_positions`.

        Returns {"mlm_logits": <float32>[R, P, V], "nsp_logits": <float32>[B, 2]}, the second with
        the head alone. In training also "num_rows" <float32>[], and in place of the first, whose
        size is that of V, "mlm_vectors" <float>[R * P, E] and "mlm_table" [V, E], whose product
        they are. In prediction the NUM_BEST likeliest words in place of the first:
        "token_ids" <int32>[R, P, N], "probabilities" <float32>[R, P, N], and "positions"
        <int32>[R, P].
        """
        rows = features.get("starts", features["input_ids"])
        positions, features = features["masked_lm_positions"], self.network_features(features)
        if mode == TRAIN and keras.backend.backend() == "tensorflow" and not self.needs_logits:
            outputs, nsp = self._in_training(features)
        else:
            logits, nsp = self(features, training=mode == TRAIN)
            outputs = {"mlm_logits": logits}
        if nsp is not None:
            outputs["nsp_logits"] = nsp
        if mode == PREDICT:
            probabilities, ids = ops.top_k(ops.softmax(logits), min(NUM_BEST, logits.shape[-1]))
            del outputs["mlm_logits"]
            return outputs | {
                "token_ids": ids,
                "probabilities": probabilities,
                "positions": positions,
            }
        if mode == TRAIN:
            outputs["num_rows"] = ops.cast(ops.shape(rows)[0], "float32")
        return outputs

    def _in_training(self, features):
        from common.kernels.vocabulary import share_table  # other backends lack it

        if self.mlm.has_own_table:
            first, masked = self.vectors(features, training=True)
            table = self.mlm.output_embeddings
        elif not self.embeddings.trainable:  # frozen: the table has no gradient, in neither use
            first, masked = self.vectors(features, training=True)
            table = self.embeddings.word_embeddings
        else:
            with share_table(self.embeddings) as shared:
                first, masked = self.vectors(features, training=True)
            table = shared.predicting
        vectors = {"mlm_vectors": self.mlm.vectors(masked), "mlm_table": table}
        return vectors, self._next_sentence(first)

    def _word_losses(self, outputs, ids):
        """Returns the cross entropy of each word, <float32>[R, P]."""
        if "mlm_logits" in outputs:
            return token_cross_entropy(outputs["mlm_logits"], ids)
        from common.kernels.vocabulary import word_losses

        losses = word_losses(
            outputs["mlm_vectors"],
            outputs["mlm_table"],
            self.mlm.output_bias,
            ops.reshape(ids, (-1,)),
            self.backbone.layer_stack.num_streams,
        )
        return ops.reshape(losses, ops.shape(ids))

    def prepare_training(self, targets, token_counts=None):
        """Computes what the loss is to be compared with; see BaseModel."""
        if token_counts is None or not np.any(token_counts):
            return []
        shares = token_counts[token_counts > 0] / token_counts.sum(dtype=np.float64)
        self.baselines = {"unigram": float(-(shares * np.log(shares)).sum())}
        return [
            f"Masked words have a loss of {np.log(len(token_counts)):.2f} where nothing is known, "
            f"and of {self.baselines['unigram']:.2f} where only the frequency of each token is "
            "(unigram): a loss that stays there has learned no context"
        ]

    def build_losses(self, outputs, targets):
        """As the original's: that of masked words times mlm_loss_weight, plus the mean
        cross entropy of the next sentence.

        targets: {"masked_lm_ids" <int32>[R, P], "masked_lm_weights" <float32>[R, P], 1 on tokens to
        predict, 0 on filler; "next_sentence_labels" <int32>[B], 1: the second text is another}.
        """
        losses = self._word_losses(outputs, targets["masked_lm_ids"])
        masked = self.mlm_loss_weight * self.masked_lm_loss(
            losses, targets["masked_lm_weights"], outputs.get("num_rows")
        )
        if not self.has_nsp:
            return [masked, masked]
        labels = targets["next_sentence_labels"]
        next_sentence = ops.mean(token_cross_entropy(outputs["nsp_logits"], labels))
        return [masked + next_sentence, next_sentence, masked]

    def build_total_loss(self, outputs, targets):
        return self.build_losses(outputs, targets)[0]

    def build_train_ops(self, total_loss):
        del total_loss  # it depends on every weight that is not frozen
        return self.trainable_weights

    def build_scores(self, outputs, targets):
        """{"mlm_loss" <float32>[R, P], "mlm_correct" <float32>[R, P], and with the head "nsp_loss"
        and "nsp_correct" <float32>[B]} of every token to predict and row."""
        logits, ids = outputs["mlm_logits"], targets["masked_lm_ids"]
        scores = {"mlm_loss": token_cross_entropy(logits, ids), "mlm_correct": is_best(logits, ids)}
        if self.has_nsp:
            logits, labels = outputs["nsp_logits"], targets["next_sentence_labels"]
            scores["nsp_loss"] = token_cross_entropy(logits, labels)
            scores["nsp_correct"] = is_best(logits, labels)
        return scores

    def build_eval_metric_ops(self):
        return PretrainingMetrics(self.has_nsp, self.mlm_loss_weight)

    @property
    def described(self):
        if not self.has_nsp:
            return "BERT with the head of masked words"
        return (
            "BERT with both heads of pre-training; to do without that of the next sentence, write "
            "model.disable_nsp: true"
        )

    @property
    def answer(self):
        return masked_words(self.has_nsp, next((m for m in MASKS if m in self.vocab), MASKS[0]))

    def answers(self, features):
        """Returns what a server answers, of every token, special ones and padding too.

        tokens: <string>[B, T, N], the NUM_BEST likeliest words; probabilities: <float32>[B, T, N];
        with the next-sentence head is_next: <float32>[B], the probability that it follows.
        """
        features = self.network_features(features)
        x, _ = self.backbone.in_long_rows(features)  # [B, T, D]
        shape = ops.shape(x)
        logits = self.mlm(ops.reshape(x, (-1, shape[-1])), self.embeddings.word_embeddings)
        # Rows that only fill up the table (`vocab_size_multiple`) stand for no word.
        of_words = ops.softmax(logits)[:, : len(self.vocab)]
        found = ops.top_k(of_words, min(NUM_BEST, of_words.shape[-1]))  # [B * T, N]
        probabilities, ids = (ops.reshape(each, (*shape[:2], each.shape[-1])) for each in found)
        names = ops.convert_to_tensor(list(self.vocab))  # [V]
        answers = {"tokens": ops.take(names, ids, axis=0), "probabilities": probabilities}
        if self.has_nsp:
            answers["is_next"] = ops.softmax(self._next_sentence(x[:, 0]))[:, 0]
        return answers

    def onnx_outputs(self):
        """{"logits": [B, T, V] of every token, and "nsp_logits": [B, 2] with that head}."""
        outputs = {"logits": ["batch", "tokens", self.mlm.sizes[-1]]}
        return outputs | ({"nsp_logits": ["batch", 2]} if self.has_nsp else {})

    def write_onnx(self, graph):
        of_words, of_pair = self.activations
        encoded = x = graph.backbone()  # [B, T, D]
        if self.mlm.projection is not None:
            x = graph.dense(x, "mlm/projection")
        x = graph.layer_norm(
            graph.activation(of_words, graph.dense(x, "mlm/transform")), "mlm/layer_norm"
        )
        is_own = self.mlm.has_own_table
        table = "mlm/output_embeddings" if is_own else "embeddings/word_embeddings"
        x = graph.add("MatMul", x, graph.add("Transpose", graph.weight(table), perm=(1, 0)))
        if self.mlm.use_output_bias:
            x = graph.add("Add", x, graph.weight("mlm/output_bias"))
        graph.add("Identity", x, output="logits")
        if self.has_nsp:
            first = graph.add("Squeeze", graph.first_token(encoded), np.array([1]))  # [B, D]
            first = graph.activation(of_pair, graph.dense(first, "pooler"))
            graph.add("Identity", graph.dense(first, "nsp"), output="nsp_logits")

    def checkpoint_config(self):
        return {"task": self.task}

    def predictions(self, outputs, origins=None):
        return masked_word_predictions(outputs, self.vocab)

    def shorten(self, record):
        return [text for text in record.values() if text]


def masked_words(has_nsp, mask):
    """Returns the Answer of pre-training: the words for each [MASK], which is called mask."""
    logits = "prediction_logits" if has_nsp else "logits"
    reading = f"""best = model(**rows).{logits}[0].topk({NUM_BEST}).indices
for words, token in zip(best, rows["input_ids"][0]):
    if token == tokenizer.mask_token_id:
        print(tokenizer.convert_ids_to_tokens(words.tolist()))"""
    in_ids = f"""best = (-logits[0]).argsort()[:, :{NUM_BEST}]
for words, token in zip(best, features["input_ids"][0]):
    if tokenizer.id_to_token(int(token)) == "{mask}":
        print([tokenizer.id_to_token(int(word)) for word in words])"""
    served = """for words, token in zip(result["tokens"][0], result["input_ids"][0]):
    print(int(token), [word.decode() for word in words.numpy()])"""
    return Answer(
        kind="masked language model",
        description=f"for each {mask}, every entry of the vocabulary"
        + ("; and whether the second text follows the first" if has_nsp else ""),
        architecture="BertForPreTraining" if has_nsp else "BertForMaskedLM",
        problem_type=None,
        probabilities=None,
        served=("tokens", "probabilities", *(["is_next"] if has_nsp else [])),
        reading={"huggingface": reading, "ids": in_ids, "saved_model": served},
        made="Pre-trained",
        pipeline_tag="fill-mask",
        example=(f"the film was {mask} .",),
    )


def is_best(logits, ids):
    """<float>[..., V], <int32>[...] -> <float32>[...], 1 where the largest logit is the id's."""
    best = ops.cast(ops.argmax(logits, axis=-1), ids.dtype)
    return ops.cast(ops.equal(best, ids), "float32")
