# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""EC private keys in the device, as pyca/cryptography's private keys."""

from __future__ import annotations

from typing import NoReturn, cast

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

from ihsm.api.digests import device_hash, digest_of
from ihsm.api.errors import KeyNotExportableError, UnsupportedByDeviceError
from ihsm.api.facts import KeyFacts
from ihsm.api.handles import DeviceKey, Handle, Maker
from ihsm.api.kinds import KINDS, SECRET_KINDS, Kind, Usage
from ihsm.api.numbers import WithheldEcNumbers
from ihsm.api.secret_key import SecretKey
from ihsm.api.steps import Ask, Procedure
from ihsm.arguments import Octets
from ihsm.ddi import Key, KeyRequest, calls
from ihsm.errors import ArgumentError, ArgumentTypeError
from ihsm_abi.ddi import HashAlgorithm, KeyUsage


class EcPrivateKey(DeviceKey, ec.EllipticCurvePrivateKey):
    """A P-256, P-384 or P-521 key whose private half is in the device alone."""

    def __init__(self, handle: Handle, facts: KeyFacts) -> None:
        """Made by `Hsm`."""
        super().__init__(handle, facts)
        assert facts.public is not None
        self._public = cast(ec.EllipticCurvePublicKey, load_der_public_key(facts.public))

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """Bits of the order."""
        return self._public.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._public

    def sign(self, data: Octets, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """ECDSA with SHA-1, SHA-256, SHA-384 or SHA-512, or over a digest of theirs (`Prehashed`).

        Returns:
            The signature, DER (RFC 3279 §2.2.3).

        Raises:
            UnsupportedByDeviceError: another algorithm or hash, or nonces derived from key and message (RFC 6979).
            ArgumentError: the key was not made to sign, or Prehashed data are no digest.
            StatusError: the device refuses, such as SHA-1 in FIPS-approved mode.
        """
        digest, label = _signable(data, signature_algorithm)
        return self._handle.run("sign", Usage.SIGN, lambda key: self._signed(key, digest, label))

    async def sign_async(self, data: Octets, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """The same, awaited."""
        digest, label = _signable(data, signature_algorithm)
        return await self._handle.run_async("sign", Usage.SIGN, lambda key: self._signed(key, digest, label))

    def _signed(self, key: Key, digest: bytes, label: HashAlgorithm) -> Procedure[bytes]:
        raw = yield Ask(calls.ecc_sign(key, digest, label))
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))

    def agree(self, peer_public_key: ec.EllipticCurvePublicKey) -> SecretKey:
        """Elliptic-curve Diffie-Hellman (NIST SP 800-56A §5.7.1.2); the shared secret stays in the device.

        Args:
            peer_public_key: on the same curve.

        Returns:
            A secret to derive keys from, not kept in the store before `Hsm.keep`.

        Raises:
            ArgumentError, ArgumentTypeError: the key was not made to agree, or the peer's is on another curve.
        """
        kind, peer = self._peer("agree", peer_public_key)
        return self._secret(kind, self._handle.derive("agree", Usage.AGREE, [_maker(kind, peer)]))

    async def agree_async(self, peer_public_key: ec.EllipticCurvePublicKey) -> SecretKey:
        """The same, awaited."""
        kind, peer = self._peer("agree_async", peer_public_key)
        return self._secret(kind, await self._handle.derive_async("agree_async", Usage.AGREE, [_maker(kind, peer)]))

    def _peer(self, operation: str, peer: ec.EllipticCurvePublicKey) -> tuple[Kind, bytes]:
        """Kind of the secret, and the peer's key as the device takes it."""
        if not isinstance(peer, ec.EllipticCurvePublicKey):
            problem = f"{type(peer).__name__}, must be an EllipticCurvePublicKey"
            raise ArgumentTypeError(operation, "peer_public_key", problem)
        if peer.curve.name != self.curve.name:
            problem = f"on {peer.curve.name}, {self.facts.name} is on {self.curve.name}"
            raise ArgumentError(operation, "peer_public_key", problem)
        spki = peer.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return SECRET_KINDS[KINDS[self.facts.kind].curve], spki

    def _secret(self, kind: Kind, masked: tuple[bytes, ...]) -> SecretKey:
        facts = KeyFacts(kind=kind.name, usages=kind.usages, origin="derived")
        return SecretKey(Handle(self._handle.connection, facts.name, {Usage.DERIVE: masked}), facts)

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        """A shared secret as bytes is what the device never gives.

        Raises:
            UnsupportedByDeviceError: always; `agree` makes the secret a key of the device.
        """
        raise UnsupportedByDeviceError(
            "exchange", "the shared secret stays in the device; agree(peer) returns it as a key there, to derive from"
        )

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        """An object whose `public_numbers` are those of the key, and whose secret raises KeyNotExportableError."""
        return cast(ec.EllipticCurvePrivateNumbers, WithheldEcNumbers(self._public.public_numbers(), self.facts.name))

    def private_bytes(
        self, encoding: Encoding, format: PrivateFormat, encryption_algorithm: KeySerializationEncryption
    ) -> NoReturn:
        """What never leaves the device; raises KeyNotExportableError, always."""
        raise KeyNotExportableError("private_bytes", f"{self.facts.name} is in the device and does not leave it")


def _maker(kind: Kind, peer: bytes) -> Maker:
    """The call that makes a secret of a key and the peer's."""
    assert kind.key_type is not None
    key_type = kind.key_type
    return lambda key: calls.ecdh(key, peer, key_type, KeyRequest(KeyUsage.Derive))


def _signable(data: Octets, algorithm: ec.EllipticCurveSignatureAlgorithm) -> tuple[bytes, HashAlgorithm]:
    """Digest, and what the device is told of its hash."""
    if not isinstance(algorithm, ec.ECDSA):
        raise UnsupportedByDeviceError("sign", f"signature_algorithm {type(algorithm).__name__}; ECDSA is possible")
    if algorithm.deterministic_signing:
        raise UnsupportedByDeviceError(
            "sign", "the device draws its nonces and cannot derive them (RFC 6979); use ECDSA(algorithm) alone"
        )
    digest, made_by = digest_of("sign", data, algorithm.algorithm)
    return digest, device_hash("sign", "signs", made_by)
