# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A program that calls the driver model's ioctls with structures as it likes, and a driver whose commands are answered
as a test likes: what it makes of an answer needs no device that gives it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from ihsm_abi import uapi
from ihsm_abi.admin import Psf
from ihsm_abi.aes_queue import AES_CQE, FRAME_TYPE_AES, GCM_SQE, Cipher
from ihsm_abi.hsm_queue import HSM_CQE, HSM_SQE, ControlKind, SessionControl
from ihsm_abi.uapi import InternalCode, Ioctl
from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.hsm.execute import Outcome
from ihsm_kmod.kernel.process import Process
from support.user_pages import UserPages

KEPT: Final = 0xEE
"""In every byte of an answer before the call: what the driver does not write keeps it."""
SESSION: Final = 3


class Result(NamedTuple):
    """What a call brought."""

    error: int
    """errno, or 0."""
    value: int
    """What it returned."""
    answer: Any
    """The structure after the call."""

    @property
    def extended(self) -> tuple[int, int]:
        """Extended status and errno."""
        return int(self.answer["extended_status"]), self.error


def kept(name: str, layout: np.dtype[np.void]) -> int:
    """Value of a field that nobody wrote."""
    assert layout.fields is not None
    return int.from_bytes(bytes([KEPT]) * layout.fields[name][0].itemsize, "little")


ANSWERED: Final = frozenset(
    {"out_ctxt", "status", "result", "byte_count", "extended_status", "cmd_spec", "iv_from_fw", "abort_sts"}
)
"""What a driver writes."""


def structure(layout: np.dtype[np.void], **fields: Any) -> np.ndarray[Any, Any]:
    """A structure with its header and these fields; what the driver is to answer has KEPT in every byte."""
    record = np.zeros(1, layout)
    record["hdr"]["szioctldata"] = layout.itemsize
    assert layout.fields is not None
    for name, (kind, offset, *_) in layout.fields.items():
        if name in ANSWERED:
            record.view(np.uint8)[offset : offset + kind.itemsize] = KEPT
    for name, value in fields.items():
        record[name] = value
    return record


def hsm_cqe(*, sc: int = 0, control: int = 0, **fields: int) -> bytes:
    """An HSM completion."""
    return structure_bytes(HSM_CQE, psf=Psf.of(phase=1, sc=sc), control=control, **fields)


def aes_cqe(*, sts: int = 0, **fields: Any) -> bytes:
    """An AES completion."""
    return structure_bytes(AES_CQE, psf=Psf.of(phase=1, status=sts), **fields)


def structure_bytes(layout: np.dtype[np.void], **fields: Any) -> bytes:
    """An entry with these fields, all else 0."""
    record = np.zeros(1, layout)
    for name, value in fields.items():
        record[name] = value
    return record.tobytes()


@dataclass
class Script:
    """Stands where the driver hands a command to its queues: notes the entry and answers as the test said."""

    answer: Callable[[bytes], Outcome] | None = None
    """For the next commands."""
    entries: list[bytes] = field(default_factory=list)

    def __call__(self, pool: Any, sqe: bytearray, **_: Any) -> Outcome:
        """As `Controller.execute`."""
        self.entries.append(bytes(sqe))
        assert self.answer is not None, "a command that the test did not expect"
        return self.answer(bytes(sqe))

    def complete(self, cqe: bytes) -> None:
        """The device answers so."""
        self.answer = lambda _: Outcome(InternalCode.SUCCESS, cqe, 0)

    def end(self, code: InternalCode, error: int, cqe: bytes | None = None) -> None:
        """The command ends inside the driver."""
        self.answer = lambda _: Outcome(code, cqe, error)

    @property
    def hsm_entry(self) -> Any:
        """The last HSM command."""
        return np.frombuffer(self.entries[-1], HSM_SQE)[0]

    @property
    def gcm_entry(self) -> Any:
        """The last AES-GCM command."""
        return np.frombuffer(self.entries[-1], GCM_SQE)[0]


@dataclass
class Caller:
    """A program with one HSM node open."""

    process: Process
    node: str
    controller: Controller
    script: Script
    fd: int = -1

    def __post_init__(self) -> None:
        """Open the node."""
        self.fd = self.process.open(self.node)

    def reopen(self) -> Caller:
        """The same program with the node open once more."""
        return Caller(self.process, self.node, self.controller, self.script)

    def call(self, number: int, argument: int | UserPages | np.ndarray[Any, Any]) -> Result:
        """One ioctl with a structure, with what begins some pages, or with any address."""
        answer = argument[0] if isinstance(argument, np.ndarray) else None
        pointer = argument.address if isinstance(argument, UserPages) else argument
        try:
            return Result(0, self.process.ioctl(self.fd, number, pointer), answer)
        except OSError as error:
            return Result(error.errno or -1, -1, answer)

    def session(self, **fields: Any) -> Result:
        """The session ioctl; without a word an in-session command without data."""
        return self.call(Ioctl.GENERIC_SESSION, session_command(**fields))

    def aes(self, command: np.ndarray[Any, Any]) -> Result:
        """The AES ioctl for a `GCM_IOCTL` or `XTS_IOCTL`."""
        return self.call(Ioctl.AES_GCM if command.dtype == uapi.GCM_IOCTL else Ioctl.AES_XTS, command)

    def open_session(self, session_id: int = SESSION, short_app_id: int | None = 0) -> None:
        """Have a session in this file, without the device."""
        control = SessionControl.of(kind=ControlKind.OPEN, id_valid=1, short_app_id_valid=short_app_id is not None)
        self.script.complete(hsm_cqe(control=control, session_id=session_id, short_app_id=short_app_id or 0))
        opened = self.session(session_control_flags=SessionControl.of(kind=ControlKind.OPEN), session_id=0)
        assert opened.error == 0


def session_command(**fields: Any) -> np.ndarray[Any, Any]:
    """A `GENERIC_IOCTL`: in-session, session SESSION, no data."""
    control = SessionControl.of(kind=ControlKind.IN_SESSION, id_valid=1)
    return structure(uapi.GENERIC_IOCTL, **{"session_control_flags": control, "session_id": SESSION} | fields)


def gcm_command(source: int, destination: int, **fields: Any) -> np.ndarray[Any, Any]:
    """A `GCM_IOCTL` of 64 bytes without AAD."""
    return structure(uapi.GCM_IOCTL, **_aes_fields(source, destination) | {"cipher": Cipher.GCM} | fields)


def xts_command(source: int, destination: int, **fields: Any) -> np.ndarray[Any, Any]:
    """An `XTS_IOCTL` of one data unit of 64 bytes."""
    return structure(uapi.XTS_IOCTL, **_aes_fields(source, destination) | {"cipher": Cipher.XTS} | fields)


def _aes_fields(source: int, destination: int) -> dict[str, Any]:
    return {
        "src_ptr": source, "src_len": 64, "dst_ptr": destination, "dst_len": 64,
        "frame_type": FRAME_TYPE_AES, "session_id": SESSION, "short_app_id": 0,
    }  # fmt: skip


def reset_command(abort_type: int, **fields: Any) -> np.ndarray[Any, Any]:
    """A `RESET_DEVICE`."""
    return structure(uapi.RESET_DEVICE, abort_type=abort_type, **fields)
