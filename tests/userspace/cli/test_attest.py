# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm attest` of served devices, one of which runs other code than it should."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ihsm.embedded import EmbeddedDevice
from ihsm_abi.spdm import manifest
from support.certificates import certificate
from support.commands import refused, run, run_json, succeed, uri
from support.process import serve

NONCE = bytes(range(32))


@pytest.fixture(scope="module")
def device() -> Iterator[EmbeddedDevice]:
    with EmbeddedDevice() as device:
        yield device


@pytest.fixture
def reference(device: EmbeddedDevice, tmp_path: Path) -> Path:
    """Of that device."""
    path = tmp_path / "reference.json"
    succeed("attest", "--device", uri(device), "--write-reference", path)
    return path


def attested(device: EmbeddedDevice, *options: str | Path) -> Any:
    return run_json("attest", "--device", uri(device), *options)


def test_claims(device: EmbeddedDevice) -> None:
    record = attested(device, "--nonce", NONCE.hex(":"))
    assert record["verified"] is True
    assert record["device"] == uri(device)
    assert bytes.fromhex(record["nonce"]) == NONCE
    assert [block["block"] for block in record["blocks"]] == list(range(1, 37))
    assert record["chain"]["root_pinned"] is False
    assert record["reference"] is None


def test_a_line_per_claim(device: EmbeddedDevice, reference: Path) -> None:
    lines = succeed("attest", "--device", uri(device), "--reference", reference).decode().splitlines()
    verdicts = {line.split()[0]: line for line in lines}
    assert list(verdicts) == [
        "mailbox", "chain", "root", "challenge", "measurements", "session", "device", "reference",
    ]  # fmt: skip
    assert "not pinned" in verdicts.pop("root")
    assert "ihsm emulator" in verdicts.pop("device")
    assert {line.split()[1] for line in verdicts.values()} == {"ok"}


def test_the_root_that_is_named(device: EmbeddedDevice, tmp_path: Path) -> None:
    """It comes with the chain that the DDI gives out, too."""
    chain, other = tmp_path / "chain.pem", tmp_path / "other.pem"
    succeed("info", "--device", uri(device), "--chain", chain)
    assert attested(device, "--root", chain)["chain"]["root_pinned"] is True
    other.write_bytes(x509.load_der_x509_certificate(certificate(0)).public_bytes(Encoding.PEM))
    result = run("attest", "--device", uri(device), "--root", other)
    assert result.exit_code == 6
    assert "is not trusted" in result.stderr.splitlines()[-1]
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[:2] for line in lines] == [["mailbox", "ok"], ["chain", "ok"], ["root", "FAILS"]]
    result = run("attest", "--device", uri(device), "--root", other, "--json")
    assert result.exit_code == 6
    record = json.loads(result.stdout)
    assert (record["verified"], record["device"]) == (False, uri(device))
    assert [(claim["name"], claim["holds"]) for claim in record["claims"]] == [
        ("mailbox", True), ("chain", True), ("root", False),
    ]  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x30\x82", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_root_that_is_no_certificate(device: EmbeddedDevice, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "root.pem"
    path.write_bytes(content)
    line = refused(2, "attest", "--device", uri(device), "--root", path)
    assert line.endswith(f"{path}: no certificates, or a damaged one; PEM is taken, and DER")


def test_a_reference_of_the_same_device(device: EmbeddedDevice, reference: Path) -> None:
    record = attested(device, "--reference", reference)
    files = manifest.measure(manifest.installed())
    assert record["reference"] == {
        "blocks": list(range(1, 37)), "code_absent": [], "files": len(files), "differences": [],
    }  # fmt: skip


def test_a_reference_that_says_nothing_of_the_code(device: EmbeddedDevice, reference: Path) -> None:
    plain = json.loads(reference.read_bytes())
    plain["blocks"] = [block for block in plain["blocks"] if block["block"] not in (16, 25)]
    reference.write_text(json.dumps(plain))
    lines = succeed("attest", "--device", uri(device), "--reference", reference).decode().splitlines()
    assert lines[-1].split("  ")[0] == "code"
    assert lines[-1].endswith("not compared  the reference has no block 16, 25")
    assert attested(device, "--reference", reference)["reference"]["code_absent"] == [16, 25]


def test_another_configuration(reference: Path) -> None:
    with EmbeddedDevice(["--express", "off"]) as other:
        result = run("attest", "--device", uri(other), "--reference", reference)
    assert result.exit_code == 6
    assert "express false, the reference has true" in result.stdout
    assert result.stderr.splitlines()[-1].endswith("describes: block 33 (configuration)")


def test_code_of_which_one_byte_was_changed(reference: Path, tmp_path: Path) -> None:
    copies = tmp_path / "code"
    for package, folder in manifest.installed().items():
        shutil.copytree(folder, copies / package, ignore=shutil.ignore_patterns("__pycache__"))
    file = copies / "ihsm_device" / "hsm" / "dispatch.py"
    code = file.read_bytes()
    file.write_bytes(code.replace(b"The ihsm authors", b"The ihsm author5", 1))
    assert file.read_bytes() != code
    environment = {**os.environ, "PYTHONPATH": os.fspath(copies)}
    options = ("--socket", os.fspath(tmp_path / "s"))
    program = (sys.executable, "-c", "from ihsm.cli import main; main()", "serve")
    with serve(*options, environment=environment, program=program) as server:
        arguments = ("attest", "--device", f"vfio-user:{server.paths[0]}", "--reference", reference)
        result = run(*arguments)
        record = json.loads(run(*arguments, "--json").stdout)
    assert result.exit_code == 6
    named = "block 24 (code in Python): other or missing: ihsm_device/hsm/dispatch.py"
    assert named in result.stderr.splitlines()[-1]
    assert "ihsm_device/hsm/dispatch.py" in result.stdout
    assert record["verified"] is False
    found = record["reference"]["differences"]
    assert [each["block"] for each in found] == [24, 29]
    assert found[0]["files"] == ["ihsm_device/hsm/dispatch.py"]


def test_arguments_that_cannot_be(device: EmbeddedDevice, reference: Path, tmp_path: Path) -> None:
    device_option = ("attest", "--device", uri(device))
    assert "exclude each other" in refused(
        2, *device_option, "--reference", reference, "--write-reference", tmp_path / "b"
    )
    assert "31 bytes, 32 needed" in refused(2, *device_option, "--nonce", "00" * 31)
    assert "a function itself is needed" in refused(2, "attest", "--device", "chardev:/dev/null")
    assert "no such PCI function" in refused(3, "attest", "--device", "pci:0042:42:1f.7")


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\xff", b"[" * 100_000, b"1e999"])
def test_a_file_that_is_no_reference(device: EmbeddedDevice, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "reference.json"
    path.write_bytes(content)
    assert f"{path}: no reference: " in refused(2, "attest", "--device", uri(device), "--reference", path)


def test_a_reference_that_cannot_be_written(device: EmbeddedDevice, tmp_path: Path) -> None:
    path = tmp_path / "none" / "reference.json"
    assert "cannot be written" in refused(2, "attest", "--device", uri(device), "--write-reference", path)


def test_a_function_without_a_mailbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0000:00:04.0").mkdir()
    (tmp_path / "0000:00:04.0" / "config").write_bytes(bytes(4096))
    monkeypatch.setattr("ihsm.bus.sysfs_config.SYSFS_DEVICES", tmp_path)
    line = refused(4, "attest", "--device", "pci:00:04.0")
    assert "no mailbox for data objects (DOE): the device has none, or VFIO hides it" in line
