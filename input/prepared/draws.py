# SPDX-License-Identifier: Apache-2.0
"""Random numbers and orders that are functions of a key: nothing to save, and the same everywhere.

The numbers are SplitMix64's (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators"). A library's generator may give others in its next version, and what is prepared with
one version is read with another.
"""

import numpy as np

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
MULTIPLIERS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
NUM_ROUNDS = 6  # of the Feistel network; four make it indistinguishable from random


class Draws:
    """Draws that depend only on a key, a few int of at least 0."""

    def __init__(self, *key):
        self.state = 0
        for number in key:
            self.state = _mix((self.state + GOLDEN * (number + 1)) & MASK)

    def bits(self):
        """Returns 64 random bits, an int."""
        self.state = (self.state + GOLDEN) & MASK
        return _mix(self.state)

    def below(self, number):
        """Returns an int from 0 to number - 1, each equally likely up to 2^-64."""
        return (self.bits() * number) >> 64

    def chance(self, probability):
        """Returns True with a probability in [0, 1]."""
        return self.bits() < probability * 2.0**64

    def heads(self, number):
        """Returns how many of so many coins fall heads: an int."""
        whole, rest = divmod(number, 64)
        count = sum(self.bits().bit_count() for _ in range(whole))
        return count + (self.bits() & ((1 << rest) - 1)).bit_count() if rest else count


def _mix(z):
    z = ((z ^ (z >> 30)) * MULTIPLIERS[0]) & MASK
    z = ((z ^ (z >> 27)) * MULTIPLIERS[1]) & MASK
    return z ^ (z >> 31)


class Permutation:
    """A random order of the numbers from 0 to size - 1, without memory in proportion to them.

    A Feistel network permutes the numbers of an even number of bits (Luby and Rackoff 1988); those
    beyond `size` are sent through it again until they are not (cycle walking, Black and Rogaway
    2002), on average less than four times.

    Args:
        size: int > 0.
        key: a few int of at least 0, such as seed and epoch.
    """

    def __init__(self, size, *key):
        self.size = size
        half = max(1, -(-(size - 1).bit_length() // 2))
        self.half, self.mask = np.uint64(half), np.uint64((1 << half) - 1)
        draws = Draws(*key)
        self.round_keys = [np.uint64(draws.bits()) for _ in range(NUM_ROUNDS)]

    def __call__(self, places):
        """Returns the number at each place: int64 [N]. places: int [N], from 0 to size - 1."""
        numbers = self._once(np.asarray(places).astype(np.uint64))
        while len(beyond := np.flatnonzero(numbers >= self.size)):
            numbers[beyond] = self._once(numbers[beyond])
        return numbers.astype(np.int64)

    def _once(self, numbers):
        left, right = numbers >> self.half, numbers & self.mask
        for key in self.round_keys:
            mixed = (right + key) * np.uint64(MULTIPLIERS[0])  # modulo 2^64, as NumPy's arrays do
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(MULTIPLIERS[1])
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(31))) & self.mask)
        return (left << self.half) | right
