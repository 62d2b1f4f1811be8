# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The certificate chain of a partition: device identity down to the partition identity key (spec 06 §1.8)."""

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ihsm.ddi.errors import CertificateChainError
from ihsm.ddi.path_validation import parsing, validate_path
from ihsm.errors import ArgumentError

# The alias and the partition certificate follow those of the device and its vendor.
_BELOW_DEVICE = 2
_PEM_MARK = b"-----BEGIN CERTIFICATE-----"


def chain_thumbprint(certificates: Sequence[bytes]) -> bytes:
    """Thumbprint that GetCertChainInfo reports for these DER certificates, root first: SHA-256 over SHA-256 values.

    A chain of one, which only a simulator has, is hashed directly.
    """
    hashes = [hashlib.sha256(certificate).digest() for certificate in certificates]
    if len(hashes) == 1:
        return hashes[0]
    device = hashlib.sha256(b"".join(hashes[:-_BELOW_DEVICE])).digest()
    return hashlib.sha256(device + b"".join(hashes[-_BELOW_DEVICE:])).digest()


@dataclass(frozen=True, slots=True)
class CertificateChain:
    """Certificates in DER, root first; the last one carries the partition identity key."""

    der: tuple[bytes, ...]
    thumbprint: bytes

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The parsed certificates; CertificateChainError if one does not parse."""
        return tuple(map(parse_certificate, self.der))

    @property
    def root_fingerprint(self) -> bytes:
        """SHA-256 of the root certificate, for comparison with what its owner publishes."""
        return hashlib.sha256(self._present[0]).digest()

    def pem(self) -> bytes:
        """The chain as a file: PEM, leaf first, as other programs expect it."""
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in reversed(self.certificates))

    @property
    def identity_key(self) -> ec.EllipticCurvePublicKey:
        """The partition identity key, P-384, whose owner the chain vouches for; not verified here."""
        return identity_key(self._present[-1])

    @property
    def _present(self) -> tuple[bytes, ...]:
        if not self.der:
            raise CertificateChainError("there is no certificate in the chain")
        return self.der

    def verify(
        self,
        trusted_roots: Sequence[x509.Certificate] | None = None,
        *,
        at: datetime.datetime | None = None,
        strict_leaf: bool = True,
    ) -> None:
        """Verify the thumbprint, and the path from the root to the leaf by RFC 5280 (`ihsm.ddi.path_validation`).

        Args:
            trusted_roots: Certificates of which the chain's first must be one. Without them only the root's
                self-signature is verified, which proves consistency but not origin.
            at: Time to check validity for, with its zone; now by default.
            strict_leaf: Refuse a partition certificate that carries a path length without the CA flag, as that of the
                real device does. RFC 5280 forbids it; no other mistake is let through.

        Raises:
            ArgumentError: `at` has no zone.
            CertificateChainError: names the certificate and what is wrong.
        """
        chain = self.certificates
        now = datetime.datetime.now(datetime.UTC) if at is None else at
        if now.tzinfo is None:
            raise ArgumentError("CertificateChain.verify", "at", "a time without its zone")
        if chain and self.thumbprint != chain_thumbprint(self.der):
            raise CertificateChainError("the certificates do not have the thumbprint that the device reports")
        validate_path(chain, at=now, strict_leaf=strict_leaf, trusted_roots=trusted_roots)


def parse_certificate(der: bytes) -> x509.Certificate:
    """One certificate of somebody else's, of which names and dates parse too; CertificateChainError if not."""
    with parsing("certificate does not parse"):
        return _checked(x509.load_der_x509_certificate(der))


def _checked(certificate: x509.Certificate) -> x509.Certificate:
    """The certificate, once its names and dates are known to parse: the library looks at them late."""
    _ = certificate.subject, certificate.issuer, certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return certificate


def identity_key(leaf: bytes) -> ec.EllipticCurvePublicKey:
    """The P-384 key of a partition certificate in DER."""
    with parsing("partition certificate does not parse"):
        key = x509.load_der_x509_certificate(leaf).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise CertificateChainError("the partition certificate carries no P-384 key")
    return key


def load_certificates(data: bytes, name: str) -> list[x509.Certificate]:
    """All certificates in PEM, or one or several concatenated in DER.

    Raises:
        CertificateChainError: it is neither; the message starts with `name`.
    """
    certificates = []
    with parsing(f"{name}: certificate does not parse"):
        if _PEM_MARK in data:
            return [_checked(certificate) for certificate in x509.load_pem_x509_certificates(data)]
        while data:
            size = _der_bytes(data)
            certificates.append(_checked(x509.load_der_x509_certificate(data[:size])))
            data = data[size:]
    if not certificates:
        raise CertificateChainError(f"{name}: no certificate in it")
    return certificates


def _der_bytes(data: bytes) -> int:
    """Length of the DER element in front (X.690 §8.1.3), head included; any exception if there is none."""
    length_octets = data[1] & 0x7F if len(data) > 1 and data[1] & 0x80 else 0
    if len(data) < 2 + length_octets:
        raise ValueError("the data end inside a length")
    content = int.from_bytes(data[2 : 2 + length_octets], "big") if length_octets else data[1]
    return 2 + length_octets + content


def order_chain(certificates: Sequence[x509.Certificate]) -> CertificateChain:
    """The chain that these certificates form, whatever their order; not verified.

    Raises:
        CertificateChainError: they are not one line from a self-issued root to a leaf.
    """
    roots = [certificate for certificate in certificates if certificate.issuer == certificate.subject]
    if len(roots) != 1:
        raise CertificateChainError(f"{len(roots)} self-issued certificates among {len(certificates)}, one expected")
    chain, rest = roots, [certificate for certificate in certificates if certificate is not roots[0]]
    while rest:
        issued = [certificate for certificate in rest if certificate.issuer == chain[-1].subject]
        if len(issued) != 1:
            name = chain[-1].subject.rfc4514_string()
            raise CertificateChainError(f"{len(issued)} certificates issued by {name}, one expected")
        chain.append(issued[0])
        rest.remove(issued[0])
    der = tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)
    return CertificateChain(der, chain_thumbprint(der))
