# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Kinds of keys by the names that people use, and what they can be used for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from ihsm.errors import ArgumentError, ArgumentTypeError
from ihsm_abi.ddi import AesKeySize, EccCurve, KeyUsage


class Usage(StrEnum):
    """What a key is for; the device allows one usage a key (spec 05 §5.1)."""

    SIGN = "sign"
    """EC and RSA signatures; message authentication with a derived HMAC key."""
    DECRYPT = "decrypt"
    """RSA decryption."""
    AGREE = "agree"
    """EC key agreement."""
    ENCRYPT = "encrypt"
    """AES, both directions."""
    DERIVE = "derive"
    """Derivation from a secret."""


DEVICE_USAGES: Final = MappingProxyType(
    {
        Usage.SIGN: KeyUsage.SignVerify,
        Usage.DECRYPT: KeyUsage.EncryptDecrypt,
        Usage.AGREE: KeyUsage.Derive,
        Usage.ENCRYPT: KeyUsage.EncryptDecrypt,
        Usage.DERIVE: KeyUsage.Derive,
    }
)


class Family(StrEnum):
    """Which class of key object stands for a kind."""

    EC = "EC"
    RSA = "RSA"
    GCM = "AES-GCM"
    XTS = "AES-XTS"
    CBC = "AES-CBC"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of key."""

    name: str
    family: Family
    usages: tuple[Usage, ...]
    """Possible ones; the first is what a key gets that is made without saying."""
    curve: EccCurve | None = None
    bits: int = 0
    """Of an RSA modulus."""
    aes_size: AesKeySize | None = None
    aes_bytes: int = 0
    """Length of an AES key as it is imported."""


def _kinds() -> dict[str, Kind]:
    ec_usages, rsa_usages, aes_usages = (
        (Usage.SIGN, Usage.AGREE),
        (Usage.SIGN, Usage.DECRYPT),
        (Usage.ENCRYPT,),
    )
    kinds = [
        Kind("p256", Family.EC, ec_usages, curve=EccCurve.P256),
        Kind("p384", Family.EC, ec_usages, curve=EccCurve.P384),
        Kind("p521", Family.EC, ec_usages, curve=EccCurve.P521),
        *(Kind(f"rsa{bits}", Family.RSA, rsa_usages, bits=bits) for bits in (2048, 3072, 4096)),
        Kind("aes128", Family.CBC, aes_usages, aes_size=AesKeySize.Aes128, aes_bytes=16),
        Kind("aes192", Family.CBC, aes_usages, aes_size=AesKeySize.Aes192, aes_bytes=24),
        Kind("aes256", Family.CBC, aes_usages, aes_size=AesKeySize.Aes256, aes_bytes=32),
        Kind("aes256-gcm", Family.GCM, aes_usages, aes_size=AesKeySize.AesGcmBulk256, aes_bytes=32),
        Kind("aes256-xts", Family.XTS, aes_usages, aes_size=AesKeySize.AesXtsBulk256, aes_bytes=64),
    ]
    return {kind.name: kind for kind in kinds}


KINDS: Final = MappingProxyType(_kinds())
"""By name."""


def kind_of(operation: str, name: str) -> Kind:
    """The kind of a name; ArgumentError, ArgumentTypeError for another."""
    if not isinstance(name, str):
        raise ArgumentTypeError(operation, "kind", f"{type(name).__name__}, must be text")
    if name not in KINDS:
        raise ArgumentError(operation, "kind", f"{name!r}, one of {', '.join(KINDS)} needed")
    return KINDS[name]


def usages_of(operation: str, kind: Kind, usage: str | Collection[str] | None) -> tuple[Usage, ...]:
    """The usages asked for, None for the kind's first.

    Raises:
        ArgumentError: one that the kind does not have, none, or two of a key that the device makes: it would be two
            keys.
        ArgumentTypeError: no text.
    """
    if usage is None:
        return kind.usages[:1]
    wanted = [usage] if isinstance(usage, str) else list(usage)
    for each in wanted:
        if not isinstance(each, str):
            raise ArgumentTypeError(operation, "usage", f"{type(each).__name__}, must be text")
        if each not in kind.usages:
            raise ArgumentError(operation, "usage", f"{each!r}, a {kind.name} key has {' or '.join(kind.usages)}")
    chosen = tuple(each for each in kind.usages if each in wanted)
    if not chosen:
        raise ArgumentError(operation, "usage", "none given")
    if len(chosen) > 1 and kind.family is not Family.RSA:
        raise ArgumentError(
            operation,
            "usage",
            f"{' and '.join(chosen)}: the device allows a key one usage; make two keys (an RSA key, which is imported, "
            "can have two)",
        )
    return chosen
