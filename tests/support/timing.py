# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the time of an operation tells of the secret in it: Welch's t-test of two classes of inputs (as dudect does).

Both classes take the same way through the code, and only what must stay secret differs: at which byte a comparison
fails, why a padding is wrong, which number a key is. They alternate by chance, so that what else the machine does falls
on both alike; the slowest samples, which tell of that alone, are left out at one bound for both.
"""

from __future__ import annotations

import hmac
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric import ec

from ihsm_device.hsm.keystore import Credential, CredentialCheck, Curve, Handle, Hash, KeyStore, OaepError, Owner

SAMPLES: Final = 20_000
THRESHOLD: Final = 4.5
"""Of |t|, beyond which dudect takes times to differ."""
KEPT: Final = 0.9
"""Part of the samples that counts."""
POOL: Final = 64
"""Inputs of a class, each in a place of its own, so that caches and alignments are those of both classes."""
OWNER: Final = Owner()
CONTROL: Final = "control: bytes.__eq__"
"""A comparison that ends at the first difference: it must be told."""
_CONTROL_BYTES: Final = 1 << 20

Run = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """An operation with its two classes; a class is what runs once, for any of its inputs."""

    name: str
    first: Sequence[Run]
    second: Sequence[Run]
    share: int = 1
    """Of the samples that are asked for, one of so many is taken: it is slow."""


@dataclass(frozen=True)
class Verdict:
    """What was measured."""

    name: str
    means_ns: tuple[float, float]
    t: float

    @property
    def differs(self) -> bool:
        """Whether the two classes can be told."""
        return abs(self.t) > THRESHOLD


def welch(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Welch's t."""
    spread = first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second)
    difference = float(first.mean() - second.mean())
    return difference / float(spread) ** 0.5 if spread else float("inf") if difference else 0.0


