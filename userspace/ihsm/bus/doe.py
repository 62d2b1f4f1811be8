# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Data objects exchanged with a function through the mailbox in its configuration space (PCI Express Base 6.x 6.30)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from ihsm.arguments import integer, waiting_time
from ihsm.bus.config_space import ConfigAccess, extended_capability
from ihsm.errors import (
    ArgumentError,
    BusTimeoutError,
    MailboxBusyError,
    MailboxError,
    MailboxNotFoundError,
    ProtocolError,
)
from ihsm_abi.doe import (
    DOE_CONTROL_OFFSET,
    DOE_DWORD_BYTES,
    DOE_READ_MAILBOX_OFFSET,
    DOE_STATUS_OFFSET,
    DOE_WRITE_MAILBOX_OFFSET,
    NO_VENDOR,
    OBJECT_DISCOVERY,
    OBJECT_HEADER,
    OBJECT_MAX_DWORDS,
    OBJECT_MIN_DWORDS,
    PAYLOAD_MAX_BYTES,
    PCI_SIG,
    DataObject,
    DiscoveryAnswer,
    DiscoveryRequest,
    DoeControl,
    DoeStatus,
    ObjectLength,
)
from ihsm_abi.pci import ExtendedCapability

DEFAULT_TIMEOUT_S: Final = 1.0
"""What a mailbox may take for an answer (6.30.2)."""
ABORT_TIMEOUT_S: Final = 1.0
"""What it may take for an abort."""
FIRST_PAUSE_S: Final = 50e-6
LONGEST_PAUSE_S: Final = 1e-3
MAX_DISCOVERED: Final = 256
"""Indexes of discovery are bytes."""

Condition = Callable[[DoeStatus], bool]


