# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""How keys come into being: made by the device, or imported; with one masked key for each usage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from ihsm.api.connection import Link
from ihsm.api.errors import UnsupportedByDeviceError
from ihsm.api.kinds import DEVICE_USAGES, KINDS, Family, Kind, Usage, kind_of
from ihsm.api.steps import Ask, Procedure, Signal, Wait
from ihsm.arguments import Octets, octets
from ihsm.ddi import Key, KeyRequest, calls
from ihsm.ddi.errors import StatusError
from ihsm.ddi.wrapping import wrap_key
from ihsm.errors import ArgumentError, ArgumentTypeError
from ihsm.store import KeyVersion
from ihsm_abi.ddi import DdiStatus, HashAlgorithm

Making = Callable[[Link], Procedure[KeyVersion]]
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

TWEAK: Final = "tweak"
"""What the store calls the masked tweak key of AES-XTS, beside its data key."""
PUBLIC_EXPONENT: Final = 65537
PEM_BEGIN: Final = b"-----BEGIN "
OPENSSH_BEGIN: Final = PEM_BEGIN + b"OPENSSH PRIVATE KEY-----"
CURVES: Final = {"secp256r1": "p256", "secp384r1": "p384", "secp521r1": "p521"}
"""Kinds by pyca's names of curves."""
_PENDING_INTERVAL_S: Final = 0.1
_PENDING_LOOKS: Final = 600
_IMPORTABLE: Final = [kind.name for kind in KINDS.values() if kind.key_class is not None]


def making(label: str, kind: Kind, usages: Sequence[Usage]) -> Making:
    """A new key, of which nobody outside of the device has seen the private part; but RSA, which is made here."""
    if kind.family is Family.RSA:
        own = rsa.generate_private_key(PUBLIC_EXPONENT, kind.bits)
        return importing(label, kind, usages, [_pkcs8(own)])
    parts = parts_of(kind, usages)
    request = KeyRequest(DEVICE_USAGES[usages[0]], label=label.encode())

    def call() -> calls.Call[Key]:
        if kind.curve is not None:
            return calls.generate_ecc_key(kind.curve, request)
        assert kind.aes_size is not None
        return calls.generate_aes_key(kind.aes_size, request)

    def make(link: Link) -> Procedure[KeyVersion]:
        made: list[Key] = []
        for _ in parts:
            made.append((yield from link.residents.made(call())))
        return _version(kind, parts, made, "device")

    return make


def importing(label: str, kind: Kind, usages: Sequence[Usage], payloads: Sequence[bytes]) -> Making:
    """A key that was made here: PKCS#8 DER of an EC or RSA key, or an AES key; of AES-XTS data key and tweak key."""
    parts = parts_of(kind, usages)
    if kind.family is not Family.XTS:
        payloads = list(payloads) * len(parts)

    def make(link: Link) -> Procedure[KeyVersion]:
        made: list[Key] = []
        unwrapping = yield from _unwrapping_key()
        for part, payload in zip(parts, payloads, strict=True):
            usage = DEVICE_USAGES[Usage.ENCRYPT if part == TWEAK else Usage(part)]
            blob = wrap_key(payload, unwrapping.public_key, HashAlgorithm.Sha256)
            request = KeyRequest(usage, label=label.encode())
            assert kind.key_class is not None
            call = calls.rsa_unwrap(unwrapping, blob, kind.key_class, request, HashAlgorithm.Sha256)
            made.append((yield from link.residents.made(call)))
        return _version(kind, parts, made, "host")

    return make


def _unwrapping_key() -> Procedure[Key]:
    """The partition's import key, once firmware has made it (spec 04 §9.12)."""
    for _ in range(_PENDING_LOOKS):
        try:
            found: Key = yield Ask(calls.unwrapping_key())
            return found
        except StatusError as error:
            if error.status is not DdiStatus.PendingKeyGeneration:
                raise
        yield Wait(Signal(), _PENDING_INTERVAL_S)
    raise UnsupportedByDeviceError("import_key", "the device has not made its unwrapping key yet; repeat it later")