def measure(case: Case, samples: int) -> Verdict:
    """So many samples of each class, in an order by chance."""
    chance = random.Random(samples)
    order = [0, 1] * max(3, samples // case.share)
    chance.shuffle(order)
    classes = (case.first, case.second)
    times: tuple[list[int], list[int]] = ([], [])
    for which in order:
        run = chance.choice(classes[which])
        start = time.perf_counter_ns()
        run()
        times[which].append(time.perf_counter_ns() - start)
    first, second = (np.array(taken, np.float64) for taken in times)
    bound = np.quantile(np.concatenate([first, second]), KEPT)
    first, second = first[first <= bound], second[second <= bound]
    if min(len(first), len(second)) < 2:  # one class is slower throughout
        return Verdict(case.name, (float("nan"), float("nan")), float("inf"))
    return Verdict(case.name, (float(first.mean()), float(second.mean())), welch(first, second))


def flipped(value: bytes, at: int) -> bytes:
    """With another byte there."""
    changed = bytearray(value)
    changed[at] ^= 0x55
    return bytes(changed)


def _expect(result: object, wanted: object) -> None:
    if result != wanted:
        raise AssertionError(f"{result!r}, {wanted!r} expected")


def cases(store: KeyStore) -> Iterator[Case]:
    """All cases; what they need lives in the store."""
    right = random.Random(1).randbytes(_CONTROL_BYTES)
    wrong = [flipped(right, at) for at in (0, -1)]
    yield Case(CONTROL, [lambda: right == wrong[0]], [lambda: right == wrong[1]])
    yield from _comparisons(store)
    yield _oaep(store)
    yield from _scalars(store)
    yield _hmac(store)


def _wrong_first_and_last(name: str, tag: bytes, verify: Callable[[bytes], object]) -> Case:
    def runs(at: int) -> list[Run]:
        return [_with(verify, flipped(tag, at)) for _ in range(POOL)]

    _expect(verify(flipped(tag, 0)), False)
    return Case(name, runs(0), runs(-1))


def _with(function: Callable[[bytes], object], value: bytes) -> Run:
    return lambda: function(value)


def _comparisons(store: KeyStore) -> Iterator[Case]:
    masking = store.generate_secret(80, OWNER)
    blob = store.mask(store.generate_secret(32, OWNER), masking, b"", bytes(16), 48)
    yield _wrong_first_and_last(
        "tag of a masked key", blob[-48:], lambda tag: store.verify_masked(masking, blob[:-48] + tag)
    )
    device, client = (store.ec_generate(Curve.P384, OWNER) for _ in range(2))
    channel = store.credential_channel(device, store.ec_public(client), bytes(32), OWNER)
    yield _wrong_first_and_last(
        "tag of a credential", bytes(48), lambda tag: store.credential_verify(channel, b"message", tag)
    )
    number, pin = b"application id 1", b"personal number."
    stored = Credential(*(store.import_secret(part, OWNER) for part in (number, pin)), None)
    for name, at in (("id of a credential", 0), ("PIN", 1)):
        runs: tuple[list[Run], list[Run]] = ([], [])
        # In turn, so that neither class has the better places in memory.
        for _ in range(POOL):
            for place, of_class in zip((0, -1), runs, strict=True):
                parts = [flipped(part, place) if which == at else part for which, part in enumerate((number, pin))]
                wrong = Credential(*(store.import_secret(part, OWNER) for part in parts), None)
                _expect(store.credential_check(stored, wrong), CredentialCheck.MISMATCH)
                of_class.append(_check(store, stored, wrong))
        yield Case(name, *runs)
    yield _wrong_first_and_last("HMAC of a program", bytes(48), lambda tag: hmac.compare_digest(tag, bytes(48)))


def _check(store: KeyStore, stored: Credential, given: Credential) -> Run:
    return lambda: store.credential_check(stored, given)


def _oaep(store: KeyStore) -> Case:
    """A first byte that is not zero (what Manger's attack asks for), against a wrong hash of the label."""
    key = store.rsa_generate(2048, OWNER, crt=True)
    public = store.rsa_public(key)
    modulus = int.from_bytes(public.n)
    chance = random.Random(2)

    def encrypted(first: int) -> bytes:
        block = bytes([first]) + chance.randbytes(255)
        return pow(int.from_bytes(block), 65537, modulus).to_bytes(256)

    def decrypt(cipher: bytes) -> Run:
        def run() -> None:
            try:
                store.rsa_oaep_decrypt(key, Hash.SHA256, cipher, OWNER)
            except OaepError:
                return
            raise AssertionError("decrypted")

        return run

    return Case("OAEP: why it fails", *([decrypt(encrypted(first)) for _ in range(POOL)] for first in (1, 0)), share=20)


def _imported(store: KeyStore, curve: Curve, scalar: int, size: int) -> Handle:
    return store.ec_import_scalar(curve, store.import_secret(scalar.to_bytes(size), OWNER), OWNER)


def _scalars(store: KeyStore) -> Iterator[Case]:
    """The least secret of all keys, often, against keys by chance."""
    sizes = ((Curve.P256, ec.SECP256R1(), 32), (Curve.P384, ec.SECP384R1(), 48), (Curve.P521, ec.SECP521R1(), 66))
    for curve, group, size in sizes:
        same = [_imported(store, curve, 2, size) for _ in range(POOL)]
        drawn = [ec.generate_private_key(group).private_numbers().private_value for _ in range(POOL)]
        many = [_imported(store, curve, scalar, size) for scalar in drawn]
        yield Case(f"ECDSA: scalar, {curve.name}", *([_sign(store, key) for key in keys] for keys in (same, many)))


def _sign(store: KeyStore, key: Handle) -> Run:
    digest = bytes(range(32))
    return lambda: store.ec_sign(key, digest)


def _hmac(store: KeyStore) -> Case:
    chance = random.Random(3)
    classes = [b"\1" * 64 for _ in range(POOL)], [chance.randbytes(64) for _ in range(POOL)]
    return Case("HMAC: key", *([_mac(store, store.import_secret(value, OWNER)) for value in one] for one in classes))


def _mac(store: KeyStore, key: Handle) -> Run:
    return lambda: store.hmac(key, Hash.SHA256, b"message")


def main(samples: int) -> int:
    """Print a line for each case; 1 if one that must not differ does, or the control does not."""
    store, bad = KeyStore(), 0
    print(f"{'':28} {'first/ns':>12} {'second/ns':>12} {'t':>9}")
    for case in cases(store):
        verdict = measure(case, samples)
        wrong = verdict.differs != (case.name == CONTROL)
        bad += wrong
        first, second = verdict.means_ns
        mark = "  DIFFERS" if wrong and verdict.differs else "  does not differ" if wrong else ""
        print(f"{verdict.name:28} {first:12.0f} {second:12.0f} {verdict.t:9.2f}{mark}", flush=True)
    store.close()
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES))
