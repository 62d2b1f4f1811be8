# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A process that has a responder, and answers a requester in another one."""

from __future__ import annotations

from ihsm_device.hsm import HsmDevice
from ihsm_device.tdi import DeviceInterface
from ihsm_device.trust.attestation import Attestation
from support.commanded import Commanded


class SpdmLife(Commanded):
    """The commands."""

    def __init__(self) -> None:
        self.responder = Attestation(HsmDevice(), ()).objects(0, DeviceInterface()).responder
        self.planted = b""

    def ask(self, message: str) -> str:
        """A message outside of a session."""
        return self.responder.answer(bytes.fromhex(message)).hex()

    def ask_secured(self, record: str) -> str:
        """A record."""
        return (self.responder.answer_secured(bytes.fromhex(record)) or b"").hex()

    def forget(self) -> None:
        """As a reset does."""
        self.responder.forget()

    def plant(self, value: str) -> None:
        """Keep a value where none should be."""
        self.planted = bytes.fromhex(value)


if __name__ == "__main__":
    SpdmLife().obey()
