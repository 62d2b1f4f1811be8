# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Keys of the device in the place of pyca/cryptography's own: the same calls, results and exceptions.

The same key is in the device and in software. What one makes the other's public half verifies; what one refuses the
other refuses, with an exception that the same `except` catches. Other libraries are tried by `tests/libraries`.
"""

from __future__ import annotations

import copy
import datetime
import hashlib
import pickle
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, Prehashed
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs7,
    pkcs12,
)
from cryptography.x509 import ocsp

from ihsm import Hsm
from ihsm.api.ec_key import EcPrivateKey
from ihsm.api.errors import KeyNotExportableError
from ihsm.api.rsa_key import RsaPrivateKey

MESSAGE: Final = b"a message"
NOW: Final = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY: Final = datetime.timedelta(days=1)
NAME: Final = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "name")])
SHA256: Final = hashes.SHA256()
MGF: Final = padding.MGF1(SHA256)
CURVES: Final = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
SOFTWARE: Final[dict[str, Any]] = {
    **{kind: ec.generate_private_key(curve) for kind, curve in CURVES.items()},
    "rsa2048": rsa.generate_private_key(65537, 2048),
}


@pytest.fixture(scope="module")
def hsm() -> Iterator[Hsm]:
    with Hsm.private() as hsm:
        for kind, key in SOFTWARE.items():
            hsm.import_key(kind, key, usage=("sign", "decrypt") if kind == "rsa2048" else "sign")
        yield hsm


@pytest.fixture
def rsa_key(hsm: Hsm) -> RsaPrivateKey:
    key = hsm["rsa2048"]
    assert isinstance(key, RsaPrivateKey)
    return key


@pytest.fixture(params=["p256", "rsa2048"])
def key(hsm: Hsm, request: pytest.FixtureRequest) -> Any:
    return hsm[request.param]


def certificate(key: Any, **options: Any) -> x509.Certificate:
    """Self-signed."""
    return (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(17)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .sign(key, SHA256, **options)
    )


def verify(key: Any, signature: bytes, data: bytes) -> None:
    """SHA-256, with ECDSA or PKCS#1 v1.5; InvalidSignature if it does not match."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        key.public_key().verify(signature, data, ec.ECDSA(SHA256))
    else:
        key.public_key().verify(signature, data, padding.PKCS1v15(), SHA256)


# -- what pyca builds --------------------------------------------------------------------------------------------------


def test_a_certificate(key: Any) -> None:
    made = certificate(key)
    made.verify_directly_issued_by(made)


@pytest.mark.parametrize("salt", [padding.PSS.DIGEST_LENGTH, padding.PSS.MAX_LENGTH, 20])
def test_a_certificate_with_pss(rsa_key: RsaPrivateKey, salt: Any) -> None:
    made = certificate(rsa_key, rsa_padding=padding.PSS(MGF, salt))
    made.verify_directly_issued_by(made)


def test_a_request(key: Any) -> None:
    assert x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(key, SHA256).is_signature_valid


def test_a_revocation_list(key: Any) -> None:
    builder = x509.CertificateRevocationListBuilder().issuer_name(NAME).last_update(NOW).next_update(NOW + DAY)
    assert builder.sign(key, SHA256).is_signature_valid(key.public_key())


def test_an_ocsp_response(key: Any) -> None:
    issuer = certificate(key)
    builder = ocsp.OCSPResponseBuilder().add_response(
        issuer, issuer, SHA256, ocsp.OCSPCertStatus.GOOD, NOW, NOW + DAY, None, None
    )
    made = builder.responder_id(ocsp.OCSPResponderEncoding.NAME, issuer).sign(key, SHA256)
    verify(key, made.signature, made.tbs_response_bytes)


