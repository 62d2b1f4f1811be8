# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""cryptography takes the keys as they are for all that it signs; OpenSSL's and OpenSSH's programs verify."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509 import ocsp

from ihsm.api.rsa_key import RsaPrivateKey
from libraries.judges import openssl_verifies, run
from libraries.rig import DAY, NOW, DeviceKey, Does, Keys, Signs, name_of, self_signed

MESSAGE = b"a message that OpenSSL reads as well"


@pytest.fixture
def root(key: DeviceKey, tmp_path: Path) -> Path:
    """A certificate of a CA with the key, in a file."""
    place = tmp_path / "root.pem"
    place.write_bytes(self_signed(key, "root").public_bytes(Encoding.PEM))
    return place


def test_a_certificate(key: DeviceKey, signs: Signs, root: Path, tmp_path: Path) -> None:
    leaf = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of("leaf"))
        .issuer_name(name_of("root"))
        .public_key(leaf.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
    )
    with signs(key):
        certificate = builder.sign(key, hashes.SHA256())
    (tmp_path / "leaf.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    run("openssl", "verify", "-check_ss_sig", "-CAfile", root, tmp_path / "leaf.pem")


def test_a_certificate_with_pss(keys: Keys, signs: Signs, tmp_path: Path) -> None:
    key = keys("rsa2048")
    pss = padding.PSS(padding.MGF1(hashes.SHA384()), padding.PSS.DIGEST_LENGTH)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of("pss"))
        .issuer_name(name_of("pss"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
    )
    with signs(key):
        certificate = builder.sign(key, hashes.SHA384(), rsa_padding=pss)
    place = tmp_path / "pss.pem"
    place.write_bytes(certificate.public_bytes(Encoding.PEM))
    assert b"rsassaPss" in run("openssl", "x509", "-in", place, "-noout", "-text")
    run("openssl", "verify", "-check_ss_sig", "-CAfile", place, place)


def test_a_request(key: DeviceKey, signs: Signs) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(name_of("a.test"))
    with signs(key):
        request = builder.sign(key, hashes.SHA256())
    assert b"verify OK" in run("openssl", "req", "-verify", "-noout", data=request.public_bytes(Encoding.PEM))


def test_a_revocation_list(key: DeviceKey, signs: Signs, root: Path) -> None:
    revoked = x509.RevokedCertificateBuilder().serial_number(17).revocation_date(NOW - DAY).build()
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name_of("root"))
        .last_update(NOW - DAY)
        .next_update(NOW + DAY)
        .add_revoked_certificate(revoked)
    )
    with signs(key):
        revocations = builder.sign(key, hashes.SHA256())
    judged = run("openssl", "crl", "-noout", "-CAfile", root, data=revocations.public_bytes(Encoding.PEM))
    assert b"verify OK" in judged


def test_an_ocsp_response(key: DeviceKey, signs: Signs, root: Path, tmp_path: Path) -> None:
    issuer = x509.load_pem_x509_certificate(root.read_bytes())
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=issuer,
            issuer=issuer,
            algorithm=hashes.SHA256(),
            cert_status=ocsp.OCSPCertStatus.GOOD,
            this_update=NOW - DAY,
            next_update=NOW + DAY,
            revocation_time=None,
            revocation_reason=None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, issuer)
    )
    with signs(key):
        response = builder.sign(key, hashes.SHA256())
    place = tmp_path / "response.der"
    place.write_bytes(response.public_bytes(Encoding.DER))
    judged = run("openssl", "ocsp", "-respin", place, "-CAfile", root, "-verify_other", root, "-issuer", root)
    assert b"Response verify OK" in judged


