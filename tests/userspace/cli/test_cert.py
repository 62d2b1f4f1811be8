# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm cert`: OpenSSL reads and verifies what it makes."""

from __future__ import annotations

import ipaddress
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.padding import PSS
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from support.commands import refused, run_json, succeed

pytestmark = pytest.mark.usefixtures("keys")
SUBJECT = "CN=web.example,O=Example\\, Inc.,C=CH"


def openssl(*arguments: str | Path) -> str:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize("key", ["p256", "p384", "p521", "rsa2048"])
def test_a_request_that_openssl_verifies(key: str, tmp_path: Path) -> None:
    path = tmp_path / "request"
    sans = (
        "--san",
        "web.example",
        "--san",
        "192.0.2.1",
        "--san",
        "email:a@web.example",
        "--san",
        "URI:https://web.example/",
    )
    succeed("cert", "request", key, "--subject", SUBJECT, *sans, "-o", path)
    shown = openssl("req", "-in", path, "-verify", "-noout", "-subject", "-text")
    assert "verify OK" in shown
    assert "DNS:web.example, IP Address:192.0.2.1, email:a@web.example, URI:https://web.example/" in shown
    request = x509.load_pem_x509_csr(path.read_bytes())
    assert request.subject.rfc4514_string() == SUBJECT
    assert request.public_key() == load_pem_public_key(succeed("key", "show", key))
    succeed("cert", "request", key, "--subject", SUBJECT, "--der", "-o", path)
    assert x509.load_der_x509_csr(path.read_bytes()).is_signature_valid


def test_a_certificate_that_openssl_verifies(tmp_path: Path) -> None:
    path = tmp_path / "certificate"
    pem = succeed(
        "cert", "selfsign", "p384", "--subject", SUBJECT, "--san", "IP:2001:db8::1", "--days", "30", "-o", path
    )
    assert pem == b""
    assert "OK" in openssl("verify", "-CAfile", path, "-check_ss_sig", path)
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("2001:db8::1")]
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    now = datetime.now(UTC)
    assert certificate.not_valid_before_utc < now < certificate.not_valid_after_utc < now + timedelta(days=30)
    assert certificate.not_valid_after_utc > now + timedelta(days=29)
    assert run_json("key", "show", "p384")["certificates"] == []


def test_a_certificate_that_is_kept() -> None:
    first = succeed("cert", "selfsign", "p256", "--subject", "CN=first", "--keep")
    assert succeed("key", "show", "p256", "--certificates") == first
    second = succeed("cert", "selfsign", "p256", "--subject", "CN=second", "--keep")
    assert run_json("key", "show", "p256")["certificates"] == [second.decode()]


def test_pss_and_another_hash(tmp_path: Path) -> None:
    path = tmp_path / "certificate"
    succeed("cert", "selfsign", "rsa2048", "--subject", "CN=pss", "--pss", "--hash", "sha512", "-o", path)
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    assert isinstance(certificate.signature_algorithm_parameters, PSS)
    assert certificate.signature_hash_algorithm is not None
    assert certificate.signature_hash_algorithm.name == "sha512"
    assert "OK" in openssl("verify", "-CAfile", path, "-check_ss_sig", path)


@pytest.mark.parametrize("command", ["request", "selfsign"])
@pytest.mark.parametrize(
    ("status", "arguments", "text"),
    [
        (7, ("nobody", "--subject", "CN=x"), "no key 'nobody'"),
        (2, ("p256",), "--subject"),
        (2, ("p256", "--subject", "web"), "RFC 4514: attributes are like CN="),
        (2, ("p256", "--subject", "CN=x", "--san", "IP:1.2.3"), "IP:1.2.3"),
        (2, ("p256", "--subject", "CN=x", "--san", "user:x"), "DNS"),
        (2, ("p256", "--subject", "CN=x", "--san", "z\u00fcrich.example"), "--san"),
        (2, ("p256", "--subject", "CN=x", "--san", ""), "--san"),
        *((2, ("p256", "--subject", "CN=x", "--san", f"email:{no}"), "no address") for no in ("", "x", "x@", "@x")),
        *((2, ("p256", "--subject", "CN=x", "--san", f"URI:{no}"), "no URI") for no in ("", "x", "x:", ":x")),
        (2, ("p256", "--subject", "CN=x", "--pss"), "EC key"),
        (2, ("p256", "--subject", "CN=x", "-o", "/none/file"), "No such file"),
    ],
)
def test_what_is_refused(command: str, status: int, arguments: tuple[str, ...], text: str) -> None:
    assert text in refused(status, "cert", command, *arguments, "--device", "vfio-user:/nowhere.sock")


def test_an_issuer_has_a_name_and_a_request_need_not() -> None:
    assert "issuer" in refused(2, "cert", "selfsign", "p256", "--subject", "")
    request = x509.load_pem_x509_csr(succeed("cert", "request", "p256", "--subject", "", "--san", "web.example"))
    assert not request.subject.rdns


def test_days() -> None:
    refused(2, "cert", "selfsign", "p256", "--subject", "CN=x", "--days", "0")
    refused(2, "cert", "selfsign", "p256", "--subject", "CN=x", "--days", "36501")
