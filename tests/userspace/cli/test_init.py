# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm init`: what it establishes, what it prints, what it refuses."""

from __future__ import annotations

import json
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
from support.commands import refused, run, run_json, succeed, uri

ID = "00112233-4455-6677-8899-aabbccddeeff"


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("kind", ["physical", "virtual"])
def test_a_device_that_was_named(kind: str, tmp_path: Path) -> None:
    with EmbeddedDevice(["--kind", kind]) as device:
        record = run_json("init", "--device", uri(device))
        assert record["kind"] == kind.capitalize()
        assert record["session"] == {"id": 0, "short_app_id": 0}
        assert record["certificates"] >= 2
        assert len(record["credential_id"]) == 32
        assert record["store"] == {"name": "default", "path": os.fspath(tmp_path / "data/ihsm/default"), "pin": False}
        for name in ("second", "third"):  # the credential ends with the command, so the next one finds none
            table = run("init", "--device", uri(device), "--store", name)
            assert table.exit_code == 0, table.output
            assert "session.id" in table.output
            assert "backup" not in table.output
            assert "the permissions of its files are all that protects it" in table.stderr


def test_a_private_device_and_a_store_that_is_there(tmp_path: Path) -> None:
    """What init made, a later process uses; a second init of the same name leaves it alone."""
    run_json("init")
    succeed("key", "generate", "web")
    pem = succeed("key", "show", "web")
    told = refused(7, "init")
    assert "default" in told
    assert "take another name, or rename or delete that store (`ihsm store`)" in " ".join(told.split())
    (tmp_path / "signature").write_bytes(succeed("sign", "web", stdin=b"data"))
    succeed("verify", "web", "--signature", tmp_path / "signature", stdin=b"data")
    assert succeed("key", "show", "web") == pem


def test_a_pin_that_protects_the_store(tmp_path: Path, device: EmbeddedDevice) -> None:
    pin, wrong = tmp_path / "pin", tmp_path / "wrong"
    pin.write_text("correct horse\n")
    wrong.write_text("correct house\n")
    result = run("init", "--device", uri(device), "--store-pin-file", pin)
    assert result.exit_code == 0, result.output
    assert "no PIN" not in result.output
    refused(7, "key", "generate", "web")
    refused(7, "key", "generate", "web", "--pin-file", wrong, "--device", "vfio-user:/nowhere.sock")
    succeed("key", "generate", "web", "--pin-file", pin)
    reader, writer = os.pipe()
    os.write(writer, b"correct horse\n")
    os.close(writer)
    try:
        assert succeed("sign", "web", "--pin-fd", str(reader), stdin=b"data")
    finally:
        os.close(reader)
    succeed("key", "show", "web")  # public keys need no PIN


def test_a_pin_that_is_asked_for(device: EmbeddedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """By init twice; by others on the terminal, though their standard input is the data."""
    assert run("init", "--device", uri(device), "--store-pin-prompt", stdin=b"one\ntwo\n").exit_code != 0
    refused(7, "key", "list")
    assert run("init", "--device", uri(device), "--store-pin-prompt", stdin=b"correct\ncorrect\n").exit_code == 0
    asked = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "correct"

    monkeypatch.setattr("ihsm.cli.pin._has_terminal", lambda: True)
    monkeypatch.setattr("ihsm.cli.pin.ask_pin", ask)
    succeed("key", "generate", "web")
    data = succeed("sign", "web", "--jws", stdin=b"data")
    assert data.split(b".")[1] == b"ZGF0YQ"
    assert asked == ["PIN of store 'default'"] * 2
    refused(2, "encrypt", "web", "none", "-o", "/dev/null")
    refused(7, "sign", "nobody", stdin=b"data")
    assert len(asked) == 2, "for nothing"


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
        (("--store-pin-prompt", "--store-pin-file", "FILE"), b"1234", "--store-pin-prompt asks"),
        (("--store-pin-file", "FILE", "--store-pin-fd", "0"), b"1234", "cannot be given together"),
        (("--store-pin-fd", str(1 << 31)), b"", "no such number"),
        (("--store", "a/b"), b"", "a/b"),
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
    assert not (tmp_path / "data").exists()


def test_a_refused_credential(device: EmbeddedDevice, tmp_path: Path) -> None:
    """Devices refuse a PIN of zeros: one line that names operation and status."""
    (tmp_path / "pin").write_bytes(bytes(16))
    result = run("init", "--device", uri(device), "--pin-file", str(tmp_path / "pin"))
    assert result.exit_code == 6, result.output
    assert result.output.startswith("Error: EstablishCredential: InvalidAppCredentials")
    assert result.output.count("\n") == 1
    assert json.loads(run("store", "list", "--json").output) == []
