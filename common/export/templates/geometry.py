# SPDX-License-Identifier: Apache-2.0
"""What the code of a source export asks: here of BERT-base with two classes.

`common/export/source.py` writes the values of a network in place of these, decides by them, and
leaves out what is then not asked.
"""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent  # the weights, the tokenizer and the labels are beside this file


@dataclass(frozen=True)
class Geometry:
    """The sizes and settings of the network. A capital letter names a size in comments on shapes.

    B is the number of rows of a batch, T that of their tokens.
    """

    vocab_size: int = 30522  # V
    hidden_size: int = 768  # D, the width of the vectors between layers
    embedding_size: int = 768  # E, the width of the embeddings
    is_factorized: bool = False
    projects_sum: bool = False
    num_hidden_layers: int = 12
    shares_layers: bool = False
    num_heads: int = 12  # H, each of which is d = D / H wide
    filter_size: int = 3072  # F, the inner width of the feed-forward block
    is_gated: bool = False
    encoder_nonlinearity: str = "gelu_erf"
    attention_type: str = "scaled_dot_product"
    position_type: str = "learned"
    max_position_embeddings: int = 512  # P, of positions
    first_position: int = 0  # the position of the first token
    num_segments: int = 2
    global_attention_every: int = 3  # layers; the others attend to tokens nearby
    local_attention: int = 128  # tokens, half of them on each side
    global_rope_theta: float = 160000.0  # base of the rotary positions of layers that see all
    local_rope_theta: float = 10000.0  # likewise, of the others
    use_pre_normalization: bool = False
    normalizes_embeddings: bool = True
    use_norm_bias: bool = True
    use_ffn_bias: bool = True
    use_projection_bias_in_attention: bool = True
    use_ffn_bias_in_attention: bool = True
    layer_norm_epsilon: float = 1e-12
    dropout_rate: float = 0.1  # of the embeddings and before each residual
    attention_dropout_rate: float = 0.1  # of the attention weights

    reads: str = "rows"
    prints: str = "classes"
    pooler_type: str = "first"
    has_pooler: bool = True
    use_pooler_bias: bool = True
    head_activation: str = "tanh"
    has_normalized_head: bool = False
    head_dropout_first: bool = False
    head_dropout_rate: float = 0.1  # before the last layer
    num_outputs: int = 2  # C
    has_next_sentence: bool = True
    share_embedding_weights: bool = True
    has_mlm_projection: bool = False
    use_ffn_bias_in_mlm: bool = True
    use_output_bias_in_mlm: bool = True
    mlm_activation: str = "gelu_erf"
    span_softmax: str = "tokens"

    max_sequence_length: int = 128  # tokens of a row
    window_overlap: int = 64  # tokens that two rows of a long text share
    window_stride: int = 128  # tokens from the beginning of a row to that of the next
    max_query_length: int = 64  # tokens of a question; a longer one is cut
    max_answer_length: int = 30  # tokens
    may_be_unanswerable: bool = False
    null_score_diff_threshold: float = 0.0  # of "no answer" above the best answer
    word_aggregation: str = "first"
    texts_per_row: int = 1
    adds_special_tokens: bool = True
    pad_id: int = 0
    pad_token: str = "[PAD]"
    mask_token: str = "[MASK]"

    @property
    def head_size(self):
        """d, the width of an attention head."""
        return self.hidden_size // self.num_heads
