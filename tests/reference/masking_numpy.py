# SPDX-License-Identifier: Apache-2.0
"""Masking of one row in plain Python, written after create_pretraining_data.py of google-research/
bert and google-research/albert: what `input/masking.py` is compared with.

It takes the random numbers of each token from the hash that the module documents.
"""

MODULUS = 2**32


def mix(bits):
    """lowbias32."""
    bits ^= bits >> 16
    bits = bits * 0x7FEB352D % MODULUS
    bits ^= bits >> 15
    bits = bits * 0x846CA68B % MODULUS
    return bits ^ bits >> 16


def bits_of(seed, epoch, row, position, purpose):
    golden = 0x9E3779B9
    key = seed % MODULUS
    for part in (seed // MODULUS, epoch, row // MODULUS, row % MODULUS):
        key = mix((key * golden + part) % MODULUS)
    key = (key * golden + position) % MODULUS
    return mix((mix(key) * golden + purpose) % MODULUS)


def mask_row(ids, masking, epoch, row):
    """Returns the new ids, and the positions to predict in order: lists of int.

    ids: list of int, the real tokens of a row. masking: Masking, of which only attributes are read.
    """

    def bits(position, purpose):
        return bits_of(masking.seed, epoch, row, position, purpose)

    # create_masked_lm_predictions: candidates, each a list of positions.
    candidates = []
    for position, token in enumerate(ids):
        if token in masking.never_predicted:
            continue
        continues = masking.continues is not None and masking.continues[token]
        if candidates and continues and candidates[-1][-1] == position - 1:
            candidates[-1].append(position)
        else:
            candidates.append([position])
    num_to_predict = min(masking.max_predictions, max(1, round(len(ids) * masking.share)))
    order = sorted(range(len(candidates)), key=lambda i: bits(candidates[i][0], 0))
    covered = set()
    for i in order:
        if len(covered) >= num_to_predict:
            break
        n = number_of_words(candidates, i, masking.max_ngram, bits(candidates[i][0], 1) / MODULUS)
        words = candidates[i : i + n]
        while words and len(covered) + sum(map(len, words)) > num_to_predict:
            words = words[:-1]
        positions = [position for word in words for position in word]
        if not covered & set(positions):
            covered |= set(positions)
    replaced = list(ids)
    for position in covered:
        share = bits(position, 2) / MODULUS
        if share < masking.mask_share:
            replaced[position] = masking.mask_id
        elif share < masking.mask_share + masking.random_share:
            choices = masking.random_ids
            choices = range(masking.vocab_size) if choices is None else choices
            replaced[position] = int(choices[bits(position, 3) * len(choices) // MODULUS])
    return replaced, sorted(covered)


def number_of_words(candidates, i, max_ngram, uniform):
    """How many neighbouring words are drawn, n with a probability proportional to 1/n."""
    available = 1
    while (
        available < max_ngram
        and i + available < len(candidates)
        and candidates[i + available][0] == candidates[i + available - 1][-1] + 1
    ):
        available += 1
    sums = [sum(1 / n for n in range(1, k + 1)) for k in range(1, available + 1)]
    return 1 + sum(uniform * sums[-1] >= each for each in sums[:-1])
