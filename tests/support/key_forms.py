# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What gives a key away besides its own bytes: schedules, GHASH keys, states of HMAC, numbers in Montgomery form.

Computed from the standards alone, independently of the device and of any crypto library.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

GHASH_POWERS: Final = 48
"""As many as code for AVX-512 has in its hands at a time."""
ORDERS: Final = {
    256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    384: int("FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973", 16),
    521: (1 << 521) - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7,
}
"""Of the groups (FIPS 186-4, D.1.2)."""
_AES_POLYNOMIAL: Final = 0x11B
_GHASH_POLYNOMIAL: Final = 0xE1 << 120
_MASK_128: Final = (1 << 128) - 1


# -- AES (FIPS 197) ----------------------------------------------------------------------------------------------------


def _times(a: int, b: int) -> int:
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a = a << 1 ^ (_AES_POLYNOMIAL if a & 0x80 else 0)
        b >>= 1
    return product


def _s_box() -> bytes:
    box = bytearray(256)
    for value in range(256):
        inverse = next((i for i in range(256) if _times(value, i) == 1), 0)
        turned = [(inverse << n | inverse >> (8 - n)) & 0xFF for n in range(5)]
        box[value] = turned[0] ^ turned[1] ^ turned[2] ^ turned[3] ^ turned[4] ^ 0x63
    return bytes(box)


_S_BOX: Final = _s_box()


def round_keys(key: bytes) -> list[bytes]:
    """The key expansion, 16 bytes for each round."""
    words = [key[at : at + 4] for at in range(0, len(key), 4)]
    size, factor = len(words), 1
    for at in range(size, 4 * (size + 7)):
        word = words[-1]
        if at % size == 0:
            word = bytes(_S_BOX[byte] for byte in word[1:] + word[:1])
            word, factor = bytes([word[0] ^ factor]) + word[1:], _times(factor, 2)
        elif size > 6 and at % size == 4:
            word = bytes(_S_BOX[byte] for byte in word)
        words.append(_xor(word, words[at - size]))
    return [b"".join(words[at : at + 4]) for at in range(0, len(words), 4)]


def decryption_keys(key: bytes) -> list[bytes]:
    """Round keys of the equivalent inverse cipher (5.3.5), which differ from the others but for the first and last."""
    return [b"".join(_unmixed(keys[at : at + 4]) for at in range(0, 16, 4)) for keys in round_keys(key)[1:-1]]


def _unmixed(column: bytes) -> bytes:
    factors = (14, 11, 13, 9)
    mixed = []
    for row in range(4):
        value = 0
        for at in range(4):
            value ^= _times(column[at], factors[(at - row) % 4])
        mixed.append(value)
    return bytes(mixed)


def aes_schedules(key: bytes) -> list[bytes]:
    """All round keys of both directions but the first, the key itself."""
    return [b"".join(round_keys(key)), *decryption_keys(key)]


def encrypt_block(key: bytes, block: bytes) -> bytes:
    """AES of one block, to compute the GHASH key."""
    keys = round_keys(key)
    state = _xor(block, keys[0])
    for number, round_key in enumerate(keys[1:], 1):
        state = bytes(_S_BOX[state[(at + 4 * (at % 4)) % 16]] for at in range(16))
        if number < len(keys) - 1:
            state = b"".join(_mixed(state[at : at + 4]) for at in range(0, 16, 4))
        state = _xor(state, round_key)
    return state


def _mixed(column: bytes) -> bytes:
    factors = (2, 3, 1, 1)
    mixed = []
    for row in range(4):
        value = 0
        for at in range(4):
            value ^= _times(column[at], factors[(at - row) % 4])
        mixed.append(value)
    return bytes(mixed)


# -- GHASH (SP 800-38D) ------------------------------------------------------------------------------------------------


def _ghash_times(a: int, b: int) -> int:
    product = 0
    for bit in range(127, -1, -1):
        product ^= a if b >> bit & 1 else 0
        a = a >> 1 ^ (_GHASH_POLYNOMIAL if a & 1 else 0)
    return product


def ghash_keys(key: bytes) -> list[bytes]:
    """H and its powers, as they are and divided by x, which is how code for carry-less multiplication has them."""
    h = int.from_bytes(encrypt_block(key, bytes(16)))
    found, power = [], h
    for _ in range(GHASH_POWERS):
        found += [power.to_bytes(16), _by_x(power).to_bytes(16)]
        power = _ghash_times(power, h)
    return found


def _by_x(value: int) -> int:
    """In the bit order of GHASH a division by x is a shift to the left."""
    carry = value >> 127
    return (value << 1 & _MASK_128) ^ (0xC2000000000000000000000000000001 if carry else 0)


# -- XTS (IEEE 1619) ---------------------------------------------------------------------------------------------------


def xts_masks(tweak_key: bytes, tweak: bytes, count: int) -> list[bytes]:
    """What the first blocks of a data unit are masked with."""
    mask, found = int.from_bytes(encrypt_block(tweak_key, tweak), "little"), []
    for _ in range(count):
        found.append(mask.to_bytes(16, "little"))
        mask = mask << 1 & _MASK_128 ^ (0x87 if mask >> 127 else 0)
    return found


# -- HMAC (FIPS 198-1, 180-4) ------------------------------------------------------------------------------------------


