# SPDX-License-Identifier: Apache-2.0
"""The families of networks: what each changes in BERT's, as a row of data.

`common/backbones/backbone.py` has the one network that reads these rows, `common/tasks/` the heads,
`common/checkpoints/huggingface_families.py` the names of the weights in other programs.
docs/families.md says which checkpoints were tried, and how a family is added.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

BERT = "bert"
# Keys of ModelParams that networks with rotary positions have, and the published values.
ROTARY = {
    "global_attention_every": 3,
    "local_attention": 128,
    "global_rope_theta": 160_000.0,
    "local_rope_theta": 10_000.0,
}


@dataclass(frozen=True)
class Family:
    """What a family of networks has in place of BERT's.

    Attributes:
        title: str, its name in messages and documents.
        paper: str, where it is described.
        network: {key of ModelParams: value} that all its networks have.
        first_position: int, the row of the position table that the first token of a text takes.
        projects_sum: bool. Where embedding_size is not hidden_size, all tables have it, and a
            matrix with a bias leads from their normalised sum to hidden_size. Else one without bias
            leads there from the words, before positions and segments are added.
        shares_layers: bool. All encoder layers have the same weights.
        normalizes_embeddings: bool. The embeddings are normalised also where the encoder is
            pre-norm, and its first layer does not normalise them again.
        use_norm_bias: bool. Layer norms have an offset.
        is_gated: bool. What the feed-forward block expands is multiplied by a second expansion.
        is_rotary: bool. Queries and keys are turned by their places, and most layers attend within
            a window: the keys ROTARY of ModelParams.
        num_segments: int, rows of the segment table. With one row, every token takes it.
        head_activation: str, of the classifier's first dense layer.
        has_normalized_head: bool. A dense layer, activation and layer norm come before the last
            layer of every head, also of those for words.
        head_dropout_first: bool. The classifier's dropout comes before its first dense layer, too.
        has_next_sentence: bool. Pre-training has a next-sentence head.
    """

    title: str
    paper: str
    network: Mapping = field(default_factory=dict)
    first_position: int = 0
    num_segments: int = 2
    projects_sum: bool = False
    shares_layers: bool = False
    normalizes_embeddings: bool = False
    use_norm_bias: bool = True
    is_gated: bool = False
    is_rotary: bool = False
    head_activation: str = "tanh"
    has_normalized_head: bool = False
    head_dropout_first: bool = False
    has_next_sentence: bool = False


FAMILIES = {
    BERT: Family("BERT", "Devlin et al. 2019, arXiv:1810.04805", has_next_sentence=True),
    "roberta": Family(
        "RoBERTa",
        "Liu et al. 2019, arXiv:1907.11692",
        # fairseq numbers positions from pad_id + 1, and its pad_id is 1.
        first_position=2,
        num_segments=1,
        head_dropout_first=True,
    ),
    "distilbert": Family(
        "DistilBERT",
        "Sanh et al. 2019, arXiv:1910.01108",
        network={"use_segment_embedding": False},
        head_activation="relu",
    ),
    "electra": Family(
        "ELECTRA",
        "Clark et al. 2020, arXiv:2003.10555",
        projects_sum=True,
        head_activation="gelu_erf",
        head_dropout_first=True,
    ),
    "albert": Family(
        "ALBERT",
        "Lan et al. 2020, arXiv:1909.11942",
        projects_sum=True,
        shares_layers=True,
    ),
    "modernbert": Family(
        "ModernBERT",
        "Warner et al. 2024, arXiv:2412.13663",
        network={
            "use_segment_embedding": False,
            "use_position_embedding": False,
            "use_pre_normalization": True,
            "use_ffn_bias": False,
            "use_projection_bias_in_attention": False,
            "use_ffn_bias_in_attention": False,
            "use_ffn_bias_in_mlm": False,
        },
        normalizes_embeddings=True,
        use_norm_bias=False,
        is_gated=True,
        is_rotary=True,
        head_activation="gelu_erf",
        has_normalized_head=True,
    ),
}


def network_of(family, keys_of_task):
    """{key: value} of a Family that its networks have. keys_of_task: those that a task reads."""
    return {key: value for key, value in family.network.items() if key in keys_of_task}


def network_faults(model, keys_of_task):
    """Yields (key, text) of the values that a family cannot have.

    model: ModelParams. keys_of_task: those that its task reads.
    """
    family = model.family
    for key, value in network_of(family, keys_of_task).items():
        given = getattr(model, key)
        if given != value and key in model.model_fields_set:
            text = f"is {str(given).lower()}, and {family.title} has {str(value).lower()}"
            yield key, f"{text}; leave the key out"
    if family.is_rotary and model.hidden_size and model.num_heads and model.head_size % 2:
        text = f"is {model.num_heads}, which gives heads of {model.head_size}, an odd number"
        yield "num_heads", f"{text}; {family.title} turns pairs of it, so choose another divisor"
    if model.local_attention == 1:
        yield "local_attention", "is 1, a window without neighbours; write 2 or more"
    for name in model.freeze if family.shares_layers else ():
        if name.startswith("layers:"):
            text = f"names {name}, and the layers of {family.title} share their weights"
            yield "freeze", f"{text}; write encoder, for all of them"
