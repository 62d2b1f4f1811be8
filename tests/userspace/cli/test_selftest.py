# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm selftest`: passes on good devices, fails on bad ones, leaves nothing behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ihsm.bus import VfioUserFunction
from ihsm.control import ControlClient
from ihsm.ddi import Credential, Partition, SoftwareTrustAnchor, StatusError
from ihsm.driver import Controller, HsmReply
from ihsm.embedded import EmbeddedDevice
from ihsm.selftest import run_selftest
from ihsm.selftest.bench import CheckError
from ihsm_abi.ddi import DdiOp, DdiStatus, decode_request_header
from ihsm_abi.hsm_queue import ControlKind
from support.commands import run, run_json, uri

FAMILIES = {
    "device-info", "certificate-chain", "establish-credential", "open-session", "unwrapping-key",
    "aes-128-cbc", "aes-192-cbc", "aes-256-cbc", "aes-gcm", "aes-xts",
    "ecdh-p256", "ecdh-p384", "ecdh-p521", "hkdf", "kbkdf", "variable-hmac",
    "ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "rsa", "rsa-crt",
    "open-delete", "mask-unmask", "attest", "change-pin", "restore-after-reset", "close-session", "remove-credential",
}  # fmt: skip


def module_status(device: EmbeddedDevice) -> dict[str, Any]:
    with ControlClient(device.socket_path) as client:
        status: dict[str, Any] = client.status()["module"]
    return status


@pytest.mark.parametrize(
    "options", [["--kind", "virtual"], ["--kind", "physical", "--fips"], ["--profile", "firmware"]], ids=" ".join
)
def test_a_good_device_passes_and_is_left_empty(options: list[str]) -> None:
    with EmbeddedDevice(options) as device:
        record = run_json("selftest", "--device", uri(device))
        assert record["failed"] == 0, record
        assert {step["name"] for step in record["steps"]} == FAMILIES
        assert record["passed"] == len(FAMILIES)
        assert all(set(step) == {"name", "ok", "detail", "us"} and step["us"] > 0 for step in record["steps"])
        status = module_status(device)
    assert (status["state"], status["sessions"]) == ("fresh", {})
    assert (status["vault"]["entries"], status["vault"]["bytes"], status["vault"]["bulk_keys"]) == (0, 0, 0)


def test_a_line_per_step_on_a_device_of_its_own() -> None:
    result = run("selftest")
    assert result.exit_code == 0, result.output
    *lines, last = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", line.split()[1]] for line in lines]
    assert {line.split()[1] for line in lines} == FAMILIES
    assert last == f"{len(FAMILIES)} passed, 0 failed"
    assert "taking a private one" in result.stderr


class CorruptingController(Controller):
    """Flips a bit near the end of every response to one operation."""

    victim: DdiOp

    def exchange(
        self, message: bytes, kind: ControlKind, session_id: int | None, *, timeout_s: float | None = None
    ) -> HsmReply:
        reply = super().exchange(message, kind, session_id, timeout_s=timeout_s)
        if decode_request_header(message)[0].op != self.victim:
            return reply
        message = bytearray(reply.message)
        message[-10] ^= 1  # further behind may lie fill
        return reply._replace(message=bytes(message))


@pytest.mark.parametrize(
    ("victim", "failing"),
    [
        (DdiOp.EccSign, {"ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "mask-unmask", "restore-after-reset"}),
        (DdiOp.AttestKey, {"attest"}),
        (DdiOp.RsaModExp, {"rsa", "rsa-crt"}),
        (DdiOp.GetCertificate, {"certificate-chain", "attest"}),
    ],
    ids=lambda value: value.name if isinstance(value, DdiOp) else "",
)
def test_a_device_that_computes_wrongly_fails_in_the_steps_concerned(
    monkeypatch: pytest.MonkeyPatch, victim: DdiOp, failing: set[str]
) -> None:
    monkeypatch.setattr("ihsm.driver.Controller", CorruptingController)
    monkeypatch.setattr(CorruptingController, "victim", victim, raising=False)
    with EmbeddedDevice() as device:
        result = run("selftest", "--device", uri(device), "--json")
        status = module_status(device)
    assert result.exit_code == 1
    record = json.loads(result.output)
    assert failing <= {step["name"] for step in record["steps"] if not step["ok"]}
    assert record["failed"] == sum(not step["ok"] for step in record["steps"])
    assert record["passed"] + record["failed"] == len(record["steps"]) == len(FAMILIES)
    assert all(step["detail"] for step in record["steps"])
    assert (status["state"], status["vault"]["entries"]) == ("fresh", 0)


def test_a_provisioned_partition_is_left_as_it_was(device: EmbeddedDevice) -> None:
    credential = Credential(os.urandom(16), os.urandom(16))
    with Controller(VfioUserFunction(device.socket_path)) as controller:
        with pytest.raises(CheckError, match="the partition has none"):
            run_selftest(controller, credential)
        partition = Partition(controller)
        anchor = SoftwareTrustAnchor(ec.generate_private_key(ec.SECP384R1()))
        partition.establish_credential(credential, partition.init_bk3(os.urandom(48)).masked_bk3, anchor)
        partition.open_session(credential).close()
        before = module_status(device)
        with pytest.raises(CheckError, match="has a credential already"):
            run_selftest(controller)
        report = run_selftest(controller, credential)
        assert not report.failed, report.record()
        own = {"establish-credential", "change-pin", "restore-after-reset", "remove-credential"}
        assert {step.name for step in report.steps} == FAMILIES - own
        assert module_status(device) == before
        partition.open_session(credential).close()
        wrong = run_selftest(controller, Credential(credential.id, os.urandom(16)))
        assert [step.name for step in wrong.steps if step.ok] == ["device-info", "certificate-chain"]


def test_an_option_that_lacks_its_other_half() -> None:
    result = run("selftest", "--id", "00" * 16)
    assert result.exit_code == 2
    assert "--id and --pin-file belong together" in result.output


def test_options_reach_the_partition(device: EmbeddedDevice, tmp_path: Path) -> None:
    (tmp_path / "pin").write_bytes(os.urandom(16))
    result = run("selftest", "--device", uri(device), "--id", "11" * 16, "--pin-file", str(tmp_path / "pin"))
    assert result.exit_code == 1
    assert "the partition has none" in result.output


def test_statuses_are_named(device: EmbeddedDevice) -> None:
    with Controller(VfioUserFunction(device.socket_path)) as controller:
        with pytest.raises(StatusError) as refused:
            Partition(controller).open_session(Credential(b"1" * 16, b"2" * 16))
        assert refused.value.status is DdiStatus.CredentialsNotEstablished
