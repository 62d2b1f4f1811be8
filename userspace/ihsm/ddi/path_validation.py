# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Validation of certification paths (RFC 5280 §6.1): signatures, names, times, usages, constraints, what is critical.

pyca/cryptography has a validator that takes policies (`x509.verification`). It cannot be used: it refuses a device's
partition certificate, which has a notBefore of 2023 as GeneralizedTime and a path length without the CA flag (spec 06
§1.8), and every name constraint of the form directoryName, the only form of name in these chains. What is used are its
parser and its check of one signature.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID

from ihsm.ddi.errors import CertificateChainError
from ihsm.ddi.name_constraints import NameConstraintError, NameConstraints

E = TypeVar("E", bound=x509.ExtensionType)

_PROCESSED: Final = frozenset(
    {
        x509.BasicConstraints.oid,
        x509.KeyUsage.oid,
        x509.ExtendedKeyUsage.oid,
        x509.NameConstraints.oid,
        x509.SubjectAlternativeName.oid,
    }
)
"""Extensions that may be critical. Policies may not: nobody here asks for one, so a CA that insists is refused."""
_ECA: Final = x509.ObjectIdentifier("2.23.133.5.4.100.12")
"""tcg-dice-kp-eca: an embedded CA."""
_ATTESTATION: Final = frozenset(
    {x509.ObjectIdentifier("2.23.133.5.4.100.8"), x509.ObjectIdentifier("2.23.133.5.4.100.9")}
)
"""tcg-dice-kp-attestInit and tcg-dice-kp-attestLoc."""
_KEYS: Final = (ec.EllipticCurvePublicKey, rsa.RSAPublicKey, ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)
_MIN_RSA_BITS: Final = 2048
_CONSTRAINTS_HEAD: Final = bytes.fromhex("0603551D130101FF0405")
_PATH_LENGTH_ALONE: Final = _CONSTRAINTS_HEAD + bytes.fromhex("3003020100")
"""Critical BasicConstraints with path length 0 and without the CA flag, as a device's leaf has them (spec 06 §1.8)."""
_CA_ALONE: Final = _CONSTRAINTS_HEAD + bytes.fromhex("30030101FF")
"""The same length, and it parses."""


@contextmanager
def parsing(what: str) -> Iterator[None]:
    """What the certificate library raises of foreign bytes, as CertificateChainError.

    Which types those are is nowhere laid down: versions, algorithms, extensions and dates each have their own.
    """
    try:
        with warnings.catch_warnings():  # of what it will refuse one day: no line of ours
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            yield
    except CertificateChainError:
        raise
    except Exception as error:
        raise CertificateChainError(f"{what}: {str(error) or type(error).__name__}") from None


def validate_path(
    chain: Sequence[x509.Certificate],
    *,
    at: datetime.datetime,
    strict_leaf: bool,
    trusted_roots: Collection[x509.Certificate] | None = None,
) -> None:
    """Validate a path, the trust anchor's own certificate included.

    Args:
        chain: Certificates, root first; the last one's key is to sign reports.
        at: Time to check validity for, with its zone.
        strict_leaf: Refuse a leaf with the one mistake that a device's partition certificate has by design.
        trusted_roots: Certificates of which the root must be one, None to trust it for this path.

    Raises:
        CertificateChainError: names the certificate and what is wrong.
    """
    if not chain:
        raise CertificateChainError("there is no certificate in the chain")
    if trusted_roots is not None:
        require_trusted(chain[0], trusted_roots)
    names = NameConstraints()
    last = len(chain) - 1
    for number, certificate in enumerate(chain):
        name = f"certificate {number} ({certificate.subject.rfc4514_string()})"
        if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
            raise CertificateChainError(f"{name} is not valid at {at:%Y-%m-%d}")
        _check_signature(certificate, chain[max(number - 1, 0)], name)
        extensions = _Extensions(certificate, name, quirk=number == last and not strict_leaf)
        extensions.refuse_unprocessed()
        self_issued = certificate.issuer == certificate.subject
        if number == last or not self_issued:
            _check_names(certificate, extensions, names)
        if number == last:
            _check_leaf(extensions, alone=not number)
        else:
            below = chain[number + 1 : last]
            _check_ca(extensions, sum(each.issuer != each.subject for each in below))
            constraints = extensions.find(x509.NameConstraints)
            if constraints is not None:
                names.add(constraints)


def require_trusted(root: x509.Certificate, trusted: Collection[x509.Certificate]) -> None:
    """See that a root is one of the certificates that are trusted; CertificateChainError if not."""
    if root not in trusted:
        raise CertificateChainError(f"root {root.subject.rfc4514_string()} is not trusted")


