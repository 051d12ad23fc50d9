# SPDX-License-Identifier: Apache-2.0
"""The families of networks as transformers knows them: names of weights, keys of config.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.checkpoints.names import names_within, neutral_in
from common.checkpoints.standard_bert import CONFIG_KEYS, MODULES
from common.params.families import BERT

PARTS = ("weight", "bias")
WORDS = "embeddings/word_embeddings"


@dataclass(frozen=True)
class HuggingFaceFamily:
    """A family in transformers. `model_type` is its name here, too.

    Attributes:
        model_type: str, of config.json.
        class_prefix: str, how the names of its classes begin.
        prefix: str, what a model with a head puts before the names of the backbone.
        names: {name of a tensor: neutral name}.
        config_keys: {key of config.json: key of ModelParams}.
        activation_key: str, of config.json.
        activation: str, where config.json has no such key.
        epsilon_key: str or None, of config.json; None where its programs have 1e-12 in the code.
        dropout_keys: the keys of config.json for dropout, attention and head, the last of them
            each.
        mlm_biases: names of the bias of masked words, and of the decoder's, which is used where a
            file has both; None where there is only one.
        row_classifier: name of the last layer of a classifier of rows.
        config: {key of config.json: value} that all its files have.
        only: likewise, where another value is another network.
        fused: {name of a tensor: neutral names of its parts}, one below the other.
        shared: {name of a tensor: second neutral name}, in files with a head of masked words.
        poolings: {value of classifier_pooling: model.pooler_type}; empty: there is no such key.
    """

    model_type: str
    class_prefix: str
    prefix: str
    names: Mapping
    config_keys: Mapping
    mlm_biases: tuple
    dropout_keys: tuple = (
        ("hidden_dropout_prob",),
        ("attention_probs_dropout_prob",),
        ("classifier_dropout",),
    )
    activation_key: str = "hidden_act"
    activation: str = "gelu"
    epsilon_key: str | None = "layer_norm_eps"
    row_classifier: str = "classifier"
    config: Mapping = field(default_factory=dict)
    only: Mapping = field(default_factory=dict)
    fused: Mapping = field(default_factory=dict)
    shared: Mapping = field(default_factory=dict)
    poolings: Mapping = field(default_factory=dict)

    def neutral_name(self, name):
        """Neutral name of a tensor, or None, also where it lacks the prefix of the backbone."""
        # gamma and beta: in files converted from TensorFlow before 2019.
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        name = name.replace("LayerNorm.beta", "LayerNorm.bias")
        return neutral_in(self.names, name) or neutral_in(self.names, self.prefix + name)

    def neutral_parts(self, name):
        """Neutral names of the parts of a fused tensor; () for another one."""
        for foreign, parts in self.fused.items():
            found = [
                neutral_in({foreign: part}, name) or neutral_in({foreign: part}, self.prefix + name)
                for part in parts
            ]
            if found[0] is not None:
                return tuple(found)
        return ()

    def foreign_names(self, has_pooler=True):
        """{neutral name: name of a tensor}. has_pooler: bool, of the network to write: a classifier
        of words has none, and may have another name."""
        names = {weight: name for name, weight in (*self.names.items(), *self.shared.items())}
        module = self.row_classifier if has_pooler else "classifier"
        return names | {
            f"classifier/{ours}": f"{module}.{part}"
            for part, ours in zip(PARTS, ("kernel", "bias"), strict=True)
        }

    def architecture(self, of_bert):
        """The name of the class that stands for BERT's in this family."""
        return of_bert.replace("Bert", self.class_prefix, 1)


def bert_names(prefix, heads, tables, without=()):
    """The names of a family whose backbone has BERT's modules.

    heads: {module: neutral module}. tables: {name: neutral name} of weights outside modules.
    without: neutral modules that it lacks.
    """
    modules = {
        name.replace("bert/", prefix).replace("/layer_", "/layer/").replace("/", "."): ours
        for name, ours in MODULES.items()
        if name.startswith("bert/") and ours not in without
    }
    embeddings = {
        f"{prefix}embeddings.word_embeddings.weight": WORDS,
        f"{prefix}embeddings.position_embeddings.weight": "embeddings/position_embeddings",
        f"{prefix}embeddings.token_type_embeddings.weight": "embeddings/segment_embeddings",
    }
    return embeddings | tables | names_within(modules | heads, ".", PARTS)


# The word embeddings once more, unless tie_word_embeddings is false.
OWN_TABLE = "mlm/output_embeddings"

DISTILBERT_LAYER = {
    "attention.q_lin": "attention/query",
    "attention.k_lin": "attention/key",
    "attention.v_lin": "attention/value",
    "attention.out_lin": "attention/output",
    "sa_layer_norm": "attention_layer_norm",
    "ffn.lin1": "feed_forward/expand",
    "ffn.lin2": "feed_forward/project",
    "output_layer_norm": "feed_forward_layer_norm",
}