def _primes() -> Iterator[int]:
    number = 2
    while True:
        if all(number % low for low in range(2, int(number**0.5) + 1)):
            yield number
        number += 1


def _root(number: int, degree: int) -> int:
    """The whole part."""
    low, high = 0, number
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= number else (low, middle - 1)
    return low


def _fractions(degree: int, count: int, bits: int) -> list[int]:
    """The first bits of the fractions of roots of the first primes."""
    primes = _primes()
    return [_root(next(primes) << degree * bits, degree) & (1 << bits) - 1 for _ in range(count)]


@dataclass(frozen=True)
class _Sha2:
    bits: int
    rounds: int
    start: tuple[int, ...]
    sums: tuple[tuple[int, int, int], ...]
    """Sigma 0 and 1 of the rounds, then sigma 0 and 1 of the schedule, whose last is a shift."""


_SUMS: Final = {
    32: ((2, 13, 22), (6, 11, 25), (7, 18, 3), (17, 19, 10)),
    64: ((28, 34, 39), (14, 18, 41), (1, 8, 7), (19, 61, 6)),
}
_KINDS: Final = {
    "sha256": _Sha2(32, 64, tuple(_fractions(2, 8, 32)), _SUMS[32]),
    "sha384": _Sha2(64, 80, tuple(_fractions(2, 16, 64)[8:]), _SUMS[64]),
    "sha512": _Sha2(64, 80, tuple(_fractions(2, 8, 64)), _SUMS[64]),
}
_CONSTANTS: Final = {32: _fractions(3, 64, 32), 64: _fractions(3, 80, 64)}


def state_after(name: str, block: bytes) -> list[int]:
    """The state of a hash function of the SHA-2 family after its first block."""
    kind = _KINDS[name]
    bits, mask = kind.bits, (1 << kind.bits) - 1

    def turn(value: int, by: int) -> int:
        return (value >> by | value << bits - by) & mask

    def sigma(value: int, which: int) -> int:
        a, b, c = kind.sums[which]
        return turn(value, a) ^ turn(value, b) ^ (turn(value, c) if which < 2 else value >> c)

    words = list(struct.unpack(f">16{'L' if bits == 32 else 'Q'}", block))
    for at in range(16, kind.rounds):
        words.append((sigma(words[at - 2], 3) + words[at - 7] + sigma(words[at - 15], 2) + words[at - 16]) & mask)
    a, b, c, d, e, f, g, h = kind.start
    for word, constant in zip(words, _CONSTANTS[bits], strict=True):
        one = h + sigma(e, 1) + (e & f ^ ~e & g) + constant + word
        two = sigma(a, 0) + (a & b ^ a & c ^ b & c)
        a, b, c, d, e, f, g, h = (one + two) & mask, a, b, c, (d + one) & mask, e, f, g
    return [(x + y) & mask for x, y in zip(kind.start, (a, b, c, d, e, f, g, h), strict=True)]


def hmac_states(key: bytes, name: str) -> list[bytes]:
    """What stands for a key of HMAC: the two padded blocks, and the states behind them in both orders of bytes."""
    size = _KINDS[name].bits * 2
    padded = (hashlib.new(name, key).digest() if len(key) > size else key).ljust(size, b"\0")
    found = []
    for pad in (0x36, 0x5C):
        block = bytes(byte ^ pad for byte in padded)
        # Beyond the key a block is known to everybody.
        found.append(block[: min(len(key), size)])
        word = "L" if size == 64 else "Q"
        state = state_after(name, block)
        found += [struct.pack(f"{order}8{word}", *state) for order in "<>"]
    return found


# -- Numbers -----------------------------------------------------------------------------------------------------------


def scalar_forms(scalar: int, bits: int) -> list[bytes]:
    """A scalar, or a nonce, of a curve; its inverse; both in Montgomery form."""
    order, size = ORDERS[bits], -(-bits // 8)
    radix = 1 << 64 * -(-bits // 64)
    inverse = pow(scalar, -1, order)
    return [(value * factor % order).to_bytes(size) for value in (scalar, inverse) for factor in (1, radix)]


def nonce(digest: bytes, signature: bytes, scalar: int, bits: int) -> int:
    """The secret number of an ECDSA signature (r then s) by a known key."""
    order, half = ORDERS[bits], len(signature) // 2
    r, s = int.from_bytes(signature[:half]), int.from_bytes(signature[half:])
    e = int.from_bytes(digest) >> max(0, 8 * len(digest) - bits)
    return pow(s, -1, order) * (e + r * scalar) % order


def rsa_forms(numbers: rsa.RSAPrivateNumbers) -> list[bytes]:
    """All secret numbers of a key."""
    secret = (numbers.p, numbers.q, numbers.d, numbers.dmp1, numbers.dmq1, numbers.iqmp)
    return [number.to_bytes(-(-number.bit_length() // 8)) for number in secret]


def rsa_passing(numbers: rsa.RSAPrivateNumbers, result: bytes) -> list[bytes]:
    """Residues of a result modulo the primes: one of them gives the key away."""
    return [(int.from_bytes(result) % prime).to_bytes(-(-prime.bit_length() // 8)) for prime in (numbers.p, numbers.q)]


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))
