# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A program that uses a device through the driver model's node: DDI messages go through the session ioctl."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ihsm.ddi import Credential, KeyRequest, Partition, Session, SoftwareTrustAnchor
from ihsm_abi.ddi import GetApiRevReq, KeyClass, KeyUsage, RespHdr, decode_response_header, encode_request
from ihsm_abi.ddi.limits import BK3_BYTES
from ihsm_abi.hsm_queue import ControlKind, SessionControl
from ihsm_abi.uapi import GENERIC_IOCTL, MAX_DST_LENGTH, AbortType, Ioctl
from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.hsm.execute import Outcome
from ihsm_kmod.hsm.queue_pool import QueuePool
from ihsm_kmod.hsm.sessions import OpenFile
from ihsm_kmod.kernel.mutex import Mutex
from ihsm_kmod.kernel.process import Process
from support.hsm_driver import Driver
from support.ioctls import Caller, Result, Script, gcm_command, reset_command, structure
from support.user_pages import USABLE, UserPages

CREDENTIAL: Final = Credential(b"application id 1", b"personal number.")
NODE: Final = "/dev/azihsm0"
ANCHOR: Final = SoftwareTrustAnchor(ec.derive_private_key(int.from_bytes(b"\x33" * 48, "big"), ec.SECP384R1()))


def program(driver: Driver, process: Process | None = None, node: str = NODE) -> Caller:
    """A program with the node open, or one more file of `process`; its commands go to the device."""
    return Caller(process or driver.machine.process(), node, driver.controller, Script())


def scripted(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Caller:
    """The same, but the test answers in the device's place, of which nothing is asked."""
    caller = program(driver)
    monkeypatch.setattr(driver.controller, "execute", caller.script)
    return caller


class Sent:
    """Notes the commands that the driver hands to its queues, and how they end; lets them pass."""

    def __init__(self, controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on."""
        self.entries: list[bytes] = []
        self.outcomes: list[Outcome] = []
        self._execute = controller.execute
        monkeypatch.setattr(controller, "execute", self)

    def __call__(self, pool: QueuePool, sqe: bytearray) -> Outcome:
        """As `Controller.execute`; entries as they are before they have a command id."""
        self.entries.append(bytes(sqe))
        outcome = self._execute(pool, sqe)
        self.outcomes.append(outcome)
        return outcome


def is_awaited(driver: Driver, lock: Mutex) -> bool:
    """Whether a task sleeps because another one has the lock."""
    return any(task.waits_for is lock for task in tuple(driver.machine.kernel.tasks))


def context(caller: Caller) -> OpenFile:
    """What the driver keeps of the program's file."""
    file = caller.process._files[caller.fd].private_data
    assert isinstance(file, OpenFile)
    return file


@dataclass(frozen=True)
class Answer:
    """What the session ioctl brought."""

    error: int
    structure: Any
    message: bytes
    session_id: int | None = None
    """What a transport tells of the session is not to be had from the ioctl: the response has it."""
    short_app_id: int | None = None
    session_closed: bool = False

    @property
    def header(self) -> RespHdr:
        """Of the response."""
        return decode_response_header(self.message)[0]


def command(caller: Caller, kind: ControlKind, message: bytes, session_id: int = 0, **fields: int) -> Answer:
    """The session ioctl with a message, and room for the longest answer."""
    request = np.frombuffer(bytearray(message), np.uint8)
    response = np.zeros(MAX_DST_LENGTH, np.uint8)
    is_marked = kind in (ControlKind.CLOSE, ControlKind.IN_SESSION)
    usual = {
        "session_control_flags": SessionControl.of(kind=kind, id_valid=int(is_marked)), "session_id": session_id,
        "src_length": request.size, "src_buf": request.ctypes.data if request.size else 0,
        "dst_length": response.size, "dst_buf": response.ctypes.data,
    }  # fmt: skip
    result = caller.call(Ioctl.GENERIC_SESSION, structure(GENERIC_IOCTL, **usual | fields))
    size = int(result.answer["byte_count"])
    return Answer(result.error, result.answer, response[:size].tobytes() if size <= response.size else b"")


@dataclass(frozen=True)
class IoctlTransport:
    """The session ioctl of one file, as the typed client wants its queue."""

    caller: Caller

    def exchange(self, message: bytes, kind: ControlKind, session_id: int | None) -> Answer:
        answer = command(self.caller, kind, message, session_id or 0)
        assert (answer.error, answer.structure["status"]) == (0, 0), answer
        return answer


def partition(caller: Caller) -> Partition:
    """The typed client over one file."""
    return Partition(IoctlTransport(caller))


def provisioned(caller: Caller) -> Partition:
    """The same, after the device has been given its credential."""
    client = partition(caller)
    masked = client.init_bk3(bytes(BK3_BYTES)).masked_bk3
    client.establish_credential(CREDENTIAL, masked, ANCHOR)
    return client


def api_revision_request() -> bytes:
    """A message that needs neither session nor credential."""
    return encode_request(GetApiRevReq())


def ask(caller: Caller) -> Answer:
    """A command without session."""
    return command(caller, ControlKind.NONE, api_revision_request())


def extended(answer: Answer) -> tuple[int, int]:
    """Extended status and errno."""
    return int(answer.structure["extended_status"]), answer.error


def encrypt(caller: Caller, session_id: int) -> Result:
    """An AES command with a key that there is not."""
    pages = UserPages(USABLE)
    return caller.aes(gcm_command(pages.address, pages.address + 64, session_id=session_id))


def reset(caller: Caller, kind: AbortType = AbortType.L2_RESET) -> Result:
    """The reset ioctl."""
    return caller.call(Ioctl.RESET, reset_command(kind))


def bulk_key(session: Session, raw: bytes, kind: KeyClass) -> int:
    """The number that AES commands have for a key which is brought in."""
    key = session.import_key(raw, kind, KeyRequest(KeyUsage.EncryptDecrypt))
    assert key.bulk_key_id is not None
    return key.bulk_key_id