def test_a_cms_signature(key: Any) -> None:
    builder = pkcs7.PKCS7SignatureBuilder().set_data(MESSAGE).add_signer(certificate(key), key, SHA256)
    options = [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.NoAttributes, pkcs7.PKCS7Options.Binary]
    made = builder.sign(Encoding.DER, options)
    # Without attributes the signature is over the content itself (RFC 5652 §5.4); it is an OCTET STRING at the end.
    length = (
        256 if isinstance(key, RsaPrivateKey) else next(n for n in range(8, 73) if made[-n - 2 : -n] == bytes([4, n]))
    )
    verify(key, made[-length:], MESSAGE)


def test_a_cms_envelope(rsa_key: RsaPrivateKey) -> None:
    recipient = certificate(rsa_key)
    sealed = pkcs7.PKCS7EnvelopeBuilder().set_data(MESSAGE).add_recipient(recipient)
    options = [pkcs7.PKCS7Options.Binary]
    assert pkcs7.pkcs7_decrypt_der(sealed.encrypt(Encoding.DER, options), recipient, rsa_key, []) == MESSAGE


def test_an_openssh_certificate(key: Any) -> None:
    made = (
        serialization.SSHCertificateBuilder()
        .public_key(SOFTWARE["p384"].public_key())
        .type(serialization.SSHCertificateType.HOST)
        .key_id(b"key")
        .valid_for_all_principals()
        .valid_after(0)
        .valid_before(2**63)
        .sign(key)
    )
    made.verify_cert_signature()


# -- classes and calls -------------------------------------------------------------------------------------------------


def test_they_are_of_pycas_classes_and_have_its_properties(hsm: Hsm) -> None:
    for kind, software in SOFTWARE.items():
        key = hsm[kind]
        assert isinstance(key, rsa.RSAPrivateKey if kind == "rsa2048" else ec.EllipticCurvePrivateKey)
        assert key.public_key() == software.public_key()
        assert key.key_size == software.key_size
        if isinstance(key, EcPrivateKey):
            assert key.curve == software.curve


@pytest.mark.parametrize("kind", CURVES)
@pytest.mark.parametrize("name", ["SHA1", "SHA256", "SHA384", "SHA512"])
def test_ecdsa_with_each_hash_and_over_a_digest(hsm: Hsm, kind: str, name: str) -> None:
    key, algorithm = hsm[kind], getattr(hashes, name)()
    digest = hashlib.new(name, MESSAGE).digest()
    assert isinstance(key, EcPrivateKey)
    for signature in (
        key.sign(MESSAGE, ec.ECDSA(algorithm)),
        key.sign(data=bytearray(MESSAGE), signature_algorithm=ec.ECDSA(algorithm)),
        key.sign(memoryview(digest), ec.ECDSA(Prehashed(algorithm))),
    ):
        SOFTWARE[kind].public_key().verify(signature, MESSAGE, ec.ECDSA(algorithm))
        with pytest.raises(InvalidSignature):
            SOFTWARE[kind].public_key().verify(signature, MESSAGE + b"!", ec.ECDSA(algorithm))


def test_signing_by_keyword(rsa_key: RsaPrivateKey) -> None:
    signature = rsa_key.sign(data=MESSAGE, padding=padding.PKCS1v15(), algorithm=SHA256)
    assert signature == SOFTWARE["rsa2048"].sign(data=MESSAGE, padding=padding.PKCS1v15(), algorithm=SHA256)
    sealed = rsa_key.public_key().encrypt(MESSAGE, padding.PKCS1v15())
    assert rsa_key.decrypt(ciphertext=sealed, padding=padding.PKCS1v15()) == MESSAGE


def test_copies_are_the_key_itself_and_pickles_are_refused(key: Any) -> None:
    assert copy.copy(key) is key
    assert copy.deepcopy({"key": [key]})["key"][0] is key
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(KeyNotExportableError, match="is in the device and cannot be copied elsewhere"):
            pickle.dumps(key, protocol)


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL, PrivateFormat.OpenSSH])
@pytest.mark.parametrize("protection", [NoEncryption(), BestAvailableEncryption(b"secret")])
def test_nothing_exports_the_private_half(key: Any, encoding: Any, form: Any, protection: Any) -> None:
    with pytest.raises(KeyNotExportableError, match="is in the device and does not leave it"):
        key.private_bytes(encoding=encoding, format=form, encryption_algorithm=protection)
    with pytest.raises(UnsupportedAlgorithm, match="is in the device and does not leave it"):
        pkcs12.serialize_key_and_certificates(b"name", key, None, None, protection)


