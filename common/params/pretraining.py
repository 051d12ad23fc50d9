# SPDX-License-Identifier: Apache-2.0
"""The keys that only pre-training has: of the inputs, and of the heads of the network.

The sections take them as a base class. A data processor of PROCESSORS implies `task: pretraining`.
"""

from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator

from common.params.values import (
    BetweenZeroAndOne,
    Count,
    Key,
    NonNegative,
    PadId,
    Section,
    Share,
    Switch,
    as_yaml,
    refusal,
    to_int,
)

TASK, REPLACED_TOKENS = "pretraining", "replaced_tokens"

# The kinds of data that pre-training reads.
RECORDS = (
    "BertTfRecordsProcessor",
    "BertMlmOnlyTfRecordsStaticMaskProcessor",
    "BertMlmOnlyTfRecordsDynamicMaskProcessor",
)
PROCESSORS = ("DocumentDataProcessor", *RECORDS)
WITH_PAIRS, STATIC, DYNAMIC = RECORDS
MLM_ONLY = (STATIC, DYNAMIC)

PretrainingKey = partial(Key, task=TASK, compiled=False)  # programs depend on shapes of batches
HeadKey = partial(Key, task=TASK, from_pretraining=False)
RecordKey = partial(Key, compiled=False)
PADDING = "padding is told by its place in a row; pad_id is what stands there"

# The share that every evaluation masks, whatever the training: so the figures can be compared
# (Wettig et al. 2023, arXiv:2202.08005, section 3).
EVALUATED_SHARE = 0.15

Nonlinearity = Literal["gelu", "gelu_erf", "gelu_tanh", "relu", "tanh", "silu", "linear"]


def to_buckets(value):
    """A number of buckets, or the ascending boundaries between them."""
    if not isinstance(value, list | tuple):
        return to_int(value)
    lengths = tuple(map(to_int, value))
    if lengths and lengths == tuple(sorted({*lengths})) and lengths[0] > 0:
        return lengths
    raise refusal(f"is {as_yaml(value)}; a number is wanted, or lengths that increase")


Buckets = Annotated[Count | tuple[Count, ...], BeforeValidator(to_buckets)]


class MaskingKeys(Section):
    """The keys of an input that say which tokens are predicted."""

    # Masked words (pre-training)
    max_predictions_per_seq: Count | None = PretrainingKey(
        None,
        "P, the largest number of tokens to predict in a row. Not given: masked_lm_prob of "
        "max_sequence_length.",
    )
    masked_lm_prob: BetweenZeroAndOne = PretrainingKey(
        EVALUATED_SHARE,
        "Share of the tokens of a row, with its special tokens, that are predicted. Evaluation "
        "does not take it from train_input.",
    )
    mask_whole_word: Switch = PretrainingKey(False, "Predict all pieces of a word or none of them.")
    max_ngram: Count = PretrainingKey(
        1,
        "Predict up to this many neighbouring words together, n of them with a probability "
        "proportional to 1/n, as in ALBERT. 1: single ones. More implies mask_whole_word.",
        le=10,
    )
    mask_replace_prob: Share = PretrainingKey(
        0.8, "Share of the tokens to predict that [MASK] replaces."
    )
    random_replace_prob: Share = PretrainingKey(
        0.1, "Share of the tokens to predict that a random token replaces; the others stay."
    )
    random_tokens: Literal["vocabulary", "ordinary"] = PretrainingKey(
        "vocabulary",
        "Where random tokens come from. vocabulary: all of it, special tokens too, as in Google's "
        "program. ordinary: without special tokens and [unusedN].",
    )
    document_separator_token: str = PretrainingKey(
        "[SEP]",
        "The token between documents that share a row; it is never predicted.",
        min_length=1,
    )

    @property
    def num_predictions(self):
        """P, the largest number of tokens to predict in a row."""
        share = self.masked_lm_prob * self.max_sequence_length
        return self.max_predictions_per_seq or max(1, round(share))


