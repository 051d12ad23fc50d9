# SPDX-License-Identifier: Apache-2.0
"""Python for a model card: from texts to the features of a network that takes token ids."""

from common.checkpoints.vocab import pad_token


def tokenizing(classifier):
    """Returns lines of Python that make `features` of the card's example with the package
    tokenizers, where NumPy is imported as np."""
    data = classifier.params.predict_input
    texts = ", ".join(f'"{text}"' for text in classifier.example)
    row = texts if len(classifier.text_names) == 1 else f"({texts})"
    bare = "" if data.add_special_tokens else ", add_special_tokens=False"
    mask = "np.array([row.attention_mask for row in rows], np.int32)"
    mask = f"1 - {mask}" if data.invert_mask else mask
    if classifier.takes_texts:
        name, padding = "BertWordPieceTokenizer", ""
        opening = f'{name}("{classifier.vocab_name}", lowercase={data.do_lower})'
    else:
        name, opening = "Tokenizer", f'Tokenizer.from_file("{classifier.vocab_name}")'
        token = pad_token(classifier.vocab)
        padding = f'pad_id={classifier.vocab.index(token)}, pad_token="{token}"'
    return f"""from tokenizers import {name}

tokenizer = {opening}
tokenizer.enable_truncation({data.max_sequence_length})
tokenizer.enable_padding({padding})
rows = tokenizer.encode_batch([{row}]{bare})
features = {{
    "input_ids": np.array([row.ids for row in rows], np.int32),
    "input_mask": {mask},
    "segment_ids": np.array([row.type_ids for row in rows], np.int32),
}}"""
