# SPDX-License-Identifier: Apache-2.0
"""Small vocabularies that need the package tokenizers, made of a few texts, and their networks."""

import json

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from common.checkpoints.tokenizer_json import NAME, vocab_of
from input.tokenizers.tokenizer import Tokenizer

TEXTS = ["a good day and an odd one", "no plot, no joy", "the film was warm and fine"] * 4
SPECIAL = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]


def byte_bpe(texts=TEXTS):
    """Returns the LibraryVocab of RoBERTa's kind: <s> A </s></s> B </s>."""
    trained = Tokenizer.train(texts, algorithm="byte_bpe", vocab_size=300)
    content = json.loads(trained.files()[NAME])
    for token in content["added_tokens"]:
        token["lstrip"] = token["content"] == "<mask>"
    return vocab_of("byte_bpe", content)


def unigram(texts=TEXTS):
    """Returns the LibraryVocab of ALBERT's kind: [CLS] A [SEP] B [SEP]."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.decoder = decoders.Metaspace()
    return vocab_of("unigram", json.loads(tokenizer.to_str()))


VOCABULARIES = {"byte_bpe": byte_bpe, "unigram": unigram}
# {kind: the keys of ModelParams of a family that has it}
NETWORKS = {
    "byte_bpe": {"backbone": "roberta"},
    "unigram": {"backbone": "albert", "embedding_size": 4},
}
