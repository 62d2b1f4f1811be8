# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A function's objects without a mailbox before them: what requesters need, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ihsm.errors import MailboxError
from ihsm_abi.doe import OBJECT_SECURED_SPDM, OBJECT_SPDM, PCI_SIG, DataObject
from ihsm_abi.spdm.algorithms import BaseHash
from ihsm_abi.spdm.manifest import MeasuredFile
from ihsm_device.hsm import HsmDevice
from ihsm_device.hsm.device import DeviceOptions
from ihsm_device.tdi import DeviceInterface
from ihsm_device.trust import SpdmObjects, VendorProtocols
from ihsm_device.trust.attestation import Attestation

FILES = tuple(
    MeasuredFile(path, bytes([number]) * 48)
    for number, path in enumerate(("ihsm_abi/bits.py", "ihsm_device/_native.so", "ihsm_device/trust/session.py"), 1)
)


class DirectExchange:
    """As a `Mailbox`."""

    def __init__(self, objects: SpdmObjects) -> None:
        self.objects = objects
        self.sent: list[DataObject] = []

    def discover(self, timeout_s: float = 1.0) -> list[tuple[int, int]]:
        return [(PCI_SIG, 0), (PCI_SIG, OBJECT_SPDM), (PCI_SIG, OBJECT_SECURED_SPDM)]

    def exchange(self, vendor: int, type: int, payload: bytes, timeout_s: float = 1.0) -> bytes:
        asked = DataObject(vendor, type, payload)
        self.sent.append(asked)
        answer = self.objects.answer(asked.encode())
        if answer is None:
            raise MailboxError("error bit")
        return DataObject.decode(answer).payload


class Attested:
    """A device, and functions of it to be asked."""

    def __init__(self, hsm: HsmDevice, files: tuple[MeasuredFile, ...] = FILES) -> None:
        self.hsm = hsm
        self.attestation = Attestation(hsm, files)
        self.attestation.evidence.chain(BaseHash.SHA384)

    @property
    def root(self) -> bytes:
        """In DER."""
        return self.hsm.record.certificates[0]

    def exchange(self, protocols: VendorProtocols | None = None, function: int = 0) -> DirectExchange:
        """Where a new responder answers."""
        return DirectExchange(SpdmObjects(self.attestation.responder(function, protocols)))

    def trusted(self, interface: DeviceInterface, function: int = 0) -> DirectExchange:
        """Where a new responder answers that acts on an interface."""
        return DirectExchange(self.attestation.objects(function, interface))


@contextmanager
def attested_device() -> Iterator[Attested]:
    """One, for as long as the block lasts."""
    with HsmDevice(DeviceOptions(validation_hooks=True)) as hsm:
        yield Attested(hsm)