class RecordKeys(Section):
    """The keys of an input that the original's readers of pre-training records have."""

    # Pre-training records
    buckets: Buckets | None = PretrainingKey(
        None,
        "Lengths to pad rows to, with `packing: buckets`: into how many equal parts they divide "
        "max_sequence_length, or an ascending list of all but the longest. Not given: num_buckets "
        "lengths, chosen so that the fewest tokens are computed.",
    )
    n_parallel_reads: Count = RecordKey(
        4,
        "Files that are read at once.",
        no_effect="records are read by their position, those of a batch together",
    )
    use_multiple_workers: Switch = RecordKey(
        True,
        "Give every worker files of its own.",
        no_effect="runconfig.multiple_workers decides, and workers share rows, not files",
    )
    sort_within_batch: Switch = RecordKey(
        False,
        "Sort the rows of a batch by their length.",
        no_effect="the order within a batch changes no figure",
    )
    input_pad_id: PadId | None = RecordKey(None, "Id of padding in input_ids.", no_effect=PADDING)
    segment_pad_id: PadId | None = RecordKey(
        None, "Id of padding in segment_ids.", no_effect=PADDING
    )
    mlm_pad_id: PadId | None = RecordKey(None, "Id of padding in the labels.", no_effect=PADDING)

    @property
    def bucket_lengths(self):
        """The lengths that `buckets` names, the longest last: tuple of int; None: not given."""
        longest, buckets = self.max_sequence_length, self.buckets
        if isinstance(buckets, int):
            return tuple(-(-longest * part // buckets) for part in range(1, buckets + 1))
        return None if buckets is None else (*buckets, longest)


class PretrainingHeadKeys(Section):
    """The keys of the network's heads of pre-training."""

    # Heads of pre-training
    pretraining_objective: Literal["masked_words", REPLACED_TOKENS] = HeadKey(
        "masked_words",
        "What is told of a row. masked_words: what stood in the place of tokens. replaced_tokens: "
        "which tokens stand in the place of others, as ELECTRA's discriminator does.",
    )
    share_embedding_weights: Switch = HeadKey(
        True,
        "Predict masked words with the table of the word embeddings. false: with a table of its "
        "own.",
    )
    mlm_loss_weight: NonNegative = HeadKey(
        1.0, "Factor on the loss of masked words; the next-sentence loss is added to it."
    )
    mlm_loss_scaling: Literal["precomputed_num_masked", "num_masked", "batch_size"] = HeadKey(
        "precomputed_num_masked",
        "Divisor of the summed loss of masked words: the masked words of the batch (the first two, "
        "which are the same here), or its rows.",
    )
    mlm_nonlinearity: Nonlinearity | None = HeadKey(
        None,
        "Activation in the head of masked words. gelu: the form of encoder_nonlinearity; the tanh "
        "form where that is no GELU. Not given: the checkpoint's, or gelu.",
        from_checkpoint=True,
    )
    use_ffn_bias_in_mlm: Switch = HeadKey(True, "A bias in the dense layer of that head.")
    use_output_bias_in_mlm: Switch = HeadKey(True, "A bias for each word that the head predicts.")
    nsp_nonlinearity: Nonlinearity | None = HeadKey(
        None,
        "Activation of the pooler, the first layer of the next-sentence head. Not given: the "
        "checkpoint's, or tanh.",
        from_checkpoint=True,
    )
    use_nsp_bias: Switch = HeadKey(True, "Biases in the next-sentence head.")
    vocab_size_multiple: Count = HeadKey(
        1,
        "Without a checkpoint and vocab_size, the word embedding table has rows up to the next "
        "multiple of this number, such as 64. The rows behind the vocabulary are never predicted.",
    )


def network_faults(model):
    """Yields (key, text) of keys of the network that pre-training has no layer for."""
    for key, default in (
        ("pooler_type", "first"),
        ("cls_dropout_rate", 0.0),
        ("r_drop_alpha", 0.0),
    ):
        value = getattr(model, key)
        if value != default:
            text = f"is {as_yaml(value)}, which is for tasks with an answer a row, but task is"
            yield key, f"{text} {TASK}; leave the key out"
    if model.pretraining_objective == REPLACED_TOKENS and not model.disable_nsp:
        text = "is false, and a discriminator has no next-sentence head; write it as true"
        yield "disable_nsp", text
    if model.disable_nsp and "pooler" in model.freeze:
        text = "names pooler, which disable_nsp: true leaves out; leave it out here, too"
        yield "freeze", text


def masking_faults(section):
    """Yields (key, text) of the rules between the keys of an input."""
    lengths, longest = section.bucket_lengths, section.max_sequence_length
    if lengths is not None and (len(lengths) > longest or lengths[-1] <= max(lengths[:-1] or [0])):
        text = f"{as_yaml(section.buckets)} are not all below max_sequence_length {longest}"
        yield "buckets", f"{text}; leave out those that are not"
    if lengths is not None and section.packing not in ("buckets", "auto"):
        text = f"is {as_yaml(section.buckets)}, but packing is {section.packing}"
        yield "buckets", f"{text}; write packing: buckets, or leave one of the two out"
    replaced = section.mask_replace_prob, section.random_replace_prob
    if sum(replaced) > 1:
        text = f"{replaced[1]} and mask_replace_prob {replaced[0]} are more than 1 together"
        yield "random_replace_prob", f"{text}; the rest of the tokens to predict stays"


def objective_faults(params):
    """Yields (dotted key, text) of what a discriminator cannot be shown."""
    if params.model.pretraining_objective != REPLACED_TOKENS:
        return
    if params.distillation is not None:
        text = f"is {REPLACED_TOKENS}, and a teacher teaches masked words; leave one of them out"
        yield "model.pretraining_objective", text
    for name, section in params.inputs.items():
        if section.data_processor in (WITH_PAIRS, STATIC):
            text = f"is {section.data_processor}, whose records have [MASK]s, and a discriminator "
            text += f"is shown words; write DocumentDataProcessor or {DYNAMIC}"
            yield f"{name}.data_processor", text
        elif section.mask_replace_prob or not section.random_replace_prob:
            text = f"is {section.mask_replace_prob}, and a discriminator is shown words in the "
            text += "place of others; write mask_replace_prob: 0 and random_replace_prob: 1"
            yield f"{name}.mask_replace_prob", text


def record_faults(section):
    """Yields (key, text) of the rules between the keys of an input of records."""
    processor = section.data_processor
    if processor not in RECORDS:
        return
    if section.eval_fraction is not None:
        text = f"{section.eval_fraction} holds no records out; write the folder of others as"
        yield "eval_fraction", f"{text} eval_input.data_dir"
    for key, field in MaskingKeys.model_fields.items():
        value = getattr(section, key)
        is_drawn = processor == DYNAMIC or key == "max_predictions_per_seq"
        if not is_drawn and value != field.default:
            text = f"is {as_yaml(value)}, but the records of {processor} are masked already"
            yield key, f"{text}; leave it out"
