# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""IDE_KM and TDISP in a session with a responder, whose interface is no function's."""

from __future__ import annotations

from ihsm_device.tdi import DeviceInterface
from ihsm_device.trust.attestation import Attestation
from support.spdm_requester import Requester
from support.trusted_io import TrustedIo


class TrustedSession(TrustedIo):
    """A TSM, and how often it had the function stopped."""

    def __init__(self, attestation: Attestation, interface: DeviceInterface) -> None:
        self.responder = attestation.objects(0, interface).responder
        self.requester = Requester(self.responder.answer, self.responder.answer_secured)
        self.stops = 0
        interface.stop_function = self._count
        self.begin()
        super().__init__(self.requester.secured)

    def _count(self) -> None:
        self.stops += 1

    def begin(self) -> None:
        """A session."""
        self.requester.request = self.requester.response = None
        self.requester.negotiate()
        self.requester.read_chain()
        self.requester.open_session()

    def outside(self, message: bytes) -> bytes:
        """A message beside the session."""
        return self.responder.answer(message)

    def end(self, how: str) -> None:
        """Of the session."""
        if how == "END_SESSION":
            self.requester.end_session()
        elif how == "forgotten":
            self.responder.forget()
        else:
            self.responder.answer(bytes.fromhex("10840000"))
