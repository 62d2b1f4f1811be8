# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Published vectors, and a device to put them through: keys are imported in the clear by its validation hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ihsm.ddi import Key, KeyRequest, Session
from ihsm_abi.ddi import KeyClass, KeyType, KeyUsage
from ihsm_abi.ddi.firmware_ops import (
    DerKeyImportReq,
    DerKeyImportResp,
    GetPrivKeyReq,
    GetPrivKeyResp,
    RawKeyImportReq,
    RawKeyImportResp,
)
from support import cavp
from support.hsm import Scene

T = TypeVar("T")

SIGN = KeyRequest(KeyUsage.SignVerify)
ENCRYPT = KeyRequest(KeyUsage.EncryptDecrypt)
DERIVE = KeyRequest(KeyUsage.Derive)

amounts = pytest.mark.parametrize(
    "amount", [pytest.param(8, id="some"), pytest.param(None, id="all", marks=pytest.mark.long)]
)
"""How many vectors of a file: a few spread over it in the default run, all of them in the long one."""


def spread(vectors: Iterable[T], amount: int | None) -> list[T]:
    """So many of the vectors, evenly spread, the first and the last among them; all for None."""
    found = list(vectors)
    assert found, "no vector fits"
    if amount is None or len(found) <= amount:
        return found
    if amount == 1:
        return found[:1]
    step = (len(found) - 1) / (amount - 1)
    return [found[round(number * step)] for number in range(amount)]


def pkcs1_vectors(path: str) -> Iterator[list[tuple[str, bytes]]]:
    """RSA Laboratories' vector files: for every key pair its labelled values and those of its examples, in order."""
    group: list[tuple[str, bytes]] = []
    for line in (cavp.ROOT / path).read_text(encoding="latin-1").splitlines():
        text = line.strip()
        if text.startswith("#"):
            label = text.lstrip("# ").rstrip(": ")
            if label == "Public key":
                yield from [group] if values(group, "Prime 1") else []
                group = []
            group.append((label, b""))
        elif text and group and not group[-1][0].startswith("="):
            octets = text.replace(" ", "")
            with contextlib.suppress(ValueError):  # text between the values
                group[-1] = (group[-1][0], group[-1][1] + bytes.fromhex(octets.zfill(len(octets) + len(octets) % 2)))
    yield group


def values(group: list[tuple[str, bytes]], label: str) -> list[bytes]:
    """All values under a label."""
    return [value for name, value in group if name == label]


def rsa_private_key(p: int, q: int, e: int, d: int) -> rsa.RSAPrivateKey:
    """The key with these numbers."""
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), rsa.rsa_crt_iqmp(p, q), rsa.RSAPublicNumbers(e, p * q)
    )
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)  # seconds, and the device validates it


class VectorBench:
    """A session of a device with validation hooks."""

    def __init__(self, scene: Scene) -> None:
        scene.provision()
        self.session: Session = scene.open_session()

    @contextlib.contextmanager
    def raw(self, value: bytes, key_type: KeyType, request: KeyRequest) -> Iterator[Key]:
        """A symmetric key or secret, or a big-endian EC scalar, imported for the duration."""
        raw = (
            value[::-1] if key_type in (KeyType.Ecc256Private, KeyType.Ecc384Private, KeyType.Ecc521Private) else value
        )
        made = self.session.call(
            RawKeyImportReq(raw=raw, key_kind=key_type, key_properties=request.properties), RawKeyImportResp
        )
        with self.temporary(Key(made.key_id, key_type, masked_key=made.masked_key)) as key:
            yield key

    @contextlib.contextmanager
    def private(
        self, own: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, key_class: KeyClass, request: KeyRequest
    ) -> Iterator[Key]:
        """A private key imported as PKCS#8 for the duration."""
        der = own.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        made = self.session.call(
            DerKeyImportReq(der=der, key_class=key_class, key_properties=request.properties), DerKeyImportResp
        )
        public = None if made.pub_key is None else made.pub_key.der
        with self.temporary(Key(made.key_id, made.key_type, public, masked_key=made.masked_key)) as key:
            yield key

    def reveal(self, key: Key) -> bytes:
        """Value of a key, in the form of the vault (spec 05 §5.6)."""
        return self.session.call(GetPrivKeyReq(key_id=key.key_id), GetPrivKeyResp).key_data

    @contextlib.contextmanager
    def temporary(self, key: Key) -> Iterator[Key]:
        """A key that is deleted afterwards."""
        try:
            yield key
        finally:
            self.session.delete_key(key)
