# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A responder behind a mailbox: data objects of SPDM and of secured SPDM (PCIe 6.x 6.31, spec 06 §2.2)."""

from __future__ import annotations

from typing import Any

from ihsm_abi.doe import OBJECT_SECURED_SPDM, OBJECT_SPDM, PCI_SIG, DataObject
from ihsm_device.trust.responder import Responder


class SpdmObjects:
    """Answers the objects of one function's mailbox."""

    def __init__(self, responder: Responder) -> None:
        """Let `responder` answer."""
        self.responder = responder

    def answer(self, data_object: bytes) -> bytes | None:
        """An object of the same type; None for another type, and for a record that is of no session.

        Raises:
            DoeFormatError: it is no object.
        """
        asked = DataObject.decode(data_object)
        if asked.vendor != PCI_SIG or asked.type not in (OBJECT_SPDM, OBJECT_SECURED_SPDM):
            return None
        secured = asked.type == OBJECT_SECURED_SPDM
        answer = self.responder.answer_secured(asked.payload) if secured else self.responder.answer(asked.payload)
        return None if answer is None else DataObject(asked.vendor, asked.type, answer).encode()

    def status(self) -> dict[str, Any]:
        """For the control socket."""
        return self.responder.status()

    def forget(self, _cause: object) -> None:
        """The function was reset, or its client has gone."""
        self.responder.forget()