@pytest.mark.parametrize("options", [[], [pkcs7.PKCS7Options.DetachedSignature]], ids=["attached", "detached"])
def test_a_cms_signature(
    options: list[pkcs7.PKCS7Options], key: DeviceKey, signs: Signs, root: Path, tmp_path: Path
) -> None:
    certificate = x509.load_pem_x509_certificate(root.read_bytes())
    builder = pkcs7.PKCS7SignatureBuilder().set_data(MESSAGE).add_signer(certificate, key, hashes.SHA256())
    with signs(key):
        signed = builder.sign(Encoding.DER, [*options, pkcs7.PKCS7Options.Binary])
    content = tmp_path / "content"
    content.write_bytes(MESSAGE)
    detached = ["-content", content] if options else []
    command = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-CAfile", root, "-purpose", "any", *detached]
    assert MESSAGE in run(*command, data=signed)
    content.write_bytes(MESSAGE.upper())
    if options:
        run(*command, data=signed, succeeds=False)


def test_a_cms_envelope_is_opened_in_the_device(keys: Keys, does: Does, tmp_path: Path) -> None:
    key = keys("rsa2048")
    certificate = self_signed(key, "recipient")
    place = tmp_path / "recipient.pem"
    place.write_bytes(certificate.public_bytes(Encoding.PEM))
    sealed = run("openssl", "cms", "-encrypt", "-binary", "-aes-256-cbc", "-outform", "DER", place, data=MESSAGE)
    with does(RsaModExp=1):
        opened = pkcs7.pkcs7_decrypt_der(sealed, certificate, key, [])
    assert opened == MESSAGE


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa2048"])
def test_an_openssh_certificate(kind: str, keys: Keys, signs: Signs, tmp_path: Path) -> None:
    key = keys(kind)
    user = ec.generate_private_key(ec.SECP256R1())
    builder = (
        serialization.SSHCertificateBuilder()
        .public_key(user.public_key())
        .type(serialization.SSHCertificateType.USER)
        .key_id(b"somebody")
        .serial(5)
        .valid_principals([b"root"])
        .valid_after(int(NOW.timestamp()))
        .valid_before(int((NOW + DAY).timestamp()))
    )
    with signs(key):
        certificate = builder.sign(key)
    place = tmp_path / "id-cert.pub"
    place.write_bytes(certificate.public_bytes())
    authority = tmp_path / "authority.pub"
    authority.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    )
    fingerprint = run("ssh-keygen", "-l", "-f", authority).split()[1]
    assert fingerprint in run("ssh-keygen", "-L", "-f", place)  # which refuses a certificate whose signature is wrong
    words = certificate.public_bytes().split()
    place.write_bytes(b" ".join([words[0], words[1][:-12] + b"AAAAAAAAAAAA"]))
    run("ssh-keygen", "-L", "-f", place, succeeds=False)


@pytest.mark.parametrize(("kind", "name"), [("p256", "sha256"), ("p384", "sha384"), ("p521", "sha512")])
def test_an_ecdsa_signature(kind: str, name: str, keys: Keys, signs: Signs, tmp_path: Path) -> None:
    key = keys(kind)
    algorithm = getattr(hashes, name.upper())()
    with signs(key):
        signature = key.sign(MESSAGE, ec.ECDSA(algorithm))
    openssl_verifies(tmp_path, key.public_key(), signature, MESSAGE, f"-{name}")


def test_rsa_signatures(keys: Keys, signs: Signs, tmp_path: Path) -> None:
    key = keys("rsa2048")
    assert isinstance(key, RsaPrivateKey)
    with signs(key, 2):
        plain = key.sign(MESSAGE, padding.PKCS1v15(), hashes.SHA256())
        pss = key.sign(MESSAGE, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    openssl_verifies(tmp_path, key.public_key(), plain, MESSAGE)
    options = ["-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"]
    openssl_verifies(tmp_path, key.public_key(), pss, MESSAGE, *options)


def test_the_keys_are_private_keys_of_its_classes(keys: Keys, does: Does) -> None:
    with does():
        assert isinstance(keys("p256"), ec.EllipticCurvePrivateKey)
        assert isinstance(keys("rsa2048"), rsa.RSAPrivateKey)