def test_private_numbers_have_the_public_ones_alone(key: Any) -> None:
    numbers = key.private_numbers()
    assert numbers.public_numbers == key.public_key().public_numbers()
    secrets = ("private_value",) if isinstance(key, EcPrivateKey) else ("d", "p", "q", "dmp1", "dmq1", "iqmp")
    for name in (*secrets, "private_key"):
        with pytest.raises(KeyNotExportableError, match=rf"private_numbers\(\)\.{name}: key '\w+' is in the device"):
            getattr(numbers, name)


def test_private_numbers_are_equal_where_the_keys_are(hsm: Hsm) -> None:
    numbers = [hsm[kind].private_numbers() for kind in SOFTWARE]
    assert len(set(numbers)) == len(numbers)
    assert {hsm[kind].private_numbers() for kind in SOFTWARE} == set(numbers)
    assert numbers[0] != SOFTWARE["p256"].private_numbers()


# -- RSA paddings ------------------------------------------------------------------------------------------------------

RSA_HASHES: Final = [
    *(hashes.SHA1(), hashes.SHA224(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512(), hashes.SHA512_224()),
    *(hashes.SHA512_256(), hashes.SHA3_224(), hashes.SHA3_256(), hashes.SHA3_384(), hashes.SHA3_512()),
]


@pytest.mark.parametrize("algorithm", RSA_HASHES, ids=lambda algorithm: algorithm.name)
def test_pkcs1_signatures_are_the_same_as_softwares(rsa_key: RsaPrivateKey, algorithm: hashes.HashAlgorithm) -> None:
    context = hashes.Hash(algorithm)
    context.update(MESSAGE)
    digest = context.finalize()
    for data, chosen in ((MESSAGE, algorithm), (digest, Prehashed(algorithm))):
        made = rsa_key.sign(data, padding.PKCS1v15(), chosen)
        assert made == SOFTWARE["rsa2048"].sign(data, padding.PKCS1v15(), chosen)


@pytest.mark.parametrize("size", [0, 1, 20, 245])
def test_bytes_without_digest_info(rsa_key: RsaPrivateKey, size: int) -> None:
    data = bytes(range(size))
    made = rsa_key.sign(data, padding.PKCS1v15(), NoDigestInfo())
    assert rsa_key.public_key().recover_data_from_signature(made, padding.PKCS1v15(), None) == data
    assert made == SOFTWARE["rsa2048"].sign(data, padding.PKCS1v15(), NoDigestInfo())


@pytest.mark.parametrize(
    ("salt", "length"),
    [(0, 0), (1, 1), (222, 222), (padding.PSS.DIGEST_LENGTH, 32), (padding.PSS.MAX_LENGTH, 222)],
)
@pytest.mark.parametrize("copied", [False, True], ids=["as it is", "copied"])
def test_pss_with_each_kind_of_salt(rsa_key: RsaPrivateKey, salt: Any, length: int, copied: bool) -> None:
    """Libraries copy paddings (securesystemslib), so that pyca's constants are not themselves any more."""
    chosen = padding.PSS(MGF, salt)
    made = rsa_key.sign(MESSAGE, copy.deepcopy(chosen) if copied else chosen, SHA256)
    rsa_key.public_key().verify(made, MESSAGE, padding.PSS(MGF, length), SHA256)
    with pytest.raises(InvalidSignature):
        rsa_key.public_key().verify(made, MESSAGE, padding.PSS(MGF, length ^ 1), SHA256)


@pytest.mark.parametrize("algorithm", RSA_HASHES, ids=lambda algorithm: algorithm.name)
def test_pss_with_each_hash_and_another_in_the_mask(rsa_key: RsaPrivateKey, algorithm: hashes.HashAlgorithm) -> None:
    for mask in (algorithm, hashes.SHA1()):
        chosen = padding.PSS(padding.MGF1(mask), 16)
        made = rsa_key.sign(MESSAGE, chosen, algorithm)
        rsa_key.public_key().verify(made, MESSAGE, chosen, algorithm)


@pytest.mark.parametrize("label", [None, b"", b"label"])
@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_oaep_with_each_label_and_hash(
    rsa_key: RsaPrivateKey, label: bytes | None, algorithm: hashes.HashAlgorithm
) -> None:
    for mask in (algorithm, hashes.SHA1()):
        chosen = padding.OAEP(padding.MGF1(mask), algorithm, label)
        for message in (b"", MESSAGE, bytes(256 - 2 - 2 * algorithm.digest_size)):
            sealed = rsa_key.public_key().encrypt(message, chosen)
            assert rsa_key.decrypt(sealed, chosen) == message
        with pytest.raises(ValueError, match="not one of this key"):
            rsa_key.decrypt(sealed, padding.OAEP(padding.MGF1(mask), algorithm, b"another label"))


@pytest.mark.parametrize("number", [0, 1, -1], ids=["0", "1", "n - 1"])
def test_numbers_that_the_device_refuses_are_ciphertexts_like_other_wrong_ones(
    rsa_key: RsaPrivateKey, number: int
) -> None:
    n = rsa_key.public_key().public_numbers().n
    wrong = (number % n).to_bytes(256, "big")
    with pytest.raises(ValueError, match="not one of this key and label"):
        rsa_key.decrypt(wrong, padding.OAEP(MGF, SHA256, None))
    assert rsa_key.decrypt(wrong, padding.PKCS1v15()) == rsa_key.decrypt(wrong, padding.PKCS1v15())


# -- what is refused ---------------------------------------------------------------------------------------------------

Call = Callable[[Any], object]
WRONG_EC: Final[dict[str, Call]] = {
    "text": lambda key: key.sign("text", ec.ECDSA(SHA256)),
    "no data": lambda key: key.sign(None, ec.ECDSA(SHA256)),
    "a list": lambda key: key.sign([1, 2], ec.ECDSA(SHA256)),
    "algorithm missing": lambda key: key.sign(MESSAGE),
    "another keyword": lambda key: key.sign(MESSAGE, algorithm=ec.ECDSA(SHA256)),
    "algorithm None": lambda key: key.sign(MESSAGE, None),
    "a hash": lambda key: key.sign(MESSAGE, SHA256),
    "a class": lambda key: key.sign(MESSAGE, ec.ECDSA),
    "no hash": lambda key: key.sign(MESSAGE, ec.ECDSA(None)),
    "short digest": lambda key: key.sign(bytes(31), ec.ECDSA(Prehashed(SHA256))),
    "long digest": lambda key: key.sign(bytes(33), ec.ECDSA(Prehashed(SHA256))),
}
PSS: Final = padding.PSS(MGF, 32)
OAEP: Final = padding.OAEP(MGF, SHA256, None)
BLAKE: Final = hashes.BLAKE2b(64)
WRONG_RSA: Final[dict[str, Call]] = {
    "text": lambda key: key.sign("text", padding.PKCS1v15(), SHA256),
    "no data": lambda key: key.sign(None, PSS, SHA256),
    "algorithm missing": lambda key: key.sign(MESSAGE, PSS),
    "padding None": lambda key: key.sign(MESSAGE, None, SHA256),
    "padding a name": lambda key: key.sign(MESSAGE, "PSS", SHA256),
    "padding a class": lambda key: key.sign(MESSAGE, padding.PKCS1v15, SHA256),
    "padding for encryption": lambda key: key.sign(MESSAGE, OAEP, SHA256),
    "algorithm None": lambda key: key.sign(MESSAGE, padding.PKCS1v15(), None),
    "algorithm a name": lambda key: key.sign(MESSAGE, padding.PKCS1v15(), "sha256"),
    "algorithm a class": lambda key: key.sign(MESSAGE, PSS, hashes.SHA256),
    "short digest": lambda key: key.sign(bytes(31), padding.PKCS1v15(), Prehashed(SHA256)),
    "bytes in PSS": lambda key: key.sign(bytes(32), PSS, NoDigestInfo()),
    "salt for verifying": lambda key: key.sign(MESSAGE, padding.PSS(MGF, padding.PSS.AUTO), SHA256),
    "salt too long": lambda key: key.sign(MESSAGE, padding.PSS(MGF, 223), SHA256),
    "too many bytes": lambda key: key.sign(bytes(246), padding.PKCS1v15(), NoDigestInfo()),
    "hash without identifier": lambda key: key.sign(MESSAGE, padding.PKCS1v15(), BLAKE),
    "another hash in PSS": lambda key: key.sign(MESSAGE, PSS, BLAKE),
    "variable digest": lambda key: key.sign(MESSAGE, padding.PKCS1v15(), hashes.SHAKE128(32)),
    "ciphertext text": lambda key: key.decrypt("x" * 256, padding.PKCS1v15()),
    "ciphertext short": lambda key: key.decrypt(bytes(255), padding.PKCS1v15()),
    "ciphertext long": lambda key: key.decrypt(bytes(257), OAEP),
    "ciphertext zero": lambda key: key.decrypt(bytes(256), OAEP),
    "ciphertext no number": lambda key: key.decrypt(b"\xff" * 256, OAEP),
    "ciphertext no number, v1.5": lambda key: key.decrypt(b"\xff" * 256, padding.PKCS1v15()),
    "ciphertext none": lambda key: key.decrypt(b"\x01" * 256, OAEP),
    "decryption padding None": lambda key: key.decrypt(b"\x01" * 256, None),
    "decryption padding a class": lambda key: key.decrypt(b"\x01" * 256, padding.PKCS1v15),
    "padding for signatures": lambda key: key.decrypt(b"\x01" * 256, PSS),
    "another hash in OAEP": lambda key: key.decrypt(b"\x01" * 256, padding.OAEP(padding.MGF1(BLAKE), BLAKE, None)),
}


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        *(pytest.param("p256", call, id=f"EC, {what}") for what, call in WRONG_EC.items()),
        *(pytest.param("rsa2048", call, id=f"RSA, {what}") for what, call in WRONG_RSA.items()),
    ],
)
def test_what_pyca_refuses_is_refused_with_an_exception_of_the_same_class(hsm: Hsm, kind: str, call: Call) -> None:
    with pytest.raises((TypeError, ValueError, UnsupportedAlgorithm)) as software:
        call(SOFTWARE[kind])
    with pytest.raises(software.type):
        call(hsm[kind])


UNSUPPORTED: Final[dict[str, tuple[str, Call]]] = {
    "nonces from key and message": (
        "p256",
        lambda key: key.sign(MESSAGE, ec.ECDSA(SHA256, deterministic_signing=True)),
    ),
    "SHA-224 with ECDSA": ("p256", lambda key: key.sign(MESSAGE, ec.ECDSA(hashes.SHA224()))),
    "SHA-3 with ECDSA": ("p256", lambda key: key.sign(MESSAGE, ec.ECDSA(hashes.SHA3_256()))),
    "MD5 with RSA": ("rsa2048", lambda key: key.sign(MESSAGE, padding.PKCS1v15(), hashes.MD5())),
    "shared secret": ("p256", lambda key: key.exchange(ec.ECDH(), SOFTWARE["p256"].public_key())),
}


@pytest.mark.parametrize(("kind", "call"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_what_only_software_can_do_is_an_unsupported_algorithm(hsm: Hsm, kind: str, call: Call) -> None:
    assert call(SOFTWARE[kind])
    with pytest.raises(UnsupportedAlgorithm, match=r"^(sign|exchange): \w"):
        call(hsm[kind])
