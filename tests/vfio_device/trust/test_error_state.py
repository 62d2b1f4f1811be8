# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""After a failed self-test nothing is proved."""

from __future__ import annotations

from ihsm_device.hsm import HsmDevice
from ihsm_device.trust.attestation import Attestation
from support.spdm_requester import Requester


def test_a_device_in_its_error_state_proves_nothing() -> None:
    with HsmDevice() as device:
        responder = Attestation(device, ()).responder(0)
        requester = Requester(responder.answer, responder.answer_secured)
        requester.negotiate()
        device.enter_error_state("a test")
        assert responder.answer(bytes.fromhex("12810000")) == bytes.fromhex("127f0500")