def payloads_of(kind: Kind, key: PrivateKey | bytes) -> list[bytes]:
    """A key as `importing` takes it.

    Raises:
        ArgumentError: an AES key of a length that is not the kind's, or AES-XTS with two equal halves.
    """
    if not isinstance(key, bytes):
        return [_pkcs8(key)]
    if len(key) != kind.aes_bytes:
        raise ArgumentError("import_key", "key", f"{len(key)} bytes, an {kind.name} key has {kind.aes_bytes}")
    if kind.family is not Family.XTS:
        return [key]
    half = len(key) // 2
    if key[:half] == key[half:]:
        raise ArgumentError("import_key", "key", "the two halves of an AES-XTS key must differ (IEEE 1619)")
    return [key[:half], key[half:]]


def parse_key(
    key: PrivateKey | Octets, kind_name: str | None, password: Octets | None
) -> tuple[Kind, PrivateKey | bytes]:
    """What the user gave to import: a private key of pyca, one in PEM or DER, or the bytes of an AES key with its kind.

    Raises:
        ArgumentError: bytes that are no key, or not one of the kind asked for; password missing or wrong.
        ArgumentTypeError: something else.
        UnsupportedByDeviceError: a key that the device cannot take, such as Ed25519.
    """
    asked = None if kind_name is None else kind_of("import_key", kind_name)
    if isinstance(key, bytes | bytearray | memoryview):
        data = octets("import_key", "key", key)
        if asked is not None and asked.aes_bytes:
            return asked, data
        key = _loaded(data, None if password is None else octets("import_key", "password", password))
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ArgumentTypeError("import_key", "key", f"{type(key).__name__}, must be an EC or RSA private key or bytes")
    name = CURVES.get(key.curve.name, "") if isinstance(key, ec.EllipticCurvePrivateKey) else f"rsa{key.key_size}"
    if name not in KINDS:
        what = key.curve.name if isinstance(key, ec.EllipticCurvePrivateKey) else f"RSA of {key.key_size} bits"
        raise UnsupportedByDeviceError("import_key", f"{what}: the device takes {', '.join(_IMPORTABLE)}")
    if asked is not None and asked.name != name:
        raise ArgumentError("import_key", "kind", f"{asked.name}, but the key is {name}")
    return KINDS[name], key


def _loaded(data: bytes, password: bytes | None) -> PrivateKey:
    if OPENSSH_BEGIN in data:
        raise ArgumentError(
            "import_key", "key", "in OpenSSH's own format: `ssh-keygen -p -m PKCS8 -f FILE` makes PEM of a copy of it"
        )
    # OpenSSL writes what it knows of a key before its PEM (`openssl pkcs12`).
    load = load_pem_private_key if PEM_BEGIN in data else load_der_private_key
    try:
        key = load(data, password)
    except TypeError as error:  # pyca's for one that was not given, or that is not needed
        raise ArgumentError("import_key", "password", f"{error}") from None
    except ValueError as error:
        raise ArgumentError(
            "import_key", "key", f"no private key in PEM or DER, or its password is wrong: {error}"
        ) from None
    except UnsupportedAlgorithm as error:
        raise UnsupportedByDeviceError("import_key", str(error)) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise UnsupportedByDeviceError("import_key", f"{type(key).__name__}: the device takes EC and RSA private keys")
    return key


def _pkcs8(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def parts_of(kind: Kind, usages: Sequence[Usage]) -> list[str]:
    """Names of the masked keys that make up a key."""
    return [*usages, TWEAK] if kind.family is Family.XTS else list(usages)


def _version(kind: Kind, parts: Sequence[str], made: Sequence[Key], origin: str) -> KeyVersion:
    return KeyVersion(
        kind=kind.name,
        usages={part: key.masked_key for part, key in zip(parts, made, strict=True)},
        public=made[0].public_key_der,
        origin=origin,
    )
