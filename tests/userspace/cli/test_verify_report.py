# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm verify-report`: genuine reports, and everything that is none."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm.bus import VfioUserFunction
from ihsm.ddi import CertificateChainError, Credential, Key, KeyRequest, Partition, SoftwareTrustAnchor
from ihsm.ddi.certificates import load_certificates, order_chain
from ihsm.driver import Controller
from ihsm.embedded import EmbeddedDevice
from ihsm_abi.ddi import AesKeySize, EccCurve, KeyUsage
from support.commands import run, run_json, uri

CREDENTIAL = Credential(bytes(range(1, 17)), os.urandom(16))
REPORT_DATA = b"nonce of the verifier"


@dataclass(repr=False)
class Evidence:
    """Reports about three keys, their chain, and the key of the first."""

    folder: Path
    reports: dict[str, bytes]
    public_pem: bytes
    certificates: list[x509.Certificate]

    def path(self, name: str, content: bytes) -> str:
        """A file with this content."""
        path = self.folder / name
        path.write_bytes(content)
        return str(path)

    def report(self, name: str = "ec") -> str:
        return self.path(f"{name}.cose", self.reports[name])

    @property
    def chain(self) -> str:
        return self.path("chain.pem", pem(self.certificates))


def pem(certificates: list[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


@pytest.fixture(scope="module")
def evidence(device: EmbeddedDevice, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    with Controller(VfioUserFunction(device.socket_path)) as controller:
        partition = Partition(controller)
        anchor = SoftwareTrustAnchor(ec.generate_private_key(ec.SECP384R1()))
        partition.establish_credential(CREDENTIAL, partition.init_bk3(os.urandom(48)).masked_bk3, anchor)
        session = partition.open_session(CREDENTIAL)
        keys: dict[str, Key] = {
            "ec": session.generate_ecc_key(EccCurve.P521, KeyRequest(KeyUsage.SignVerify)),
            "rsa": session.unwrapping_key(),
            "aes": session.generate_aes_key(AesKeySize.Aes256, KeyRequest(KeyUsage.EncryptDecrypt, session=True)),
        }
        reports = {name: session.attest(key, REPORT_DATA) for name, key in keys.items()}
        public = keys["ec"].public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        certificates = list(partition.certificate_chain().certificates)
    return Evidence(tmp_path_factory.mktemp("evidence"), reports, public, certificates)


def test_claims(evidence: Evidence) -> None:
    record = run_json("verify-report", evidence.report(), "--chain", evidence.chain)
    assert record["verified"] is True
    assert record["key"] == {"type": "secp521r1", "public": evidence.public_pem.decode()}
    assert record["claims"] == ["generated", "sign", "verify"]
    assert record["application"].replace("-", "") == CREDENTIAL.id.hex()
    assert bytes.fromhex(record["report_data"]).rstrip(b"\0") == REPORT_DATA
    assert record["chain"]["certificates"] == len(evidence.certificates)
    assert record["chain"]["root_trusted"] is False
    record = run_json("verify-report", evidence.report("rsa"), "--chain", evidence.chain)
    assert (record["key"]["type"], record["claims"]) == ("RSA-2048", ["generated", "unwrap"])
    record = run_json("verify-report", evidence.report("aes"), "--chain", evidence.chain)
    assert record["key"] == {"type": "symmetric", "public": None}
    assert record["claims"] == ["session", "generated", "encrypt", "decrypt"]


def test_the_table_ends_with_the_key(evidence: Evidence) -> None:
    result = run("verify-report", evidence.report(), "--chain", evidence.chain)
    assert result.exit_code == 0
    assert result.output.endswith(evidence.public_pem.decode())
    assert "claims" in result.output


def test_the_fingerprint_is_what_openssl_says(evidence: Evidence) -> None:
    record = run_json("verify-report", evidence.report(), "--chain", evidence.chain)
    root = evidence.path("root.pem", pem(evidence.certificates[:1]))
    said = subprocess.run(
        ["openssl", "x509", "-in", root, "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip().split("=")[1].replace(":", "").lower() == record["chain"]["root_sha256"]


@pytest.mark.parametrize("form", ["leaf first", "root first", "shuffled", "DER"])
def test_forms_of_the_chain(evidence: Evidence, form: str) -> None:
    certificates = evidence.certificates
    content = {
        "leaf first": pem(certificates[::-1]),
        "root first": b"some text\n" + pem(certificates),
        "shuffled": pem([certificates[1], *certificates[2:][::-1], certificates[0]]),
        "DER": b"".join(certificate.public_bytes(Encoding.DER) for certificate in certificates),
    }[form]
    run_json("verify-report", evidence.report(), "--chain", evidence.path("form", content))


def test_expectations_that_hold(evidence: Evidence) -> None:
    root = evidence.path("root.pem", pem(evidence.certificates[:1]))
    key = evidence.path("key.pem", evidence.public_pem)
    record = run_json(
        "verify-report", evidence.report(), "--chain", evidence.chain, "--root", root, "--key", key,
        "--report-data", REPORT_DATA.hex(),
    )  # fmt: skip
    assert record["chain"]["root_trusted"] is True


def refused(*arguments: str) -> str:
    result = run("verify-report", *arguments)
    assert result.exit_code == 6, result.output
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    return result.output


def test_expectations_that_do_not_hold(evidence: Evidence) -> None:
    usual = (evidence.report(), "--chain", evidence.chain)
    other = ec.generate_private_key(ec.SECP521R1()).public_key()
    key = evidence.path("other.pem", other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert "another key" in refused(*usual, "--key", key)
    assert "another key" in refused(evidence.report("aes"), "--chain", evidence.chain, "--key", key)
    assert "other report data" in refused(*usual, "--report-data", "00")
    leaf = evidence.path("leaf.pem", pem(evidence.certificates[-1:]))
    assert "is not trusted" in refused(*usual, "--root", leaf)


def test_another_devices_chain(evidence: Evidence, tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    with EmbeddedDevice() as other:
        assert run("info", "--device", uri(other), "--chain", str(chain)).exit_code == 0
    run_json("verify-report", *fresh_pair(tmp_path))
    assert "attestation report" in refused(evidence.report(), "--chain", str(chain))
    mixed = evidence.path("mixed.pem", pem(evidence.certificates[:-1]) + chain.read_bytes())
    assert "self-issued" in refused(evidence.report(), "--chain", mixed)


def fresh_pair(folder: Path) -> tuple[str, str, str]:
    """Report and chain as `ihsm selftest` saves them."""
    report, chain = folder / "selftest.cose", folder / "selftest.pem"
    assert run("selftest", "--report", str(report), "--chain", str(chain)).exit_code == 0
    return str(report), "--chain", str(chain)


def test_what_the_example_keeps_proves_the_signature(tmp_path: Path) -> None:
    message = tmp_path / "message"
    message.write_bytes(os.urandom(1000))
    example = Path(__file__).parents[3] / "docs/examples/sign_and_attest.py"
    subprocess.run([sys.executable, example, message, tmp_path], capture_output=True, check=True)
    openssl = ["openssl", "dgst", "-sha384", "-verify", "public.pem", "-signature", "signature.der", "message"]
    subprocess.run(openssl, cwd=tmp_path, capture_output=True, check=True)
    chain, key, report = (str(tmp_path / name) for name in ("chain.pem", "public.pem", "report.cose"))
    digest = hashlib.sha384(message.read_bytes()).hexdigest()
    run_json("verify-report", report, "--chain", chain, "--key", key, "--report-data", digest)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda chain: chain[:-1], "key usage"),
        (lambda chain: chain[1:], "self-issued"),
        (lambda chain: [chain[0], chain[-1]], "issued by"),
        (lambda chain: [*chain, chain[-1]], "issued by"),
    ],
    ids=["no leaf", "no root", "gap", "leaf twice"],
)
def test_incomplete_chains(evidence: Evidence, change: object, text: str) -> None:
    assert callable(change)
    content = pem(change(evidence.certificates))
    assert text in refused(evidence.report(), "--chain", evidence.path("cut.pem", content))


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x30\x82", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_files_that_are_no_certificates(evidence: Evidence, content: bytes) -> None:
    message = refused(evidence.report(), "--chain", evidence.path("none.pem", content))
    assert "none.pem" in message


@settings(max_examples=40)
@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_changed_report_is_refused_or_says_the_same(evidence: Evidence, position: int, flip: int) -> None:
    """Only tag and unprotected header are not signed; nothing depends on them."""
    good = evidence.reports["ec"]
    changed = bytearray(good)
    changed[position % len(good)] ^= flip
    result = run("verify-report", evidence.path("changed.cose", bytes(changed)), "--chain", evidence.chain)
    assert (
        result.exit_code == 6
        or result.output == run("verify-report", evidence.report(), "--chain", evidence.chain).output
    )


@settings(max_examples=100)
@given(data=st.binary(max_size=200))
def test_certificate_files_of_any_content_end_in_a_typed_error(data: bytes) -> None:
    with pytest.raises(CertificateChainError):
        order_chain(load_certificates(data, "file"))


@settings(max_examples=150)
@given(cut=st.integers(0, 10_000), insert=st.binary(max_size=4))
def test_damaged_certificates_end_in_a_typed_error(evidence: Evidence, cut: int, insert: bytes) -> None:
    der = b"".join(certificate.public_bytes(Encoding.DER) for certificate in evidence.certificates)
    position = cut % len(der)
    damaged = der[:position] + insert + der[position + 2 :]
    with pytest.raises(CertificateChainError):
        order_chain(load_certificates(damaged, "file")).verify()
