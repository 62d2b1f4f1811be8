# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The certificate chain of a partition: device identity down to the partition identity key (spec 06 §1.8)."""

import datetime
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ihsm.ddi.errors import CertificateChainError

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
        try:
            return tuple(_checked(x509.load_der_x509_certificate(der)) for der in self.der)
        except ValueError as error:
            raise CertificateChainError(f"certificate does not parse: {error}") from None

    @property
    def root_fingerprint(self) -> bytes:
        """SHA-256 of the root certificate, for comparison with what its owner publishes."""
        return hashlib.sha256(self.der[0]).digest()

    def pem(self) -> bytes:
        """The chain as a file: PEM, leaf first, as other programs expect it."""
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in reversed(self.certificates))

    @property
    def identity_key(self) -> ec.EllipticCurvePublicKey:
        """The partition identity key, P-384, whose owner the chain vouches for; not verified here."""
        return identity_key(self.der[-1])

    def verify(
        self,
        trusted_roots: Sequence[x509.Certificate] | None = None,
        *,
        at: datetime.datetime | None = None,
        strict_leaf: bool = True,
    ) -> None:
        """Verify signatures, names, validity, CA constraints and thumbprint from the root to the leaf.

        Args:
            trusted_roots: Certificates of which the chain's first must be one. Without them only the root's
                self-signature is verified, which proves consistency but not origin.
            at: Time to check validity for, now by default.
            strict_leaf: Refuse a partition certificate whose extensions do not parse. The real device's leaf
                carries a path length without the CA flag, which RFC 5280 forbids.

        Raises:
            CertificateChainError: names the certificate and what is wrong.
        """
        chain = self.certificates
        if self.thumbprint != chain_thumbprint(self.der):
            raise CertificateChainError("the certificates do not have the thumbprint that the device reports")
        root = chain[0]
        if trusted_roots is not None and root not in trusted_roots:
            raise CertificateChainError(f"root {root.subject.rfc4514_string()} is not trusted")
        now = at or datetime.datetime.now(datetime.UTC)
        for number, certificate in enumerate(chain):
            name = f"certificate {number} ({certificate.subject.rfc4514_string()})"
            if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
                raise CertificateChainError(f"{name} is not valid at {now:%Y-%m-%d}")
            try:
                certificate.verify_directly_issued_by(chain[max(number - 1, 0)])
            except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
                raise CertificateChainError(f"{name}: {error or 'wrong signature'}") from None
            if number < len(chain) - 1:
                _check_issuer(certificate, name, intermediates_below=len(chain) - 2 - number)
        if strict_leaf:
            _extensions(chain[-1], "partition certificate")


def _checked(certificate: x509.Certificate) -> x509.Certificate:
    """The certificate, once its names and dates are known to parse: the library looks at them late."""
    _ = certificate.subject, certificate.issuer, certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return certificate


def _extensions(certificate: x509.Certificate, name: str) -> x509.Extensions:
    try:
        return certificate.extensions
    except (ValueError, x509.DuplicateExtension) as error:
        raise CertificateChainError(f"{name}: extensions do not parse: {error}") from None


def _check_issuer(certificate: x509.Certificate, name: str, intermediates_below: int) -> None:
    """RFC 5280 §6.1.4: may this certificate sign others, and so many levels below it?"""
    extensions = _extensions(certificate, name)
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        raise CertificateChainError(f"{name} signs others: {error}") from None
    if not (constraints.ca and usage.key_cert_sign):
        raise CertificateChainError(f"{name} signs others but is no CA")
    if constraints.path_length is not None and constraints.path_length < intermediates_below:
        raise CertificateChainError(f"{name}: path length {constraints.path_length}, {intermediates_below} needed")


def identity_key(leaf: bytes) -> ec.EllipticCurvePublicKey:
    """The P-384 key of a partition certificate in DER."""
    try:
        key = x509.load_der_x509_certificate(leaf).public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateChainError(f"partition certificate does not parse: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise CertificateChainError("the partition certificate carries no P-384 key")
    return key


def load_certificates(data: bytes, name: str) -> list[x509.Certificate]:
    """All certificates in PEM, or one or several concatenated in DER.

    Raises:
        CertificateChainError: it is neither; the message starts with `name`.
    """
    try:
        if _PEM_MARK in data:
            return [_checked(certificate) for certificate in x509.load_pem_x509_certificates(data)]
        certificates = []
        while data:
            size = _der_bytes(data)
            certificates.append(_checked(x509.load_der_x509_certificate(data[:size])))
            data = data[size:]
    except ValueError as error:
        raise CertificateChainError(f"{name}: certificate does not parse: {error}") from None
    if not certificates:
        raise CertificateChainError(f"{name}: no certificate in it")
    return certificates


def _der_bytes(data: bytes) -> int:
    """Length of the DER element in front (X.690 §8.1.3), head included; ValueError if there is none."""
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
