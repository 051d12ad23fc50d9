# SPDX-License-Identifier: Apache-2.0
"""What the entries of a vocabulary are: special tokens, unused slots, pieces that continue a word.

The order of ids is that of google-research/bert's uncased vocabulary: [PAD] 0, [unused0] 1 to
[unused98] 99, [UNK] 100, [CLS] 101, [SEP] 102, [MASK] 103, further [unusedN], the rest.
"""

import re

from common.params.vocabulary import NUM_UNUSED, SPECIAL_TOKENS, WORDPIECE

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS[WORDPIECE]
CONTINUATION = "##"  # prefix of the entries that continue a word
UNUSED = re.compile(r"\[unused\d+\]")
MAX_WORD_CHARACTERS = 100  # max_input_chars_per_word of the reference; google-research/bert: 200


def first_entries(special, num_unused):
    """Returns the entries before the alphabet: list of str.

    special: tuple of str, the first of which is the padding. num_unused: int.
    """
    unused = [f"[unused{i}]" for i in range(num_unused)]
    return [special[0], *unused[:NUM_UNUSED], *special[1:], *unused[NUM_UNUSED:]]
