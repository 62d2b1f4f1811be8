# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The error state: entered by a failed self-test or pairwise test, left by a new start only (spec 06 §3)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ihsm_abi.ddi import GetDeviceInfoReq, encode_request
from ihsm_abi.hsm_queue import ControlKind, HsmStatus
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
from ihsm_device.hsm.keystore import KeyStore
from ihsm_device.hsm.module import SecurityModule
from support.hsm import ModuleTransport, Scene
from support.waiting import ended

INFO = encode_request(GetDeviceInfoReq())


def answers(module: SecurityModule) -> bool:
    """Whether a command gets a response; in the error state its completion alone says that something failed."""
    completion = ModuleTransport(module).exchange(INFO, ControlKind.NONE, None).completion
    if completion.sc == HsmStatus.SUCCESS:
        return True
    assert (completion.sc, completion.message, completion.flags) == (HsmStatus.INTERNAL_ERROR, b"", 0)
    return False


def test_power_on_self_tests_pass() -> None:
    with HsmDevice() as device:
        module = device.function()
        assert module.status()["self_tests"] == {"passed": True, "failed": []}
        assert module.status()["error"] is None
        assert answers(module)


@pytest.mark.parametrize("test", ["aes-256-cbc", "ecdsa-p384", "kbkdf"])
def test_a_failed_self_test(tmp_path: Path, test: str) -> None:
    store = KeyStore(fault_injection=True)
    name = next(name for name in store.self_test_names() if name.startswith(test.split("-")[0]))
    store.set_fault(name, 1)
    folder = tmp_path / "state"
    with HsmDevice(DeviceOptions(state=folder), store=store) as device:
        module = device.function()
        assert not answers(module)
        assert module.status()["self_tests"] == {"passed": False, "failed": [name]}
        assert name in module.status()["error"]
        assert sorted(path.name for path in folder.iterdir()) == ["lock"], "nothing is made with failed algorithms"
        assert device.run_self_tests().passed
        assert not answers(module), "only a new start ends the error state"
    with HsmDevice(DeviceOptions(state=folder)) as device:
        assert answers(device.function())


def test_a_failed_pairwise_test_of_the_identity_key() -> None:
    store = KeyStore(fault_injection=True)
    with HsmDevice(store=store) as device:
        store.set_fault("pct-ec", 1)
        module = device.function()
        assert not answers(module)
        assert "identity key of function 0" in module.status()["error"]


def test_a_failed_pairwise_test_of_an_encryption_key() -> None:
    store = KeyStore(fault_injection=True)
    with HsmDevice(store=store) as device:
        scene = Scene(device.function())
        scene.client.info()
        scene.client.identity_key()
        store.set_fault("pct-ec", 1)
        with pytest.raises(Exception, match="PctValidationEstablishCredEncKeyFailed"):
            scene.provision()
        assert not answers(scene.module)


def test_a_failed_pairwise_test_of_the_unwrapping_key() -> None:
    store = KeyStore(fault_injection=True)
    store.set_fault("pct-rsa", -1)
    with HsmDevice(store=store) as device:
        module = device.function()
        ended(device.unwrapping_keys._thread)
        assert not answers(module)
        assert "unwrapping key" in module.status()["error"]


def test_resets_and_status_work_in_the_error_state() -> None:
    with HsmDevice() as device:
        module = device.function()
        device.enter_error_state("first")
        device.enter_error_state("second")
        for reset in (module.nssr, module.disable, module.client_lost, module.partition_reset):
            reset()
        assert module.status()["error"] == "first"
        assert not answers(module)
