# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Public keys as clients must not send them, in the wire form of either kind."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ihsm_abi.ddi import DeviceKind, EccCurve
from ihsm_abi.ddi.formats import ECC_BY_CURVE, EccFormat

P384 = ECC_BY_CURVE[EccCurve.P384]
PRIMES = {
    EccCurve.P256: 2**256 - 2**224 + 2**192 + 2**96 - 1,
    EccCurve.P384: 2**384 - 2**128 - 2**96 + 2**32 - 1,
    EccCurve.P521: 2**521 - 1,
}
_EC_PUBLIC_KEY = bytes.fromhex("06072a8648ce3d0201")


def coordinates(wire: bytes, kind: DeviceKind, form: EccFormat = P384) -> tuple[int, int]:
    """x and y of a well-formed wire key."""
    if kind is DeviceKind.Virtual:
        point = wire[len(form.spki_prefix) + 1 :]
        half = form.coordinate_bytes
        return int.from_bytes(point[:half], "big"), int.from_bytes(point[half:], "big")
    half = form.padded_bytes
    return int.from_bytes(wire[:half], "little"), int.from_bytes(wire[half:], "little")


def encoded(x: int, y: int, kind: DeviceKind, form: EccFormat = P384) -> bytes:
    """Wire form of whatever coordinates."""
    if kind is DeviceKind.Virtual:
        size = form.coordinate_bytes
        return form.spki_prefix + b"\x04" + x.to_bytes(size, "big") + y.to_bytes(size, "big")
    return x.to_bytes(form.padded_bytes, "little") + y.to_bytes(form.padded_bytes, "little")


def off_curve(wire: bytes, kind: DeviceKind, form: EccFormat = P384) -> bytes:
    """The key with another y in range."""
    x, y = coordinates(wire, kind, form)
    return encoded(x, y - 1 if y > 1 else 2, kind, form)


def out_of_range(wire: bytes, kind: DeviceKind, form: EccFormat = P384, *, axis: str = "x", value: int = -1) -> bytes:
    """The key with one coordinate replaced, by p unless `value` says otherwise."""
    x, y = coordinates(wire, kind, form)
    value = PRIMES[form.curve] if value < 0 else value
    return encoded(value, y, kind, form) if axis == "x" else encoded(x, value, kind, form)


def _spki(form: EccFormat, point: bytes) -> bytes:
    """SubjectPublicKeyInfo with any content of its bit string; all lengths here stay below 128 bytes."""
    start = form.spki_prefix.index(_EC_PUBLIC_KEY) - 2
    algorithm = form.spki_prefix[start : start + 2 + form.spki_prefix[start + 1]]
    bits = bytes([0x03, 1 + len(point), 0]) + point
    return bytes([0x30, len(algorithm) + len(bits)]) + algorithm + bits


def infinity(form: EccFormat = P384) -> bytes:
    """SubjectPublicKeyInfo of the point at infinity."""
    return _spki(form, b"\0")


def compressed(wire: bytes, form: EccFormat = P384) -> bytes:
    """SubjectPublicKeyInfo with a compressed point; `wire` is the uncompressed one."""
    x, y = coordinates(wire, DeviceKind.Virtual, form)
    return _spki(form, bytes([2 + (y & 1)]) + x.to_bytes(form.coordinate_bytes, "big"))


def spki(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    """DER SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def ec_spki(curve: ec.EllipticCurve) -> bytes:
    """A key of some curve."""
    return spki(ec.derive_private_key(7, curve).public_key())


RSA_SPKI = spki(rsa.RSAPublicNumbers(65537, (7 * 2**1021 + 309) * (3 * 2**1022 + 1037)).public_key())
