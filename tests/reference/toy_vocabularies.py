# SPDX-License-Identifier: Apache-2.0
"""Small vocabularies that need the package tokenizers, made of a few texts, and their networks."""

import json

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

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
    words = sorted({word.strip(",") for text in texts for word in text.split()})
    # A long word has two pieces. Not by the package's trainer, which makes others in each run.
    pieces = {"▁" + word[: 2 if len(word) > 4 else None] for word in words}
    pieces |= {word[2:] for word in words if len(word) > 4}
    letters = {letter for text in texts for letter in "▁" + text if letter != " "}
    scores = [(piece, -3.0) for piece in sorted(pieces - letters)]
    scores += [(letter, -6.0) for letter in sorted(letters)]
    vocab = [(token, 0.0) for token in SPECIAL] + scores
    tokenizer = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=SPECIAL.index("<unk>")))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.add_special_tokens(SPECIAL)
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