ALBERT_GROUP = "albert.encoder.albert_layer_groups.0.albert_layers.{i}"
ALBERT_LAYER = {
    "attention.query": "attention/query",
    "attention.key": "attention/key",
    "attention.value": "attention/value",
    "attention.dense": "attention/output",
    "attention.LayerNorm": "attention_layer_norm",
    "ffn": "feed_forward/expand",
    "ffn_output": "feed_forward/project",
    "full_layer_layer_norm": "feed_forward_layer_norm",
}
MODERN_LAYER, LAYER = "model.layers.{i}", "encoder/layer_{i}"
NO_BIASES = {
    "attention_bias": False,
    "mlp_bias": False,
    "norm_bias": False,
    "classifier_bias": False,
    "decoder_bias": True,
    "classifier_activation": "gelu",
}
ONE_GROUP = {"num_hidden_groups": 1, "inner_group_num": 1}

HUGGINGFACE_FAMILIES = {
    each.model_type: each
    for each in (
        HuggingFaceFamily(
            BERT,
            "Bert",
            "bert.",
            bert_names(
                "bert.",
                {
                    "cls.predictions.transform.dense": "mlm/transform",
                    "cls.predictions.transform.LayerNorm": "mlm/layer_norm",
                    "classifier": "classifier",
                    "cls.seq_relationship": "nsp",
                    "qa_outputs": "qa",
                },
                {
                    "cls.predictions.bias": "mlm/output_bias",
                    "cls.predictions.decoder.weight": OWN_TABLE,
                },
            ),
            CONFIG_KEYS,
            ("cls.predictions.bias", "cls.predictions.decoder.bias"),
            config={"type_vocab_size": 2},
        ),
        HuggingFaceFamily(
            "roberta",
            "Roberta",
            "roberta.",
            bert_names(
                "roberta.",
                {
                    # Its classifier does not use the pooler of a RobertaModel, which is not
                    # pre-trained.
                    "classifier.dense": "pooler",
                    "classifier.out_proj": "classifier",
                    "classifier": "classifier",  # of words
                    "qa_outputs": "qa",
                    "lm_head.dense": "mlm/transform",
                    "lm_head.layer_norm": "mlm/layer_norm",
                },
                {"lm_head.bias": "mlm/output_bias", "lm_head.decoder.weight": OWN_TABLE},
                without=("pooler",),
            ),
            CONFIG_KEYS,
            ("lm_head.bias", "lm_head.decoder.bias"),
            row_classifier="classifier.out_proj",
            config={"type_vocab_size": 1},
        ),
        HuggingFaceFamily(
            "distilbert",
            "DistilBert",
            "distilbert.",
            {
                "distilbert.embeddings.word_embeddings.weight": WORDS,
                "distilbert.embeddings.position_embeddings.weight": "embeddings/"
                "position_embeddings",
                "vocab_projector.bias": "mlm/output_bias",
                "vocab_projector.weight": OWN_TABLE,
            }
            | names_within(
                {
                    "distilbert.embeddings.LayerNorm": "embeddings/layer_norm",
                    "pre_classifier": "pooler",
                    "classifier": "classifier",
                    "qa_outputs": "qa",
                    "vocab_transform": "mlm/transform",
                    "vocab_layer_norm": "mlm/layer_norm",
                }
                | {
                    f"distilbert.transformer.layer.{{i}}.{name}": f"encoder/layer_{{i}}/{ours}"
                    for name, ours in DISTILBERT_LAYER.items()
                },
                ".",
                PARTS,
            ),
            {
                "dim": "hidden_size",
                "n_layers": "num_hidden_layers",
                "n_heads": "num_heads",
                "hidden_dim": "filter_size",
                "max_position_embeddings": "max_position_embeddings",
                "vocab_size": "vocab_size",
            },
            ("vocab_projector.bias", None),
            dropout_keys=(
                ("dropout",),
                ("attention_dropout",),
                ("seq_classif_dropout", "qa_dropout"),
            ),
            activation_key="activation",
            epsilon_key=None,
            config={"sinusoidal_pos_embds": False},
        ),
        HuggingFaceFamily(
            "electra",
            "Electra",
            "electra.",
            bert_names(
                "electra.",
                {
                    "electra.embeddings_project": "embeddings/projection",
                    "classifier.dense": "pooler",
                    "classifier.out_proj": "classifier",
                    "classifier": "classifier",  # of words
                    "qa_outputs": "qa",
                    "generator_predictions.dense": "mlm/transform",
                    "generator_predictions.LayerNorm": "mlm/layer_norm",
                    "discriminator_predictions.dense": "discriminator/transform",
                    "discriminator_predictions.dense_prediction": "discriminator/output",
                },
                {
                    "generator_lm_head.bias": "mlm/output_bias",
                    "generator_lm_head.weight": OWN_TABLE,
                },
                without=("pooler",),
            ),
            {**CONFIG_KEYS, "embedding_size": "embedding_size"},
            ("generator_lm_head.bias", None),
            row_classifier="classifier.out_proj",
            config={"type_vocab_size": 2},
        ),
        HuggingFaceFamily(
            "albert",
            "Albert",
            "albert.",
            {
                "albert.embeddings.word_embeddings.weight": WORDS,
                "albert.embeddings.position_embeddings.weight": "embeddings/position_embeddings",
                "albert.embeddings.token_type_embeddings.weight": "embeddings/segment_embeddings",
                "predictions.bias": "mlm/output_bias",
                "predictions.decoder.weight": OWN_TABLE,
            }
            | names_within(
                {
                    "albert.embeddings.LayerNorm": "embeddings/layer_norm",
                    "albert.encoder.embedding_hidden_mapping_in": "embeddings/projection",
                    "albert.pooler": "pooler",
                    "classifier": "classifier",
                    "qa_outputs": "qa",
                    "predictions.dense": "mlm/transform",
                    "predictions.LayerNorm": "mlm/layer_norm",
                }
                | {
                    f"{ALBERT_GROUP}.{name}": f"encoder/layer_{{i}}/{ours}"
                    for name, ours in ALBERT_LAYER.items()
                },
                ".",
                PARTS,
            ),
            {**CONFIG_KEYS, "embedding_size": "embedding_size"},
            ("predictions.bias", "predictions.decoder.bias"),
            dropout_keys=(
                ("hidden_dropout_prob",),
                ("attention_probs_dropout_prob",),
                ("classifier_dropout_prob",),
            ),
            activation="gelu_new",
            config={"type_vocab_size": 2} | ONE_GROUP,
            only=ONE_GROUP,
        ),
        HuggingFaceFamily(
            "modernbert",
            "ModernBert",
            "model.",
            {
                "model.embeddings.tok_embeddings.weight": WORDS,
                "model.embeddings.norm.weight": "embeddings/layer_norm/gamma",
                f"{MODERN_LAYER}.attn_norm.weight": f"{LAYER}/attention_layer_norm/gamma",
                f"{MODERN_LAYER}.attn.Wo.weight": f"{LAYER}/attention/output/kernel",
                f"{MODERN_LAYER}.mlp_norm.weight": f"{LAYER}/feed_forward_layer_norm/gamma",
                f"{MODERN_LAYER}.mlp.Wo.weight": f"{LAYER}/feed_forward/project/kernel",
                "model.final_norm.weight": "encoder/final_layer_norm/gamma",
                "head.dense.weight": "pooler/kernel",
                "head.norm.weight": "pooler/layer_norm/gamma",
                "decoder.weight": OWN_TABLE,
                "decoder.bias": "mlm/output_bias",
            }
            | names_within({"classifier": "classifier"}, ".", PARTS),
            {
                **CONFIG_KEYS,
                "global_attn_every_n_layers": "global_attention_every",
                "local_attention": "local_attention",
                "global_rope_theta": "global_rope_theta",
                "local_rope_theta": "local_rope_theta",
            },
            ("decoder.bias", None),
            dropout_keys=(
                ("embedding_dropout", "mlp_dropout"),
                ("attention_dropout",),
                ("classifier_dropout",),
            ),
            activation_key="hidden_activation",
            epsilon_key="norm_eps",
            config=NO_BIASES,
            only=NO_BIASES,
            fused={
                f"{MODERN_LAYER}.attn.Wqkv.weight": tuple(
                    f"{LAYER}/attention/{name}/kernel" for name in ("query", "key", "value")
                ),
                f"{MODERN_LAYER}.mlp.Wi.weight": tuple(
                    f"{LAYER}/feed_forward/{name}/kernel" for name in ("expand", "gate")
                ),
            },
            shared={
                "head.dense.weight": "mlm/transform/kernel",
                "head.norm.weight": "mlm/layer_norm/gamma",
            },
            poolings={"cls": "first", "mean": "mean"},
        ),
    )
}

# {model_type: that of the row with the same network}; their vocabularies are unigram.
OTHER_NAMES = {"xlm-roberta": "roberta", "camembert": "roberta"}


def family_of_type(model_type):
    """The HuggingFaceFamily of the model_type of a config.json, any value; None if unknown."""
    if not isinstance(model_type, str):
        return None
    return HUGGINGFACE_FAMILIES.get(OTHER_NAMES.get(model_type, model_type))


def family_of_names(names):
    """The HuggingFaceFamily that names of tensors begin with; BERT's where none is known."""
    prefixes = {name.partition(".")[0] + "." for name in names}
    found = (each for each in HUGGINGFACE_FAMILIES.values() if each.prefix in prefixes)
    return next(found, HUGGINGFACE_FAMILIES[BERT])