class _Extensions:
    """The extensions of one certificate."""

    def __init__(self, certificate: x509.Certificate, name: str, *, quirk: bool) -> None:
        self.name = name
        with parsing(f"{name}: extensions do not parse"):
            mistaken = quirk and certificate.tbs_certificate_bytes.count(_PATH_LENGTH_ALONE) == 1
            parsed = _mended(certificate) if mistaken else certificate
            self._all: list[x509.Extension[x509.ExtensionType]] = list(parsed.extensions)
        if mistaken:
            self._all = [each for each in self._all if not isinstance(each.value, x509.BasicConstraints)]

    def find(self, kind: type[E]) -> E | None:
        """The extension of a class, None if there is none."""
        return next((each.value for each in self._all if isinstance(each.value, kind)), None)

    def critical(self, kind: type[x509.ExtensionType]) -> bool:
        """Whether an extension is there and critical."""
        return any(each.critical and isinstance(each.value, kind) for each in self._all)

    def refuse_unprocessed(self) -> None:
        """RFC 5280 §6.1.4 (o), §6.1.5 (f)."""
        for each in self._all:
            if each.critical and each.oid not in _PROCESSED:
                raise CertificateChainError(f"{self.name}: unknown critical extension {each.oid.dotted_string}")


def _mended(certificate: x509.Certificate) -> x509.Certificate:
    """The same with BasicConstraints that parse, to have its other extensions: the library parses all or none."""
    der = certificate.public_bytes(Encoding.DER)
    return x509.load_der_x509_certificate(der.replace(_PATH_LENGTH_ALONE, _CA_ALONE, 1))


def _check_signature(certificate: x509.Certificate, issuer: x509.Certificate, name: str) -> None:
    """RFC 5280 §6.1.3 (a): signed by the issuer whose name it carries; the library refuses SHA-1 and what is older."""
    with parsing(name):
        try:
            certificate.verify_directly_issued_by(issuer)
        except InvalidSignature:
            raise CertificateChainError(f"{name}: wrong signature") from None
        key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        raise CertificateChainError(f"{name}: RSA key of {key.key_size} bits, at least {_MIN_RSA_BITS} needed")
    if not isinstance(key, _KEYS):
        raise CertificateChainError(f"{name}: key of an unsupported kind, {type(key).__name__}")


def _check_names(certificate: x509.Certificate, extensions: _Extensions, names: NameConstraints) -> None:
    """RFC 5280 §6.1.3 (b), (c)."""
    alternatives = extensions.find(x509.SubjectAlternativeName)
    try:
        names.check(certificate.subject, alternatives or ())
    except NameConstraintError as error:
        raise CertificateChainError(f"{extensions.name}: {error}") from None


def _check_ca(extensions: _Extensions, intermediates_below: int) -> None:
    """RFC 5280 §6.1.4 (k) to (n): may this certificate sign others, and so many levels below it?"""
    name = extensions.name
    constraints, usage = extensions.find(x509.BasicConstraints), extensions.find(x509.KeyUsage)
    if constraints is None or usage is None:
        missing = "BasicConstraints" if constraints is None else "KeyUsage"
        raise CertificateChainError(f"{name} signs others: No {missing} extension was found")
    if not (constraints.ca and usage.key_cert_sign):
        raise CertificateChainError(f"{name} signs others but is no CA")
    if constraints.path_length is not None and constraints.path_length < intermediates_below:
        raise CertificateChainError(f"{name}: path length {constraints.path_length}, {intermediates_below} needed")
    purposes = extensions.find(x509.ExtendedKeyUsage)
    # Of a CA the purposes are a hint, unless it insists.
    if extensions.critical(x509.ExtendedKeyUsage) and purposes is not None and not _allows(purposes, {_ECA}):
        raise CertificateChainError(f"{name} signs others, which its extended key usage does not allow")


def _check_leaf(extensions: _Extensions, *, alone: bool) -> None:
    """RFC 5280 §4.2.1.3, §4.2.1.12: may its key sign reports? What is absent restricts nothing.

    A simulator has one certificate, whose key is a CA's and signs reports as well.
    """
    name = extensions.name
    usage, purposes = extensions.find(x509.KeyUsage), extensions.find(x509.ExtendedKeyUsage)
    if usage is not None and not (usage.digital_signature or (alone and usage.key_cert_sign)):
        raise CertificateChainError(f"{name}: its key usage does not allow it to sign reports")
    if purposes is not None and not _allows(purposes, _ATTESTATION):
        raise CertificateChainError(f"{name}: its extended key usage does not allow it to sign reports")


def _allows(purposes: x509.ExtendedKeyUsage, wanted: Collection[x509.ObjectIdentifier]) -> bool:
    return any(each in wanted or each == ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE for each in purposes)
