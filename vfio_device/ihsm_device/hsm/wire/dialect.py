# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The two dialects of the wire (spec 03 §6, 05 §1), turned into one canonical form and back.

Canonical, everywhere behind this file: numbers big-endian, EC points as `curves.Point`, signatures r ‖ s with halves of
the curve's coordinate size, RSA keys as modulus and exponent. Which dialect is spoken follows from the device kind and
is known to no operation.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Final

from ihsm_abi.ddi import DdiStatus, DerPublicKey, DeviceKind, HashAlgorithm
from ihsm_abi.ddi.formats import RAW_DIGEST_BYTES, RAW_RSA_EXPONENT_BYTES, RSA_MODULUS_BYTES, WRAPPED_KEK_BYTES
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.keystore import Hash, RsaPublic
from ihsm_device.hsm.wire import der
from ihsm_device.hsm.wire.curves import BY_ID, Curve, Point

_RSA_PUBLIC_TYPE: Final = {size: key_type for key_type, size in RSA_MODULUS_BYTES.items()}
_EC_ALGORITHM: Final = der.object_identifier("1.2.840.10045.2.1")
_RSA_ALGORITHM: Final = der.sequence(der.object_identifier("1.2.840.113549.1.1.1"), der.element(der.NULL))


class Dialect(ABC):
    """How key material is written on the wire."""

    kind: ClassVar[DeviceKind]
    little_endian: ClassVar[bool]
    """Byte order of numbers."""

    # -- what the device sends ------------------------------------------------------------------------------------

    def ec_public_key(self, point: Point) -> DerPublicKey:
        """A public EC key as it appears in responses."""
        return DerPublicKey(der=self.write_ec_point(point), key_kind=point.curve.form.public_type)

    def rsa_public_key(self, public: RsaPublic) -> DerPublicKey:
        """A public RSA key as it appears in responses."""
        return DerPublicKey(der=self.write_rsa_public(public), key_kind=_RSA_PUBLIC_TYPE[len(public.n)])

    @abstractmethod
    def write_ec_point(self, point: Point) -> bytes:
        """Content of a `der` field for an EC key."""

    @abstractmethod
    def write_rsa_public(self, public: RsaPublic) -> bytes:
        """Content of a `der` field for an RSA key."""

    @abstractmethod
    def write_signature(self, signature: bytes, curve: Curve) -> bytes:
        """A canonical r ‖ s in wire form."""

    @abstractmethod
    def write_number(self, number: bytes) -> bytes:
        """A big-endian number in wire form, same length."""

    # -- what it receives -----------------------------------------------------------------------------------------

    @abstractmethod
    def read_ec_point(self, wire: bytes, curve: Curve) -> Point:
        """The point of a public key that must be on `curve`; neither range nor curve equation are checked yet.

        Raises:
            RefusedError: KeyDecodeFailed, DerAndKeyTypeMismatch (Virtual), EccDerKeyShorterThanCurve (Physical).
        """

    @abstractmethod
    def read_signature(self, wire: bytes, curve: Curve) -> bytes | None:
        """Canonical r ‖ s of a signature; None if the length is not the curve's."""

    @abstractmethod
    def read_number(self, wire: bytes) -> bytes:
        """A number of the wire in big-endian form, same length."""

    @abstractmethod
    def read_digest(self, wire: bytes, curve: Curve, algorithm: HashAlgorithm) -> bytes:
        """The digest to sign; the signer keeps its leftmost bits (spec 05 §9, 03 §6.2).

        Raises:
            RefusedError: InvalidArg, if the wire form has a fixed length and this is another one.
        """

    @abstractmethod
    def digest_bytes(self, curve: Curve) -> tuple[int, int]:
        """Length of a digest on the wire, and its lower end, of which `read_digest` takes all and only that.

        It takes more if one of the other bytes is not zero. Both are 0 if a digest of any length is taken as it is.
        """

    @abstractmethod
    def read_wrapped_blob(self, wire: bytes) -> tuple[bytes, bytes]:
        """RSA ciphertext (at most 256 bytes, a big-endian number) and wrapped key of an RsaUnwrap request."""


class VirtualDialect(Dialect):
    """Kind 1: SubjectPublicKeyInfo and big-endian numbers."""

    kind = DeviceKind.Virtual
    little_endian = False

    def write_ec_point(self, point: Point) -> bytes:
        """See `Dialect`."""
        return point.curve.form.spki_prefix + point.uncompressed()

    def write_rsa_public(self, public: RsaPublic) -> bytes:
        """See `Dialect`."""
        numbers = (der.integer(int.from_bytes(part, "big")) for part in public)
        return der.sequence(_RSA_ALGORITHM, der.bit_string(der.sequence(*numbers)))

    def write_signature(self, signature: bytes, curve: Curve) -> bytes:
        """See `Dialect`."""
        return signature

    def write_number(self, number: bytes) -> bytes:
        """See `Dialect`."""
        return number

    def read_ec_point(self, wire: bytes, curve: Curve) -> Point:
        """See `Dialect`. Bytes after the SubjectPublicKeyInfo are ignored, as in the other dialect."""
        try:
            prefix, encoded = _split_ec_spki(wire)
        except der.DerError:
            raise RefusedError(DdiStatus.KeyDecodeFailed) from None
        if prefix != curve.form.spki_prefix:
            raise RefusedError(DdiStatus.DerAndKeyTypeMismatch)
        return Point.from_uncompressed(curve, encoded)

    def read_signature(self, wire: bytes, curve: Curve) -> bytes | None:
        """See `Dialect`."""
        return wire if len(wire) == 2 * curve.size else None

    def read_number(self, wire: bytes) -> bytes:
        """See `Dialect`."""
        return wire

    def read_digest(self, wire: bytes, curve: Curve, algorithm: HashAlgorithm) -> bytes:
        """See `Dialect`. Any length is a big-endian number."""
        return wire

    def digest_bytes(self, curve: Curve) -> tuple[int, int]:
        """See `Dialect`."""
        return 0, 0

    def read_wrapped_blob(self, wire: bytes) -> tuple[bytes, bytes]:
        """See `Dialect`."""
        return wire[:WRAPPED_KEK_BYTES], wire[WRAPPED_KEK_BYTES:]


