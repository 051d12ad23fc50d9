# SPDX-License-Identifier: Apache-2.0
"""The families of networks in Google's TF1 programs: names of variables, files beside them.

google-research/bert and albert (`modeling.py`, `run_classifier.py`, `run_squad_v1.py`), and
google-research/electra. Files of the hub of TensorFlow have `module/` before each name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.checkpoints.names import names_within, neutral_in
from common.checkpoints.standard_bert import CONFIG_KEYS, MODULES
from common.params.families import BERT

HUB = "module/"
MASKED_WORDS = {
    "cls/predictions/output_bias": "mlm/output_bias",
    "cls/seq_relationship/output_weights": "nsp/kernel",
    "cls/seq_relationship/output_bias": "nsp/bias",
}
# Of run_classifier.py, without a scope.
CLASSIFIER = {
    "output_weights": "classifier/kernel",
    "output_bias": "classifier/bias",
}
QUESTIONS = {"cls/squad/output_weights": "qa/kernel", "cls/squad/output_bias": "qa/bias"}


@dataclass(frozen=True)
class GoogleFamily:
    """A family in a TF1 program.

    Attributes:
        names: {name of a variable: neutral name}.
        sign: str, how the name of a variable begins that no other family has.
        config_file: str, beside the checkpoint.
        config_keys: {key of that file: key of ModelParams}.
        gelu: the form that its "gelu" computes.
        head_size: int, width of a head where there is no config file, as published; or None.
        vocab: str, pattern of the name of its vocabulary, where it is not vocab.txt.
    """

    names: Mapping
    sign: str
    config_file: str
    config_keys: Mapping = field(default_factory=lambda: CONFIG_KEYS)
    gelu: str = "gelu_tanh"
    head_size: int | None = None
    vocab: str | None = None


def tables(scope):
    """The names of the embedding tables. scope: of the program's network."""
    return {
        f"{scope}/embeddings/word_embeddings": "embeddings/word_embeddings",
        f"{scope}/embeddings/position_embeddings": "embeddings/position_embeddings",
        f"{scope}/embeddings/token_type_embeddings": "embeddings/segment_embeddings",
    }


GROUP = "bert/encoder/transformer/group_0/inner_group_0"
ALBERT_MODULES = {
    "bert/embeddings/LayerNorm": "embeddings/layer_norm",
    "bert/encoder/embedding_hidden_mapping_in": "embeddings/projection",
    f"{GROUP}/attention_1/self/query": "encoder/layer_0/attention/query",
    f"{GROUP}/attention_1/self/key": "encoder/layer_0/attention/key",
    f"{GROUP}/attention_1/self/value": "encoder/layer_0/attention/value",
    f"{GROUP}/attention_1/output/dense": "encoder/layer_0/attention/output",
    f"{GROUP}/LayerNorm": "encoder/layer_0/attention_layer_norm",
    f"{GROUP}/ffn_1/intermediate/dense": "encoder/layer_0/feed_forward/expand",
    f"{GROUP}/ffn_1/intermediate/output/dense": "encoder/layer_0/feed_forward/project",
    f"{GROUP}/LayerNorm_1": "encoder/layer_0/feed_forward_layer_norm",
    "bert/pooler/dense": "pooler",
    "cls/predictions/transform/dense": "mlm/transform",
    "cls/predictions/transform/LayerNorm": "mlm/layer_norm",
}
# The generator's own network, in the same file, has no neutral names.
ELECTRA_MODULES = {
    name.replace("bert/", "electra/"): ours
    for name, ours in MODULES.items()
    if name.startswith("bert/") and ours != "pooler"
} | {
    "electra/embeddings_project": "embeddings/projection",
    "discriminator_predictions/dense": "discriminator/transform",
    "discriminator_predictions/dense_1": "discriminator/output",
}

GOOGLE_FAMILIES = {
    "albert": GoogleFamily(
        tables("bert") | MASKED_WORDS | CLASSIFIER | names_within(ALBERT_MODULES, "/"),
        "bert/encoder/transformer/",
        "albert_config.json",
        {**CONFIG_KEYS, "embedding_size": "embedding_size"},
        vocab="*.model",
    ),
    "electra": GoogleFamily(
        tables("electra") | names_within(ELECTRA_MODULES, "/"),
        "electra/",
        "electra_config.json",
        {**CONFIG_KEYS, "embedding_size": "embedding_size"},
        gelu="gelu_erf",
        head_size=64,
    ),
    BERT: GoogleFamily(
        tables("bert") | MASKED_WORDS | CLASSIFIER | QUESTIONS | names_within(MODULES, "/"),
        "",
        "bert_config.json",
    ),
}


def family_of_variables(names):
    """The key of GOOGLE_FAMILIES that names of variables belong to."""
    names = [name.removeprefix(HUB) for name in names]
    return next(
        family
        for family, row in GOOGLE_FAMILIES.items()
        if not row.sign or any(name.startswith(row.sign) for name in names)
    )


def neutral_name(name, names=()):
    """Neutral name of a variable, or None. names: of all variables of its file; none: BERT's."""
    return neutral_in(GOOGLE_FAMILIES[family_of_variables(names)].names, name.removeprefix(HUB))
