# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm init`: what it establishes, what it prints, what it refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ihsm.bus import VfioUserFunction
from ihsm.cli.status import describe_partition
from ihsm.ddi import Credential, KeyInfo, Partition, SoftwareTrustAnchor
from ihsm.driver import Controller
from ihsm.embedded import EmbeddedDevice
from ihsm_abi.ddi import KeyType
from support.commands import run, run_json, uri

ID = "00112233-4455-6677-8899-aabbccddeeff"


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("kind", ["physical", "virtual"])
def test_a_private_device(kind: str) -> None:
    with EmbeddedDevice(["--kind", kind]) as device:
        record = run_json("init", "--device", uri(device))
        assert record["kind"] == kind.capitalize()
        assert record["session"] == {"id": 0, "short_app_id": 0}
        assert record["certificates"] >= 2
        assert len(record["credential_id"]) == 32
        for _ in range(2):  # the credential ends with the command, so the next one finds none
            table = run("init", "--device", uri(device))
            assert table.exit_code == 0, table.output
            assert "session.id" in table.output
            assert "backup" not in table.output


def test_everything_given(device: EmbeddedDevice, tmp_path: Path) -> None:
    """What init printed brings the same partition key back, so id, PIN, BK3 and owner key were those given."""
    bk3, pin = os.urandom(48), b"sixteen byte PIN"
    owner = ec.generate_private_key(ec.SECP384R1())
    (tmp_path / "pin").write_text(pin.hex() + "\n")
    (tmp_path / "bk3").write_bytes(bk3)
    (tmp_path / "owner").write_bytes(pem(owner))
    files = ("--pin-file", "pin", "--bk3-file", "bk3", "--owner-key", "owner")
    options = [str(tmp_path / word) if not word.startswith("--") else word for word in files]
    record = run_json("init", "--device", uri(device), "--id", ID, *options)
    assert record["credential_id"] == ID.replace("-", "")
    credential = Credential(bytes.fromhex(record["credential_id"]), pin)
    backup = {name: bytes.fromhex(value) for name, value in record["backup"].items()}
    masked_key = backup["masked_unwrapping_key"]
    assert KeyInfo.of(masked_key).key_type == KeyType.Rsa2kPrivate
    with Controller(VfioUserFunction(device.socket_path)) as controller:
        partition = Partition(controller)
        assert describe_partition(partition)["state"] == "not provisioned"
        bmk = partition.establish_credential(
            credential,
            partition.init_bk3(bk3).masked_bk3,
            SoftwareTrustAnchor(owner),
            bmk=backup["bmk"],
            masked_unwrapping_key=masked_key,
        )
        assert bmk == backup["bmk"]
        described = describe_partition(partition)
        assert described["state"] == "ready"
        assert described["thumbprint"] == record["thumbprint"]
        assert described["vault"] == {"tables": 2}


@pytest.mark.parametrize(
    ("arguments", "content", "text"),
    [
        (("--id", "0011"), b"", "2 bytes, 16 needed"),
        (("--id", "x" * 32), b"", "not hexadecimal"),
        (("--pin-file", "FILE"), b"1234", "2 bytes, 16 needed"),
        (("--pin-file", "FILE"), b"\xff" * 17, "neither 16 bytes nor 32 hexadecimal digits"),
        (("--bk3-file", "FILE"), b"00" * 47, "47 bytes, 48 needed"),
        (("--pin-file", "none"), b"", "does not exist"),
        (("--owner-key", "FILE"), b"-----BEGIN NOTHING-----", "--owner-key"),
        (("--owner-key", "FILE"), pem(ec.generate_private_key(ec.SECP256R1())), "must be secp384r1"),
        (("--owner-key", "FILE"), pem(rsa.generate_private_key(65537, 2048)), "not an EC key"),
    ],
)
def test_bad_options(tmp_path: Path, arguments: tuple[str, ...], content: bytes, text: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    result = run("init", *(word.replace("FILE", str(file)) for word in arguments))
    assert result.exit_code == 2, result.output
    assert text in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_a_refused_credential(device: EmbeddedDevice, tmp_path: Path) -> None:
    """Devices refuse a PIN of zeros: one line that names operation and status."""
    (tmp_path / "pin").write_bytes(bytes(16))
    result = run("init", "--device", uri(device), "--pin-file", str(tmp_path / "pin"))
    assert result.exit_code == 6, result.output
    assert result.output.startswith("Error: EstablishCredential: InvalidAppCredentials")
    assert result.output.count("\n") == 1
