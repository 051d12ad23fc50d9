# SPDX-License-Identifier: Apache-2.0
"""How the fuzzers break the bytes of a file."""


def broken(generator, content, pieces, changes, places):
    """Some bytes replaced, put in, taken out, doubled, flipped or cut off.

    Args:
        generator: random.Random.
        content: bytes.
        pieces: bytes that may come in, each of which means something in such a file.
        changes: int, how many.
        places: int -> int. For a length, where a change begins: from 0 to that length.
    """
    content = bytearray(content)
    for _ in range(changes):
        place = places(len(content))
        end = min(len(content), place + generator.randrange(10))
        way = generator.randrange(8)
        if way == 0:
            content[place:place] = generator.choice(pieces)
        elif way == 1:
            content[place:end] = generator.choice(pieces)
        elif way == 2:
            content[place:end] = generator.randbytes(end - place)
        elif way == 3:
            del content[place:end]
        elif way == 4:
            content[place:place] = content[place:end] * generator.randrange(20)
        elif way == 5:
            other = generator.randrange(len(content) + 1)
            content[place:end] = content[other : other + generator.randrange(20)]
        elif way == 6 and generator.random() < 0.3:
            del content[place:]
        elif place < len(content):
            content[place] ^= 1 << generator.randrange(8)
    return bytes(content)
