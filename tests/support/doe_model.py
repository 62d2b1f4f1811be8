# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A mailbox for data objects in few lines: what the device's is compared with, and what stands in for it."""

from __future__ import annotations

from collections.abc import Callable

from ihsm_abi.bits import Word
from ihsm_abi.doe import (
    DOE_CONTROL_OFFSET,
    DOE_READ_MAILBOX_OFFSET,
    DOE_STATUS_OFFSET,
    DOE_VERSION,
    DOE_WRITE_MAILBOX_OFFSET,
    OBJECT_MAX_DWORDS,
    DoeControl,
    DoeStatus,
)
from ihsm_abi.pci import ExtendedCapability
from ihsm_abi.pci_config import CONFIG_SPACE_BYTES, ExtendedHeader

DWORD = 4


class MailboxModel:
    """The registers of a mailbox and what whole objects do to them; what is sent waits until it is answered."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.answer_left: list[bytes] = []
        self.waiting: bytes | None = None
        """The object that is to be answered."""
        self.error = False

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]

    def fail(self) -> None:
        self.reset()
        self.error = True

    def answer(self, data: bytes) -> None:
        self.waiting = None
        self.answer_left = [data[at : at + DWORD] for at in range(0, len(data), DWORD)]

    def discard(self) -> None:
        self.waiting = None

    def read(self, register: int) -> int:
        if register == DOE_STATUS_OFFSET:
            return DoeStatus.of(busy=self.waiting is not None, error=self.error, object_ready=bool(self.answer_left))
        if register == DOE_READ_MAILBOX_OFFSET and self.answer_left:
            return int.from_bytes(self.answer_left[0], "little")
        return 0

    def write(self, register: int, data: bytes) -> None:
        if len(data) != DWORD:
            return
        control = DoeControl(int.from_bytes(data, "little") if register == DOE_CONTROL_OFFSET else 0)
        if control.abort:
            self.reset()
        elif self.error:
            pass
        elif control.go:
            self._go()
        elif register == DOE_WRITE_MAILBOX_OFFSET:
            if self.waiting is not None or len(self.written) == OBJECT_MAX_DWORDS:
                self.fail()
            else:
                self.written.append(data)
        elif register == DOE_READ_MAILBOX_OFFSET:
            if self.answer_left:
                del self.answer_left[0]
            else:
                self.fail()

    def _go(self) -> None:
        length = int.from_bytes(self.written[1], "little") & 0x3FFFF if len(self.written) >= 3 else None
        if self.waiting is not None or self.answer_left or length != len(self.written):
            self.fail()
        else:
            self.waiting, self.written = b"".join(self.written), []


class ModelFunction:
    """Configuration space with a mailbox and nothing else, whose objects are answered by a function at once."""

    uri = "model:"
    config_bytes = CONFIG_SPACE_BYTES
    MAILBOX = 0x120

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        """`answer` gives an object for an object; None: nobody answers."""
        self.mailbox = MailboxModel()
        self.answer = answer
        self.accesses: list[tuple[int, bytes]] = []
        self._space = bytearray(CONFIG_SPACE_BYTES)
        self._place(0x100, ExtendedHeader.of(id=ExtendedCapability.DEVICE_SERIAL_NUMBER, version=1, next=self.MAILBOX))
        header = ExtendedHeader.of(id=ExtendedCapability.DATA_OBJECT_EXCHANGE, version=DOE_VERSION)
        self._place(self.MAILBOX, header)

    def _place(self, offset: int, word: Word) -> None:
        self._space[offset : offset + DWORD] = word.to_bytes(DWORD, "little")

    def without_mailbox(self) -> None:
        self._place(0x100, ExtendedHeader.of(id=ExtendedCapability.DEVICE_SERIAL_NUMBER, version=1))

    def read_config(self, offset: int, size_bytes: int) -> bytes:
        for register in range(DOE_CONTROL_OFFSET, DOE_READ_MAILBOX_OFFSET + DWORD, DWORD):
            at = self.MAILBOX + register
            self._space[at : at + DWORD] = self.mailbox.read(register).to_bytes(DWORD, "little")
        return bytes(self._space[offset : offset + size_bytes])

    def write_config(self, offset: int, data: bytes) -> None:
        self.accesses.append((offset - self.MAILBOX, data))
        self.mailbox.write(offset - self.MAILBOX, data)
        if self.mailbox.waiting is not None:
            answer = self.answer(self.mailbox.waiting)
            if answer is not None:
                self.mailbox.answer(answer)
