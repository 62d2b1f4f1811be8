# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Conditions that end an HSM command without a message, through the queues of a whole device (spec 02 B.7)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from ihsm.ddi.keys import KeyRequest
from ihsm_abi.admin import Psf
from ihsm_abi.ddi import AesGenerateKeyReq, AesKeySize, GetDeviceInfoReq, KeyUsage, encode_request
from ihsm_abi.hsm_queue import HSM_SQE, HsmCommandWord, HsmStatus, SessionControl
from ihsm_device.hsm.device import HsmDevice
from support.hsm import Scene
from support.loopback import LoopbackFunction
from support.polled import PolledDriver, hsm_sqe

UNMAPPED = 0xDEAD_0000
FLUSH = {"command": HsmCommandWord.of(opc=1)}
CONDITIONS: dict[str, dict[str, int]] = {
    "psdt": {"command": HsmCommandWord.of(psdt=1)},
    "opcode": {"command": HsmCommandWord.of(opc=2)},
    "source-length": {"src_len": 0},
    "destination-length": {"dst_len": 8193},
    "source-prp": {"src_prp1": 1},
    "destination-prp": {"dst_prp2": 0x800},
    "source-above-buffer": {"src_len": 3585},
    "fetch-error": {"src_prp1": UNMAPPED},
    "flush-kind": FLUSH | {"control": SessionControl.of(kind=3, id_valid=1)},
    "flush-no-id": FLUSH | {"control": SessionControl.of(kind=2)},
    "store-error": {"dst_prp1": UNMAPPED},
}
ORDER = (
    "psdt",
    "opcode",
    "source-length",
    "destination-length",
    "source-prp",
    "destination-prp",
    "source-above-buffer",
)
STATUS = {
    "psdt": HsmStatus.INVALID_PSDT,
    "opcode": HsmStatus.INVALID_OPCODE,
    "source-length": HsmStatus.INVALID_SRC_LENGTH,
    "destination-length": HsmStatus.INVALID_DST_LENGTH,
    "source-prp": HsmStatus.INVALID_SRC_PRP,
    "destination-prp": HsmStatus.INVALID_DST_PRP,
    "source-above-buffer": HsmStatus.INTERNAL_ERROR,
    "fetch-error": HsmStatus.DMA_ERROR,
    "flush-kind": HsmStatus.INTERNAL_ERROR,
    "flush-no-id": HsmStatus.INTERNAL_ERROR,
    "store-error": HsmStatus.DMA_ERROR,
}


@dataclass(frozen=True)
class Rig:
    """A device with its queues, and a client that goes past them."""

    driver: PolledDriver
    scene: Scene

    def run(self, message: bytes, control: int = 0, session_id: int = 0, **changes: int) -> np.void:
        """Send a request with some fields of its queue entry changed; returns the completion entry."""
        driver = self.driver
        driver.page.view[: len(message)] = np.frombuffer(message, np.uint8)
        sqe = hsm_sqe(
            driver.next_cid(),
            source=driver.page.iova,
            source_bytes=len(message),
            destination=driver.answer_page.iova,
            destination_bytes=8192,
            control=control,
            session_id=session_id,
        )
        entry = np.frombuffer(sqe, HSM_SQE).copy()
        for name, value in changes.items():
            entry[0][name] = value
        return driver.rings[1].run(entry.tobytes())


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with HsmDevice() as device:
        module = device.function()
        with LoopbackFunction(module) as function:
            driver = PolledDriver(function)
            driver.enable()
            driver.create_pair(1)
            scene = Scene(module)
            scene.provision()
            scene.open_session()
            yield Rig(driver, scene)
            driver.close()


@pytest.mark.parametrize("condition", CONDITIONS)
def test_condition(rig: Rig, covers: Callable[..., None], condition: str) -> None:
    completion = rig.run(encode_request(GetDeviceInfoReq()), **CONDITIONS[condition])
    assert Psf(completion["psf"]).sc == STATUS[condition]
    assert int(completion["byte_count"]) == 0
    covers(f"completion/{condition}")


@pytest.mark.parametrize(("first", "second"), list(itertools.pairwise(ORDER)))
def test_the_earlier_check_decides(rig: Rig, first: str, second: str) -> None:
    both = CONDITIONS[second] | CONDITIONS[first]
    if "command" in CONDITIONS[first] and "command" in CONDITIONS[second]:
        both["command"] = CONDITIONS[first]["command"] | CONDITIONS[second]["command"]
    completion = rig.run(encode_request(GetDeviceInfoReq()), **both)
    assert Psf(completion["psf"]).sc == STATUS[first]


def test_what_cannot_be_delivered_is_taken_back(rig: Rig) -> None:
    request = AesGenerateKeyReq(
        key_size=AesKeySize.Aes256, key_properties=KeyRequest(KeyUsage.EncryptDecrypt).properties
    )
    before = rig.scene.module.status()["vault"]
    control = SessionControl.of(kind=3, id_valid=1)
    completion = rig.run(encode_request(request, session_id=0), control, 0, dst_prp1=UNMAPPED)
    assert Psf(completion["psf"]).sc == HsmStatus.DMA_ERROR
    assert rig.scene.module.status()["vault"] == before