class Mailbox:
    """The first mailbox of a function. One exchange at a time; other threads wait for theirs.

    Nothing keeps other programs, or the kernel, from using the mailbox at the same time.
    """

    def __init__(self, function: ConfigAccess) -> None:
        """Find the mailbox of a function, which stays the caller's and open.

        Raises:
            MailboxNotFoundError: there is none, or it is hidden.
            BusError: configuration space cannot be read.
        """
        offset = extended_capability(function, ExtendedCapability.DATA_OBJECT_EXCHANGE)
        if offset is None:
            raise MailboxNotFoundError(
                f"{function.uri}: configuration space shows no mailbox for data objects (DOE): the device has none, or "
                "VFIO hides it, as it does from a guest too: the machine that has the device sees it through sysfs"
            )
        self._function = function
        self._offset = offset
        self._lock = threading.Lock()

    def exchange(self, vendor: int, type: int, payload: bytes, timeout_s: float = DEFAULT_TIMEOUT_S) -> bytes:
        """Send an object and wait for the answer, which is of the same vendor and type.

        What an earlier user has left in the mailbox is aborted.

        Args:
            vendor: vendor id of the object, 16 bits.
            type: its type, 8 bits.
            payload: 1 to 4088 bytes; zeros fill up the last dword.
            timeout_s: longest wait for the mailbox to become free, and again for the answer, in seconds.

        Returns:
            The payload of the answer, whole dwords.

        Raises:
            ArgumentError: an argument is out of range; nothing was sent.
            MailboxBusyError: the mailbox takes no object.
            MailboxError: it set its error bit.
            BusTimeoutError: no answer in time; the exchange was aborted.
            ProtocolError: the answer is none to this object.
            BusError: configuration space cannot be read or written.
        """
        integer("exchange", "vendor", vendor, 0, 0xFFFF)
        integer("exchange", "type", type, 0, 0xFF)
        timeout_s = waiting_time("exchange", "timeout_s", timeout_s)
        if not 0 < len(payload) <= PAYLOAD_MAX_BYTES:
            raise ArgumentError("exchange", "payload", f"{len(payload)} bytes, must be 1 to {PAYLOAD_MAX_BYTES}")
        asked = DataObject(vendor, type, bytes(payload))
        with self._lock:
            self._clear(timeout_s)
            answer = self._exchange(asked, timeout_s)
        if (answer.vendor, answer.type) != (vendor, type):
            raise ProtocolError(
                f"{self._function.uri}: an object of vendor {answer.vendor:#06x} and type {answer.type} answers one of "
                f"vendor {vendor:#06x} and type {type}"
            )
        return answer.payload

    def discover(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> list[tuple[int, int]]:
        """Vendor and type of every object that the mailbox takes, in its order. Errors as `exchange`."""
        found: list[tuple[int, int]] = []
        index = 0
        for _ in range(MAX_DISCOVERED):
            request = DiscoveryRequest.of(index=index).to_bytes(DOE_DWORD_BYTES, "little")
            payload = self.exchange(PCI_SIG, OBJECT_DISCOVERY, request, timeout_s)
            answer = DiscoveryAnswer(int.from_bytes(payload[:DOE_DWORD_BYTES], "little"))
            if answer.vendor == NO_VENDOR:
                raise ProtocolError(f"{self._function.uri}: discovery knows no index {index}, which it named itself")
            found.append((answer.vendor, answer.type))
            index = answer.next_index
            if index == 0:
                return found
        raise ProtocolError(f"{self._function.uri}: discovery does not end after {MAX_DISCOVERED} objects")

    def abort(self) -> None:
        """End whatever exchange is under way, whoever began it; the device drops the object and its answer.

        Raises:
            MailboxError: the mailbox stays in error.
            BusError: configuration space cannot be read or written.
        """
        with self._lock:
            self._abort()

    def _read(self, register: int) -> int:
        return int.from_bytes(self._function.read_config(self._offset + register, DOE_DWORD_BYTES), "little")

    def _write(self, register: int, value: int) -> None:
        self._function.write_config(self._offset + register, value.to_bytes(DOE_DWORD_BYTES, "little"))

    def _status(self) -> DoeStatus:
        return DoeStatus(self._read(DOE_STATUS_OFFSET))

    def _abort(self) -> None:
        self._write(DOE_CONTROL_OFFSET, DoeControl.of(abort=1))
        self._wait(lambda status: not status & DoeStatus.of(error=1, object_ready=1, busy=1), ABORT_TIMEOUT_S)
        if self._status().error:
            raise MailboxError(f"{self._function.uri}: the mailbox stays in error after an abort")

    def _clear(self, timeout_s: float) -> None:
        """See that the mailbox takes an object."""
        status = self._wait(lambda status: not status.busy, timeout_s)
        if status.busy:
            raise MailboxBusyError(f"{self._function.uri}: the mailbox has been busy for {timeout_s:g} s")
        if status & DoeStatus.of(error=1, object_ready=1):
            self._abort()

    def _exchange(self, asked: DataObject, timeout_s: float) -> DataObject:
        try:
            data = asked.encode()
            for at in range(0, len(data), DOE_DWORD_BYTES):
                self._function.write_config(self._offset + DOE_WRITE_MAILBOX_OFFSET, data[at : at + DOE_DWORD_BYTES])
            self._write(DOE_CONTROL_OFFSET, DoeControl.of(go=1))
            status = self._wait(lambda status: bool(status.error or status.object_ready), timeout_s)
            if not status.error and not status.object_ready:
                raise BusTimeoutError(f"{self._function.uri}: no answer from the mailbox within {timeout_s:g} s")
            if status.error:
                raise MailboxError(
                    f"{self._function.uri}: the mailbox answers an object of vendor {asked.vendor:#06x} and type "
                    f"{asked.type} with its error bit"
                )
            return self._take()
        except BaseException:
            self._abort()
            raise

    def _take(self) -> DataObject:
        """The answer, which is ready."""
        head = self._pop() + self._pop()
        dwords = ObjectLength(OBJECT_HEADER.unpack(head)[1]).dwords
        if not OBJECT_MIN_DWORDS <= dwords <= OBJECT_MAX_DWORDS:
            raise ProtocolError(
                f"{self._function.uri}: an answer of {dwords} dwords, {OBJECT_MIN_DWORDS} to {OBJECT_MAX_DWORDS} "
                "are taken"
            )
        rest = b"".join(self._pop() for _ in range(dwords - OBJECT_HEADER.size // DOE_DWORD_BYTES))
        if self._status().error:
            raise MailboxError(f"{self._function.uri}: the mailbox came into error while its answer was read")
        return DataObject.decode(head + rest)

    def _pop(self) -> bytes:
        value = self._function.read_config(self._offset + DOE_READ_MAILBOX_OFFSET, DOE_DWORD_BYTES)
        self._write(DOE_READ_MAILBOX_OFFSET, 0)
        return value

    def _wait(self, condition: Condition, timeout_s: float) -> DoeStatus:
        """The status at which `condition` holds, or the last within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        pause = FIRST_PAUSE_S
        while True:
            late = time.monotonic() >= deadline
            status = self._status()
            if late or condition(status):
                return status
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
