# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A device, its responder, and requesters of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ihsm_abi.spdm.algorithms import BaseHash
from ihsm_abi.spdm.manifest import MeasuredFile
from ihsm_device.hsm import HsmDevice
from ihsm_device.hsm.device import DeviceOptions
from ihsm_device.tdi import DeviceInterface
from ihsm_device.trust import Responder
from ihsm_device.trust.attestation import Attestation
from support.spdm_requester import Requester
from support.spdm_vendor import Protocol
from support.trusted_io import Config
from support.trusted_session import TrustedSession

FILES = tuple(
    MeasuredFile(path, bytes([number]) * 48)
    for number, path in enumerate(("ihsm_abi/bits.py", "ihsm_device/_native.so", "ihsm_device/trust/session.py"))
)


@pytest.fixture(scope="module")
def hsm() -> Iterator[HsmDevice]:
    with HsmDevice(DeviceOptions(validation_hooks=True)) as device:
        yield device


@pytest.fixture(scope="module")
def attestation(hsm: HsmDevice) -> Attestation:
    attestation = Attestation(hsm, FILES)
    attestation.evidence.chain(BaseHash.SHA384)  # made when it is asked for first; its key stays
    return attestation


@pytest.fixture
def protocol() -> Protocol:
    return Protocol()


@pytest.fixture
def responder(attestation: Attestation, protocol: Protocol) -> Iterator[Responder]:
    responder = attestation.responder(0, {(3, 7): protocol})
    yield responder
    responder.forget()


@pytest.fixture
def make_requester(responder: Responder) -> Callable[..., Requester]:
    def make(base_hash: BaseHash = BaseHash.SHA384) -> Requester:
        return Requester(responder.answer, responder.answer_secured, base_hash)

    return make


@pytest.fixture
def requester(make_requester: Callable[..., Requester]) -> Requester:
    """One that has negotiated and read the chain."""
    requester = make_requester()
    requester.negotiate()
    requester.read_chain()
    return requester


@pytest.fixture
def interface() -> DeviceInterface:
    return DeviceInterface()


@pytest.fixture
def config(interface: DeviceInterface) -> Config:
    return Config(interface)


@pytest.fixture
def tio(attestation: Attestation, interface: DeviceInterface) -> Iterator[TrustedSession]:
    tio = TrustedSession(attestation, interface)
    yield tio
    tio.responder.forget()
