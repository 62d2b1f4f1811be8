# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Kinds of keys by the names that people use, and what they can be used for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from ihsm.api.errors import UnsupportedByDeviceError
from ihsm.errors import ArgumentError, ArgumentTypeError
from ihsm_abi.ddi import AesKeySize, EccCurve, KeyClass, KeyType, KeyUsage
from ihsm_abi.ddi.formats import AES_KEY_TYPES


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
    HMAC = "HMAC"
    SECRET = "secret"


DERIVED_ONLY: Final = frozenset({Family.HMAC, Family.SECRET})
"""The device neither makes nor imports these (spec 05 §6, §12.4)."""


@dataclass(frozen=True, slots=True)
class VariableLength:
    """A second type of key of a kind, for lengths of the user's (spec 05 §11.1)."""

    key_type: KeyType
    low: int
    high: int


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
    key_class: KeyClass | None = None
    """Of a key that is imported."""
    key_type: KeyType | None = None
    """Of a key that is derived, or from which others are; None: it cannot be."""
    variable: VariableLength | None = None
    hmac_bytes: int = 0
    """Length of an HMAC key unless one is asked for."""


def _kinds() -> dict[str, Kind]:
    ec_usages, rsa_usages = (Usage.SIGN, Usage.AGREE), (Usage.SIGN, Usage.DECRYPT)
    kinds = [
        *(
            Kind(name, Family.EC, ec_usages, curve=curve, key_class=KeyClass.Ecc)
            for name, curve in (("p256", EccCurve.P256), ("p384", EccCurve.P384), ("p521", EccCurve.P521))
        ),
        *(
            Kind(f"rsa{bits}", Family.RSA, rsa_usages, bits=bits, key_class=KeyClass.RsaCrt)
            for bits in (2048, 3072, 4096)
        ),
        *(
            Kind(
                name,
                family,
                (Usage.ENCRYPT,),
                aes_size=size,
                aes_bytes=length,
                key_class=key_class,
                key_type=AES_KEY_TYPES[size],
            )
            for name, family, size, length, key_class in (
                ("aes128", Family.CBC, AesKeySize.Aes128, 16, KeyClass.Aes),
                ("aes192", Family.CBC, AesKeySize.Aes192, 24, KeyClass.Aes),
                ("aes256", Family.CBC, AesKeySize.Aes256, 32, KeyClass.Aes),
                # Those that take the caller's nonce on every device, whether or not its approved keys do.
                ("aes256-gcm", Family.GCM, AesKeySize.AesGcmBulk256Unapproved, 32, KeyClass.AesGcmBulkUnapproved),
                ("aes256-gcm-approved", Family.GCM, AesKeySize.AesGcmBulk256, 32, KeyClass.AesGcmBulk),
                ("aes256-xts", Family.XTS, AesKeySize.AesXtsBulk256, 64, KeyClass.AesXtsBulk),
            )
        ),
        *(
            Kind(
                f"hmac-sha{bits}",
                Family.HMAC,
                (Usage.SIGN,),
                key_type=fixed,
                hmac_bytes=bits // 8,
                variable=VariableLength(variable, bits // 8, longest),
            )
            for bits, fixed, variable, longest in (
                (256, KeyType.HmacSha256, KeyType.VarHmac256, 64),
                (384, KeyType.HmacSha384, KeyType.VarHmac384, 128),
                (512, KeyType.HmacSha512, KeyType.VarHmac512, 128),
            )
        ),
        *(
            Kind(name, Family.SECRET, (Usage.DERIVE,), curve=curve, key_type=key_type)
            for name, curve, key_type in (
                ("secret256", EccCurve.P256, KeyType.Secret256),
                ("secret384", EccCurve.P384, KeyType.Secret384),
                ("secret521", EccCurve.P521, KeyType.Secret521),
            )
        ),
    ]
    return {kind.name: kind for kind in kinds}


KINDS: Final = MappingProxyType(_kinds())
"""By name."""


SECRET_KINDS: Final = MappingProxyType({kind.curve: kind for kind in KINDS.values() if kind.family is Family.SECRET})
"""What key agreement on a curve makes."""


def kind_of(operation: str, name: str) -> Kind:
    """The kind of a key to make or to import.

    Raises:
        ArgumentError, ArgumentTypeError: there is none of this name.
        UnsupportedByDeviceError: keys of this kind are only derived from others.
    """
    kind = _named(operation, name, (kind for kind in KINDS.values() if kind.family not in DERIVED_ONLY))
    if kind.family in DERIVED_ONLY:
        how = "agree(peer)" if kind.family is Family.SECRET else "agree(peer).hkdf(...)"
        raise UnsupportedByDeviceError(
            operation, f"{name} keys are only derived in the device, by {how} of an EC key, and kept with hsm.keep"
        )
    return kind


def derived_kind_of(operation: str, name: str) -> Kind:
    """The kind of a key to derive from a secret.

    Raises:
        ArgumentError, ArgumentTypeError: there is none of this name, or the device does not derive such keys.
    """
    derivable = [kind for kind in KINDS.values() if kind.key_type is not None and kind.family is not Family.SECRET]
    kind = _named(operation, name, derivable)
    if kind not in derivable:
        raise ArgumentError(
            operation, "kind", f"{name}, the device derives {', '.join(each.name for each in derivable)}"
        )
    return kind


def _named(operation: str, name: str, possible: Iterable[Kind]) -> Kind:
    if not isinstance(name, str):
        raise ArgumentTypeError(operation, "kind", f"{type(name).__name__}, must be text")
    if name not in KINDS:
        names = ", ".join(kind.name for kind in possible)
        raise ArgumentError(operation, "kind", f"{name!r}, one of {names} needed")
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
    if not isinstance(usage, Collection):
        raise ArgumentTypeError(operation, "usage", f"{type(usage).__name__}, must be text or a set of texts")
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
