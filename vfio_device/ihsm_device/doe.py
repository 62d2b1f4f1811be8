# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Mailboxes for data objects: whole objects are taken out of C (native/doe.h) and answered.

One thread does so for all of a `Mailboxes`. No access to configuration space waits for it. Discovery is answered here,
SPDM by the `Objects` of a function (PCI Express Base 6.x 6.30, spec 06 §2.2).
"""

from __future__ import annotations

import logging
import threading
from typing import Any, Final, Protocol

from ihsm_abi import logs
from ihsm_abi.doe import (
    DOE_DWORD_BYTES,
    NO_VENDOR,
    OBJECT_DISCOVERY,
    OBJECT_TYPES,
    PCI_SIG,
    DataObject,
    DiscoveryAnswer,
    DiscoveryRequest,
)
from ihsm_device import _native
from ihsm_device._native import ffi, lib
from ihsm_device.vfu import ResetType

_log = logging.getLogger(__name__)

STOP_TIMEOUT_S: Final = 5.0
_OBJECT: Final = int(lib.IHSM_DOE_OBJECT)
_CLOSED: Final = int(lib.IHSM_DOE_CLOSED)


class Objects(Protocol):
    """What answers the objects of one function's mailbox, one after the other and always on the same thread."""

    def answer(self, data_object: bytes) -> bytes | None:
        """The object that answers `data_object`, of type SPDM or secured SPDM; None: an error of the mailbox."""

    def forget(self, cause: ResetType) -> None:
        """The function was reset, or has lost its client: sessions, and what was negotiated, are void.

        Called once for any number of resets since the last object, before the next object.
        """

    def status(self) -> dict[str, Any]:
        """What the control socket tells of it; any thread. Nothing secret."""


class NoObjects:
    """Answers nothing."""

    def answer(self, data_object: bytes) -> bytes | None:
        """An error."""
        return None

    def forget(self, cause: ResetType) -> None:
        """There is nothing to forget."""

    def status(self) -> dict[str, Any]:
        """There is nothing to tell."""
        return {}


def _discover(request: bytes) -> bytes | None:
    """The object at an index, and the index behind it, 0 behind the last; None if it is no request."""
    if len(request) != DOE_DWORD_BYTES:
        return None
    index = DiscoveryRequest(int.from_bytes(request, "little")).index
    if index < len(OBJECT_TYPES):
        following = (index + 1) % len(OBJECT_TYPES)
        answer = DiscoveryAnswer.of(vendor=PCI_SIG, type=OBJECT_TYPES[index], next_index=following)
    else:
        answer = DiscoveryAnswer.of(vendor=NO_VENDOR)
    return DataObject(PCI_SIG, OBJECT_DISCOVERY, answer.to_bytes(DOE_DWORD_BYTES, "little")).encode()


class Mailbox:
    """The mailbox of one function; made by `Mailboxes.add`."""

    def __init__(self, handle: _native.Pointer[_native.ihsm_doe], index: int, objects: Objects) -> None:
        """`index` is the number of the function."""
        self.handle = handle
        self._index = index
        self._objects = objects

    def answer(self, transfer: int, data: bytes) -> None:
        """Answer an object: by another, by an error, or, if it is of a type that there is not, not at all."""
        logs.concern(self._index)
        try:
            asked = DataObject.decode(data)
            if asked.vendor != PCI_SIG or asked.type not in OBJECT_TYPES:
                lib.ihsm_doe_discard(self.handle, transfer)
                return
            answer = _discover(asked.payload) if asked.type == OBJECT_DISCOVERY else self._objects.answer(data)
            if answer is None or not self._is_answered(transfer, answer):
                lib.ihsm_doe_fail(self.handle, transfer)
        except Exception:
            logs.failure(_log, "function %d: a data object of %d bytes failed", self._index, len(data))
            lib.ihsm_doe_fail(self.handle, transfer)

    def _is_answered(self, transfer: int, answer: bytes) -> bool:
        return bool(lib.ihsm_doe_answer(self.handle, transfer, ffi.from_buffer(answer), len(answer)))

    def forget(self, causes: int) -> None:
        """Tell of resets, by bit."""
        logs.concern(self._index)
        for cause in ResetType:
            if causes >> cause & 1:
                try:
                    self._objects.forget(cause)
                except Exception:
                    logs.failure(_log, "function %d: forgetting what came of data objects failed", self._index)


class Mailboxes:
    """Mailboxes, and the thread that answers; it sleeps while there is no object.

    A function of a process has its own: to stop what a function does, the thread may have to wait for its client.
    """

    def __init__(self) -> None:
        """Without mailboxes.

        Raises:
            MemoryError: there is none left.
        """
        self._line = lib.ihsm_doe_line_new()
        if self._line == ffi.NULL:
            raise MemoryError
        self._mailboxes: dict[int, Mailbox] = {}
        self._thread = threading.Thread(target=self._serve, name="mailboxes", daemon=True)

    def add(self, index: int, objects: Objects) -> Mailbox:
        """A mailbox for function `index`; before `start`.

        Raises:
            MemoryError: there is none left.
        """
        handle = lib.ihsm_doe_new(self._line, index)
        if handle == ffi.NULL:
            raise MemoryError
        mailbox = self._mailboxes[index] = Mailbox(handle, index, objects)
        return mailbox

    def start(self) -> None:
        """Answer objects from now on."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread behind the object that it is at, unless a client holds it up; what comes has no answer."""
        lib.ihsm_doe_line_close(self._line)
        if self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT_S)

    def close(self) -> None:
        """Free the mailboxes, whose configuration spaces nobody has any more; not if the thread did not end."""
        if self._thread.is_alive():
            return
        for mailbox in self._mailboxes.values():
            lib.ihsm_doe_free(mailbox.handle)
        self._mailboxes.clear()
        lib.ihsm_doe_line_free(self._line)

    def _serve(self) -> None:
        told = ffi.new("struct ihsm_doe_told *")
        while (event := int(lib.ihsm_doe_pull(self._line, told))) != _CLOSED:
            try:
                mailbox = self._mailboxes[int(told.id)]
                if event == _OBJECT:
                    mailbox.answer(int(told.transfer), bytes(ffi.buffer(told.data, told.size)))
                else:
                    mailbox.forget(int(told.causes))
            except MemoryError:  # an object has failed when the next event is pulled
                logs.failure(_log, "no memory for a data object")
