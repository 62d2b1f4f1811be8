# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""SPDM in data objects."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from ihsm_abi.doe import OBJECT_DISCOVERY, OBJECT_SECURED_SPDM, OBJECT_SPDM, PCI_SIG, DataObject, DoeFormatError
from ihsm_device.trust import Responder, SpdmObjects
from support.spdm_requester import Requester


def sender(
    objects: SpdmObjects, type: int, spoil: Callable[[bytes], bytes] = lambda data: data
) -> Callable[[bytes], bytes]:
    """Sends payloads in objects of that type."""

    def send(payload: bytes) -> bytes:
        answer = objects.answer(spoil(DataObject(PCI_SIG, type, payload).encode()))
        assert answer is not None
        assert len(answer) % 4 == 0
        decoded = DataObject.decode(answer)
        assert (decoded.vendor, decoded.type) == (PCI_SIG, type)
        return decoded.payload

    return send


def test_a_conversation(responder: Responder) -> None:
    objects = SpdmObjects(responder)

    def record(payload: bytes) -> bytes:
        answer = sender(objects, OBJECT_SECURED_SPDM)(payload)
        return answer[: 6 + int.from_bytes(answer[4:6], "little")]

    requester = Requester(sender(objects, OBJECT_SPDM), record)
    requester.padding = 3
    requester.negotiate()
    requester.read_chain()
    requester.challenge()
    requester.blocks()
    requester.open_session()
    requester.blocks()
    requester.read_chain(0xFFFF)
    requester.end_session()


def test_other_objects(responder: Responder) -> None:
    objects = SpdmObjects(responder)
    for vendor, type in ((PCI_SIG, OBJECT_DISCOVERY), (PCI_SIG, 3), (0x1414, OBJECT_SPDM)):
        assert objects.answer(DataObject(vendor, type, bytes(4)).encode()) is None
    assert objects.answer(DataObject(PCI_SIG, OBJECT_SECURED_SPDM, bytes(40)).encode()) is None
    with pytest.raises(DoeFormatError):
        objects.answer(os.urandom(3))


def test_a_reset_is_passed_on(requester: Requester, responder: Responder) -> None:
    requester.open_session()
    SpdmObjects(responder).forget(0)
    assert responder.session_id is None