class PhysicalDialect(Dialect):
    """Kind 2: raw little-endian numbers, P-521 coordinates padded to 68 bytes."""

    kind = DeviceKind.Physical
    little_endian = True

    def write_ec_point(self, point: Point) -> bytes:
        """See `Dialect`."""
        return point.raw()

    def write_rsa_public(self, public: RsaPublic) -> bytes:
        """See `Dialect`."""
        return public.n[::-1] + public.e[::-1].ljust(RAW_RSA_EXPONENT_BYTES, b"\0")

    def write_signature(self, signature: bytes, curve: Curve) -> bytes:
        """See `Dialect`."""
        size, padded = curve.size, curve.form.padded_bytes
        return signature[size - 1 :: -1].ljust(padded, b"\0") + signature[: size - 1 : -1].ljust(padded, b"\0")

    def write_number(self, number: bytes) -> bytes:
        """See `Dialect`."""
        return number[::-1]

    def read_ec_point(self, wire: bytes, curve: Curve) -> Point:
        """See `Dialect`. A longer key is accepted, the rest ignored."""
        size = curve.form.padded_bytes
        if len(wire) < 2 * size:
            raise RefusedError(DdiStatus.EccDerKeyShorterThanCurve)
        return Point(curve, int.from_bytes(wire[:size], "little"), int.from_bytes(wire[size : 2 * size], "little"))

    def read_signature(self, wire: bytes, curve: Curve) -> bytes | None:
        """See `Dialect`. What stands beyond the curve's size is fill and not looked at."""
        padded = curve.form.padded_bytes
        if len(wire) != 2 * padded:
            return None
        return wire[:padded][curve.size - 1 :: -1] + wire[padded:][curve.size - 1 :: -1]

    def read_number(self, wire: bytes) -> bytes:
        """See `Dialect`."""
        return wire[::-1]

    def read_digest(self, wire: bytes, curve: Curve, algorithm: HashAlgorithm) -> bytes:
        """See `Dialect`.

        The 68 bytes are one number. What fits the curve's order is its low-order end; a longer one has the length that
        the algorithm implies.
        """
        if len(wire) != RAW_DIGEST_BYTES:
            raise RefusedError(DdiStatus.InvalidArg)
        number = wire[::-1]
        _, fitting = self.digest_bytes(curve)
        significant = len(number.lstrip(b"\0"))
        if significant <= fitting:
            return number[-fitting:]
        implied = Hash(algorithm).size_bytes if algorithm.known else 0
        return number[-max(significant, implied) :]

    def digest_bytes(self, curve: Curve) -> tuple[int, int]:
        """See `Dialect`."""
        # 65 bytes for P-521: its order has 521 bits, and of 66 bytes the signer would drop the lowest 7 bits.
        return RAW_DIGEST_BYTES, curve.p.bit_length() // 8

    def read_wrapped_blob(self, wire: bytes) -> tuple[bytes, bytes]:
        """See `Dialect`."""
        return wire[:WRAPPED_KEK_BYTES][::-1], wire[WRAPPED_KEK_BYTES:]


def _split_ec_spki(wire: bytes) -> tuple[bytes, bytes]:
    """An EC SubjectPublicKeyInfo, divided before the 04 of its uncompressed point; raises DerError.

    The curve must be a named one, whether or not the device has it.
    """
    spki = der.read(wire, tag=der.SEQUENCE)
    algorithm = der.read(spki.contents, tag=der.SEQUENCE)
    parameters = algorithm.contents.removeprefix(_EC_ALGORITHM)
    if parameters == algorithm.contents:
        raise der.DerError("no EC key")
    if der.read(parameters, tag=der.OBJECT_IDENTIFIER).end != len(parameters):
        raise der.DerError("bytes after the curve")
    bits = der.read(spki.contents, algorithm.end, tag=der.BIT_STRING)
    encoded = bits.contents[1:]
    if bits.end != len(spki.contents) or not bits.contents.startswith(b"\0\x04"):
        raise der.DerError("no uncompressed point")
    prefix = wire[: spki.end - len(encoded)]
    for curve in BY_ID.values():
        if algorithm.contents in curve.form.spki_prefix and prefix != curve.form.spki_prefix:
            raise der.DerError("the point has not the curve's length")
    return prefix, encoded


DIALECTS: Final[dict[DeviceKind, Dialect]] = {
    dialect.kind: dialect for dialect in (VirtualDialect(), PhysicalDialect())
}
