# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The certificate chain: Device ID, alias, partition (spec 06 §1.6, §1.8, §10.2).

The X.509 library encodes; what is signed goes to the key store, which holds the keys.
"""

import datetime
import hashlib
from collections.abc import Sequence
from typing import Final, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.backends.openssl import backend as _backend  # noqa: F401  # later it may not be loaded
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID, ObjectIdentifier

from ihsm_device.hsm.identity.identity import DeviceIdentity, LayerIdentity, PartitionIdentity
from ihsm_device.hsm.keystore import Handle, Hash, KeyStore
from ihsm_device.hsm.profile import LeafForm
from ihsm_device.hsm.wire import Point, der

DEVICE_NOT_BEFORE: Final = datetime.datetime(2018, 1, 1, tzinfo=datetime.UTC)
PARTITION_NOT_BEFORE: Final = datetime.datetime(2023, 1, 1, tzinfo=datetime.UTC)
NOT_AFTER: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
PARTITION_SERIAL_BYTES: Final = 20

_TCG_DICE_KP: Final = "2.23.133.5.4.100."
_DEVICE_ID_USAGES: Final = (
    _TCG_DICE_KP + "6",  # initial device identity
    _TCG_DICE_KP + "8",  # initial attestation
    _TCG_DICE_KP + "12",  # embedded certificate authority
)
_ALIAS_USAGES: Final = (
    _TCG_DICE_KP + "7",  # local device identity
    _TCG_DICE_KP + "9",  # local attestation
    _TCG_DICE_KP + "12",
)


_ATTESTATION_USAGES: Final = (
    _TCG_DICE_KP + "7",
    _TCG_DICE_KP + "9",
    _TCG_DICE_KP + "11",  # local assertion
    "1.3.6.1.4.1.412.274.3",  # SPDM responder
)
_TCB_INFO: Final = "2.23.133.5.4.1"
_SHA384: Final = "2.16.840.1.101.3.4.2.2"
_VENDOR: Final = "ihsm"
_MODEL: Final = "Azure Integrated HSM emulator"
"""Not the name of the part that is emulated: nobody shall take this for hardware."""
_ATTESTATION_LAYER: Final = 1


_Extension = tuple[x509.ExtensionType, bool]
"""And whether it is critical."""


class _StoredKey(ec.EllipticCurvePrivateKey):
    """A P-384 key of the key store, in the shape that the X.509 library signs with."""

    def __init__(self, store: KeyStore, key: Handle) -> None:
        self._store = store
        self._key = key

    @property
    def curve(self) -> ec.EllipticCurve:
        return ec.SECP384R1()

    @property
    def key_size(self) -> int:
        return self.curve.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return ec.EllipticCurvePublicKey.from_encoded_point(self.curve, self._store.ec_public(self._key))

    def sign(self, data: bytes, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:  # type: ignore[override]
        signature = self._store.ec_sign(self._key, self._store.digest(Hash.SHA384, data))
        half = len(signature) // 2
        return utils.encode_dss_signature(
            int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
        )

    def exchange(self, *_: object) -> NoReturn:
        raise TypeError("this key signs certificates")

    def private_numbers(self) -> NoReturn:
        raise TypeError("the key stays in the key store")

    def private_bytes(self, *_: object) -> NoReturn:
        raise TypeError("the key stays in the key store")

    def __copy__(self) -> "_StoredKey":
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> "_StoredKey":
        return self


def device_chain(store: KeyStore, device: DeviceIdentity) -> tuple[bytes, bytes]:
    """DER of the self-signed Device ID certificate and of the alias certificate below it."""
    root, alias = device.device_id, device.alias
    root_certificate = _layer_certificate(
        store, root, root, _authority_extensions(path_length=1), usages=_DEVICE_ID_USAGES
    )
    alias_certificate = _layer_certificate(
        store, alias, root, _authority_extensions(path_length=0), usages=_ALIAS_USAGES
    )
    return root_certificate, alias_certificate


def attestation_certificate(
    store: KeyStore, device: DeviceIdentity, alias: LayerIdentity, firmware_id: bytes, version: str, svn: int
) -> bytes:
    """DER of the certificate of the alias that proves over a mailbox, below Device ID (spec 06 §1.6)."""
    usage = _key_usage(digital_signature=True, key_agreement=True)
    tcb = x509.UnrecognizedExtension(ObjectIdentifier(_TCB_INFO), _tcb_info(firmware_id, version, svn))
    return _layer_certificate(
        store, alias, device.device_id, [(usage, True)], usages=_ATTESTATION_USAGES, last=[(tcb, False)]
    )


def partition_certificate(
    store: KeyStore, device: DeviceIdentity, partition: PartitionIdentity, form: LeafForm
) -> bytes:
    """DER of a partition's certificate, signed by the alias key."""
    serial = bytearray(store.random(PARTITION_SERIAL_BYTES))
    serial[0] = (serial[0] & 0x7F) | 0x01
    public_key = _public_key(partition.point)
    builder = (
        x509.CertificateBuilder()
        .serial_number(int.from_bytes(serial, "big"))
        .issuer_name(_name(device.alias.common_name))
        .subject_name(_name(partition.partition_id.hex().upper()))
        .not_valid_before(PARTITION_NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .public_key(public_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_authority(device.alias.point), critical=False)
    )
    signer = _StoredKey(store, device.alias.key)
    certificate = builder.sign(signer, hashes.SHA384())
    if form is LeafForm.REAL:
        return _sign(signer, _real_form(certificate.tbs_certificate_bytes))
    return certificate.public_bytes(serialization.Encoding.DER)


def verify_device_chain(device: DeviceIdentity, chain: Sequence[bytes]) -> None:
    """Raise ValueError unless the chain, as `device_chain` makes it, is signed by and for this device's keys."""
    root, alias = map(_parse, chain)
    _verify(root, device.device_id.point, root)
    _verify(alias, device.alias.point, root)


def verify_leaf(partition: PartitionIdentity, leaf: bytes, chain: Sequence[bytes]) -> None:
    """Raise ValueError unless the leaf certifies the partition's key and is signed by the last of `chain`."""
    _verify(_parse(leaf), partition.point, _parse(chain[-1]))


def thumbprint(chain: Sequence[bytes]) -> bytes:
    """SHA-256 over three SHA-256 values: of the upper certificates', of the alias, of the leaf (spec 06 §1.8)."""
    *upper, alias, leaf = (hashlib.sha256(certificate).digest() for certificate in chain)
    return hashlib.sha256(hashlib.sha256(b"".join(upper)).digest() + alias + leaf).digest()


def _parse(data: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(data)
    except x509.InvalidVersion as error:
        raise ValueError(str(error)) from None
    if certificate.public_bytes(serialization.Encoding.DER) != data:
        raise ValueError("the certificate is not in DER")
    return certificate


def _verify(certificate: x509.Certificate, subject: Point, issuer: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
        if certificate.public_key() == _public_key(subject):
            return
    except InvalidSignature:
        raise ValueError("a certificate's signature does not verify") from None
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"a certificate has no key of the device: {error}") from None
    raise ValueError("a certificate has another key")


def _layer_certificate(
    store: KeyStore,
    subject: LayerIdentity,
    issuer: LayerIdentity,
    first: Sequence[_Extension],
    *,
    usages: Sequence[str],
    last: Sequence[_Extension] = (),
) -> bytes:
    """A certificate with key identifiers, then the `first` extensions, the extended usages, and the `last`."""
    public_key = _public_key(subject.point)
    builder = (
        x509.CertificateBuilder()
        .serial_number(subject.serial_number)
        .issuer_name(_name(issuer.common_name))
        .subject_name(_name(subject.common_name))
        .not_valid_before(DEVICE_NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .public_key(public_key)
    )
    extensions: list[_Extension] = [
        (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
        (_authority(issuer.point), False),
        *first,
        (x509.ExtendedKeyUsage([ObjectIdentifier(usage) for usage in usages]), False),
        *last,
    ]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(_StoredKey(store, issuer.key), hashes.SHA384()).public_bytes(serialization.Encoding.DER)


def _authority_extensions(*, path_length: int) -> list[_Extension]:
    return [
        (_key_usage(key_cert_sign=True), True),
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
    ]


def _tcb_info(firmware_id: bytes, version: str, svn: int) -> bytes:
    """DiceTcbInfo (TCG DICE Attestation Architecture): its fields have the tags of their places."""
    fwid = der.sequence(der.object_identifier(_SHA384), der.element(der.OCTET_STRING, firmware_id))
    return der.sequence(
        der.tagged(0, _VENDOR.encode()),
        der.tagged(1, _MODEL.encode()),
        der.tagged(2, version.encode()),
        der.tagged(3, der.integer_octets(svn)),
        der.tagged(4, der.integer_octets(_ATTESTATION_LAYER)),
        der.tagged(6, fwid, constructed=True),
    )


def _public_key(point: Point) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point.uncompressed())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _authority(issuer: Point) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(_public_key(issuer))


def _key_usage(
    *, digital_signature: bool = False, key_agreement: bool = False, key_cert_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=key_agreement,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(signer: _StoredKey, tbs: bytes) -> bytes:
    """A certificate around a to-be-signed part that the X.509 library would not write."""
    algorithm = der.sequence(der.object_identifier("1.2.840.10045.4.3.3"))
    signature = signer.sign(tbs, ec.ECDSA(hashes.SHA384()))
    return der.sequence(tbs, algorithm, der.bit_string(signature))


def _real_form(tbs: bytes) -> bytes:
    """The to-be-signed part as real devices have it, made from the compatible one.

    notBefore is a GeneralizedTime, and BasicConstraints carries a path length without cA (spec 06 §1.8).
    """
    compatible_time = der.element(0x17, b"230101000000Z")
    real_time = der.element(0x18, b"20230101000000Z")
    compatible_constraints = der.element(der.OCTET_STRING, der.sequence())
    real_constraints = der.element(der.OCTET_STRING, der.sequence(der.integer(0)))
    return _substitute(tbs, {compatible_time: real_time, compatible_constraints: real_constraints})


def _substitute(encoded: bytes, replacements: dict[bytes, bytes]) -> bytes:
    """Replace whole elements inside nested constructed ones, with every length above them."""
    pieces = bytearray()
    offset = 0
    while offset < len(encoded):
        found = der.read(encoded, offset)
        whole = encoded[offset : found.end]
        constructed = found.tag & 0x20
        if whole in replacements:
            pieces += replacements[whole]
        elif constructed:
            pieces += der.element(found.tag, _substitute(found.contents, replacements))
        else:
            pieces += whole
        offset = found.end
    return bytes(pieces)
