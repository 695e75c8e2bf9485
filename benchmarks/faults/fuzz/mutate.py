"""Mutations of bytes: small damage, cuts, repeats, splices, and values that break arithmetic."""

import random
from collections.abc import Sequence

MOST_MUTATIONS = 6
# A mutated input may be longer than its seed, but a fuzzer must not be what fills the memory.
MOST_BYTES = 1 << 20
LONGEST_REPEAT = 4096
INTERESTING = (
    b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00", b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xff\xff\xff\xff\x0f",
    b"-1", b"9" * 40, b"1e999", b"NaN", b"null", b"[]", b"{}", b'"', b"\\u0000", b"\n", b"\t",
    b"../../../etc/passwd", b"%s%n", b"[" * 2000, b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
    b"__import__('os').abort()", b"cos\nabort\n(tR.",
)  # fmt: skip


def mutated(seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """One of the seeds after one to MOST_MUTATIONS random mutations, more often few than many."""
    data = bytearray(rng.choice(seeds))
    for _ in range(min(1 + int(rng.expovariate(0.7)), MOST_MUTATIONS)):
        rng.choice(MUTATIONS)(data, seeds, rng)
    return bytes(data[:MOST_BYTES])


def _place(data: bytearray, rng: random.Random) -> int:
    # Formats keep what they trust in their first bytes.
    return rng.randrange(min(len(data), 64) if rng.random() < 0.3 else len(data)) if data else 0


def _flip_bit(data: bytearray, _seeds, rng: random.Random) -> None:
    if data:
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _set_byte(data: bytearray, _seeds, rng: random.Random) -> None:
    if data:
        data[_place(data, rng)] = rng.randrange(256)


def _overwrite(data: bytearray, _seeds, rng: random.Random) -> None:
    value, place = rng.choice(INTERESTING), _place(data, rng)
    data[place : place + len(value)] = value


def _insert(data: bytearray, _seeds, rng: random.Random) -> None:
    place = _place(data, rng)
    data[place:place] = rng.choice(INTERESTING) if rng.random() < 0.5 else rng.randbytes(8)


def _cut(data: bytearray, _seeds, rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _remove(data: bytearray, _seeds, rng: random.Random) -> None:
    place = _place(data, rng)
    del data[place : place + rng.randint(1, 64)]


def _repeat(data: bytearray, _seeds, rng: random.Random) -> None:
    place = _place(data, rng)
    part = data[place : place + rng.randint(1, 64)]
    data[place:place] = part * rng.randint(1, LONGEST_REPEAT // max(len(part), 1))


def _splice(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    other = rng.choice(seeds)
    data[_place(data, rng) :] = other[rng.randrange(len(other) + 1) :]


MUTATIONS = (_flip_bit, _set_byte, _overwrite, _insert, _cut, _remove, _repeat, _splice)
