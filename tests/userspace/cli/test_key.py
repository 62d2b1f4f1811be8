# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm key`: keys that are made, brought in, shown, attested, rotated and deleted."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from ihsm.api.kinds import KINDS, Usage
from ihsm.cli.key import KIND_NAMES, USAGE_NAMES
from support.commands import refused, run, run_json, succeed

pytestmark = pytest.mark.usefixtures("keys")


def spki(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def certified(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A self-signed certificate, PEM."""
    name = x509.Name.from_rfc4514_string("CN=known")
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
    return (
        builder.not_valid_after(datetime(2050, 1, 1, tzinfo=UTC)).sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    )


def test_the_kinds_are_those_of_the_api() -> None:
    made = {name: kind for name, kind in KINDS.items() if kind.key_class is not None}
    assert tuple(made) == KIND_NAMES
    assert set(USAGE_NAMES) == {usage for kind in made.values() for usage in kind.usages}
    assert set(USAGE_NAMES) <= set(Usage)


@pytest.mark.parametrize("kind", [kind for kind in KIND_NAMES if kind not in ("rsa3072", "rsa4096")])
def test_every_kind_is_made_and_described(kind: str) -> None:
    """But the large RSA keys: they take seconds to make, and nothing but the size differs."""
    record = run_json("key", "generate", f"new {kind}", "--kind", kind)
    assert (record["label"], record["version"], record["kind"]) == (f"new {kind}", 1, kind)
    assert record["usages"] == ["encrypt" if kind.startswith("aes") else "sign"]
    assert record["origin"] == ("host" if kind.startswith("rsa") else "device")
    assert run_json("key", "show", f"new {kind}") == record
    assert record in run_json("key", "list")
    if kind.startswith("aes"):
        assert record["public"] is None
        assert "secret" in refused(2, "key", "show", f"new {kind}")
    else:
        assert succeed("key", "show", f"new {kind}").decode() == record["public"]
        assert succeed("key", "show", f"new {kind}", "--der") == load_pem_public_key(
            record["public"].encode()
        ).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_a_label_that_is_taken_stays() -> None:
    before = run_json("key", "show", "p256")
    assert "p256" in refused(7, "key", "generate", "p256")
    assert run_json("key", "show", "p256") == before


def test_usages() -> None:
    record = run_json("key", "generate", "both", "--kind", "rsa2048", "--usage", "decrypt", "--usage", "sign")
    assert sorted(record["usages"]) == ["decrypt", "sign"]
    assert "one usage" in refused(2, "key", "generate", "two", "--usage", "sign", "--usage", "agree")
    assert "p256" in refused(2, "key", "generate", "wrong", "--usage", "encrypt")
    assert run("key", "show", "two").exit_code == run("key", "show", "wrong").exit_code == 7


@pytest.mark.parametrize("form", ["PEM", "DER", "encrypted"])
def test_a_key_of_ones_own(form: str, tmp_path: Path) -> None:
    own = ec.generate_private_key(ec.SECP384R1())
    password = BestAvailableEncryption(b"open sesame") if form == "encrypted" else NoEncryption()
    encoding = Encoding.DER if form == "DER" else Encoding.PEM
    data = own.private_bytes(encoding, PrivateFormat.PKCS8, password)
    (tmp_path / "password").write_text("open sesame\n")
    options = ("--password-file", tmp_path / "password") if form == "encrypted" else ()
    label = f"own {form}"
    succeed("key", "import", label, *options, stdin=data)
    record = run_json("key", "show", label)
    assert (record["kind"], record["origin"], record["public"]) == ("p384", "host", spki(own))
    signature = succeed("sign", label, stdin=b"data")
    own.public_key().verify(signature, b"data", ec.ECDSA(hashes.SHA384()))


def test_certificates_come_with_a_key(tmp_path: Path) -> None:
    own, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    key.write_bytes(own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    certificate.write_bytes(certified(other))
    assert "not this key's" in refused(2, "key", "import", "certified", key, "--certificate", certificate)
    assert run("key", "show", "certified").exit_code == 7
    certificate.write_bytes(certified(own))
    succeed("key", "import", "certified", key, "--certificate", certificate)
    assert succeed("key", "show", "certified", "--certificates") == certificate.read_bytes()
    shown = tmp_path / "shown"
    succeed("key", "show", "certified", "--certificates", "--der", "-o", shown)
    assert x509.load_der_x509_certificate(shown.read_bytes()) == x509.load_pem_x509_certificate(
        certificate.read_bytes()
    )
    assert "no certificates" in refused(2, "key", "show", "p256", "--certificates")


@pytest.mark.parametrize("written", [bytes, lambda key: key.hex().encode(), lambda key: key.hex().encode() + b"\n"])
def test_an_aes_key(written: object, tmp_path: Path) -> None:
    key = os.urandom(32)
    assert callable(written)
    label = f"aes {written(bytes(2))!r}"
    succeed("key", "import", label, "--kind", "aes256-gcm", stdin=written(key))
    sealed = succeed("encrypt", label, stdin=b"text")
    # docs/shell.md: header, then a chunk whose nonce is the prefix and a last chunk's number
    assert AESGCM(key).decrypt(sealed[8:16] + bytes((0, 0, 0, 1)), sealed[32:], sealed[:32]) == b"text"


@pytest.mark.parametrize(
    ("status", "data", "options", "text"),
    [
        (2, b"no key", (), "no private key in PEM or DER"),
        (2, b"", (), "no private key in PEM or DER"),
        (2, bytes(31), ("--kind", "aes256"), "32 bytes, or 64 hexadecimal digits"),
        (2, b"00" * 31, ("--kind", "aes256"), "31 bytes"),
        (2, bytes(64), ("--kind", "aes256-xts"), "halves"),
        (2, b"EC", ("--kind", "p384"), "but the key is p256"),
        (6, b"K1", (), "secp256k1"),
        (2, b"x" * ((1 << 20) + 1), (), "longer than"),
    ],
)
def test_what_cannot_be_brought_in(status: int, data: bytes, options: tuple[str, ...], text: str) -> None:
    curves = {b"EC": ec.SECP256R1(), b"K1": ec.SECP256K1()}
    if data in curves:
        data = ec.generate_private_key(curves[data]).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert text in refused(status, "key", "import", "bad", *options, "--device", "vfio-user:/nowhere.sock", stdin=data)


@pytest.mark.parametrize("label", ["", "a\nb", "x" * 129, "web@2"])
def test_what_is_no_label(label: str) -> None:
    refused(2, "key", "generate", label, "--device", "vfio-user:/nowhere.sock")


def test_rotation_keeps_the_old_version(tmp_path: Path) -> None:
    succeed("key", "generate", "turns")
    first = run_json("key", "show", "turns")
    second = run_json("key", "rotate", "turns")
    assert (second["version"], second["kind"], second["usages"]) == (2, "p256", ["sign"])
    assert second["public"] != first["public"]
    assert run_json("key", "show", "turns@1") == first
    signature = succeed("sign", "turns@1", stdin=b"data")
    (tmp_path / "signature").write_bytes(signature)
    succeed("verify", "turns@1", "--signature", tmp_path / "signature", stdin=b"data")
    refused(6, "verify", "turns", "--signature", tmp_path / "signature", stdin=b"data")
    listed = succeed("key", "list").decode()
    assert "\nturns@1 " in listed
    assert "\nturns " in listed
    refused(2, "key", "rotate", "turns@1")
    refused(7, "key", "rotate", "nobody")
    succeed("key", "delete", "turns@1", "--yes")
    refused(7, "key", "show", "turns@1")
    assert run_json("key", "show", "turns") == second


def test_deleting_asks_first() -> None:
    succeed("key", "generate", "doomed")
    assert "--yes" in refused(2, "key", "delete", "doomed")
    succeed("key", "show", "doomed")
    succeed("key", "delete", "doomed", "--yes")
    refused(7, "key", "show", "doomed")
    refused(7, "key", "delete", "doomed", "--yes")


def test_a_key_whose_file_is_damaged_can_be_deleted(keys: Path) -> None:
    succeed("key", "generate", "spoilt")
    (path,) = [file for file in keys.glob("ihsm/default/keys/*.json") if b'"spoilt"' in file.read_bytes()]
    path.write_bytes(path.read_bytes() + b"x")
    assert path.name in refused(7, "key", "list")
    refused(7, "key", "delete", "spoilt@1", "--yes")
    succeed("key", "delete", "spoilt", "--yes")
    succeed("key", "list")


def test_attestation_is_verified_here_and_elsewhere(tmp_path: Path) -> None:
    report, chain, pem = tmp_path / "report", tmp_path / "chain", tmp_path / "pem"
    record = run_json("key", "attest", "p256", "--report-data", "c0ffee", "--chain", chain, "-o", report)
    assert bytes.fromhex(record["report"]) == report.read_bytes()
    assert record["report_data"].startswith("c0ffee")
    succeed("key", "show", "p256", "-o", pem)
    elsewhere = run_json("verify-report", report, "--chain", chain, "--key", pem, "--report-data", "c0ffee")
    assert elsewhere["verified"]
    assert "generated" in " ".join(elsewhere["claims"])
    other = succeed("key", "attest", "p384")
    (tmp_path / "other").write_bytes(other)
    refused(6, "verify-report", tmp_path / "other", "--chain", chain, "--key", pem)
    refused(7, "key", "attest", "nobody")


def test_openssl_reads_what_is_shown() -> None:
    pem = succeed("key", "show", "rsa2048")
    done = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=pem, capture_output=True, check=True)
    assert load_der_public_key(done.stdout) == load_pem_public_key(pem)


def test_no_store_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "output"
    monkeypatch.setenv("XDG_DATA_HOME", os.fspath(data))
    for command in (("key", "list"), ("key", "generate", "web"), ("sign", "web"), ("encrypt", "web", "-o", output)):
        assert "`ihsm init` makes one" in refused(7, *command, stdin=b"")
    assert not data.exists()
    assert not output.exists()
