# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The exercising program: calls of the driver's ioctls, and how each ended."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, Self

import numpy as np

from ihsm.chardev import Calls, NodeDevice
from ihsm.conformance.scenario import Op
from ihsm.errors import IhsmError
from ihsm_abi.ddi import DdiStatus, GetApiRevReq, GetApiRevResp, decode_response, decode_response_header, encode_request
from ihsm_abi.mbor import MborDecodeError
from ihsm_abi.uapi import (
    DEVICE_INFO,
    GENERIC_IOCTL,
    MAX_DST_LENGTH,
    RESET_DEVICE,
    AbortStatus,
    AbortType,
    Ioctl,
)
from ihsm_abi.uapi_names import DRIVER_NAME, HSM_NODE_PREFIX

NOT_WRITTEN: Final = 0xEE
"""In every byte of what the driver is to answer: where it stays, nothing was answered."""
AES_TIMEOUT_S: Final = 3600.0
"""The client's; a driver has its own."""
UNSUPPORTED: Final = frozenset({errno.ENOTTY, errno.EBADRQC, errno.EOPNOTSUPP, errno.ENOSYS})
"""What a driver says to an ioctl that it does not have."""


class CallEnd(StrEnum):
    """How a call ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """The driver or the device said so."""
    WRONG = "wrong"
    """It claims to have succeeded, and what it brought is not right."""
    KILLED = "killed"
    """Its process was ended."""
    CRASHED = "crashed"
    """Its kernel was."""


@dataclass(frozen=True, slots=True)
class CallResult:
    """One call."""

    what: str
    end: CallEnd
    detail: str = ""
    code: int = 0
    """errno, where that is what it failed with."""

    def __str__(self) -> str:
        """For people."""
        return f"{self.what}: {self.end}" + (f": {self.detail}" if self.detail else "")

    def to_json(self) -> dict[str, Any]:
        """As an object."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """What `to_json` made."""
        return cls(record["what"], CallEnd(record["end"]), record["detail"], record["code"])

    @property
    def is_unsupported(self) -> bool:
        """Whether the driver seems not to have such a call."""
        return self.end is CallEnd.FAILED and self.code in UNSUPPORTED


def failed(what: str, code: int, detail: str = "") -> CallResult:
    """A call that an errno ended."""
    name = errno.errorcode.get(code, str(code))
    end = CallEnd.KILLED if code in (errno.EINTR, errno.ESRCH) else CallEnd.FAILED
    return CallResult(what, end, f"{name}{detail}", code)


def _structure(layout: np.dtype[np.void], answers: tuple[str, ...]) -> np.ndarray[Any, Any]:
    record = np.zeros(1, layout)
    assert layout.fields is not None
    for name in answers:
        kind, offset = layout.fields[name][:2]
        record.view(np.uint8)[offset : offset + kind.itemsize] = NOT_WRITTEN
    return record


class User:
    """One process of a program, with the node open. Any of its threads may call."""

    def __init__(self, calls: Calls, node: str, op: Op) -> None:
        """Open the node.

        Raises:
            OSError: it cannot be opened.
        """
        self._calls = calls
        self._node = node
        self._op = op
        self._fd = calls.open(node)

    def close(self) -> None:
        """Close it; what that fails with is nobody's."""
        with contextlib.suppress(OSError):
            self._calls.close(self._fd)

    def call(self) -> CallResult:
        """One call of the program's kind."""
        perform: Callable[[], CallResult] = {
            Op.INFORMATION: self._information,
            Op.COMMAND: self._command,
            Op.AES: self._aes,
            Op.RESET: lambda: self._reset(AbortType.L2_RESET),
            Op.SUBSYSTEM_RESET: lambda: self._reset(AbortType.L2_NSSR),
        }[self._op]
        try:
            return perform()
        except OSError as error:
            return failed(self._op, error.errno or 0)

    def _information(self) -> CallResult:
        info = _structure(DEVICE_INFO, ("driver_rev",))
        info["argsz"] = info.nbytes
        self._calls.ioctl(self._fd, Ioctl.GET_DEV_INFO, info.view(np.uint8).data)
        if (info["driver_rev"] == NOT_WRITTEN).all():
            return CallResult(self._op, CallEnd.WRONG, f"the {DRIVER_NAME} driver has written nothing")
        return CallResult(self._op, CallEnd.SUCCEEDED)

    def _command(self) -> CallResult:
        request = np.frombuffer(bytearray(encode_request(GetApiRevReq())), np.uint8)
        response = np.full(MAX_DST_LENGTH, NOT_WRITTEN, np.uint8)
        command = _structure(GENERIC_IOCTL, ("out_ctxt", "status", "byte_count", "extended_status"))
        command["hdr"]["szioctldata"] = command.nbytes
        command["src_buf"], command["src_length"] = request.ctypes.data, request.size
        command["dst_buf"], command["dst_length"] = response.ctypes.data, response.size
        try:
            self._calls.ioctl(self._fd, Ioctl.GENERIC_SESSION, command.view(np.uint8).data)
        except OSError as error:
            return failed(self._op, error.errno or 0, f", extended status {int(command['extended_status'][0]):#x}")
        status, count = int(command["status"][0]), int(command["byte_count"][0])
        if status:
            return CallResult(self._op, CallEnd.FAILED, f"status {status:#x} of the device")
        if count > response.size:
            return CallResult(self._op, CallEnd.WRONG, f"{count} bytes in a buffer of {response.size}")
        return self._judged(response[:count].tobytes())

    def _judged(self, message: bytes) -> CallResult:
        try:
            header = decode_response_header(message)[0]
            if header.status != DdiStatus.Success:
                return CallResult(self._op, CallEnd.FAILED, f"the device says {header.status!r}")
            revision = decode_response(message, GetApiRevResp)[1]
        except (MborDecodeError, ValueError) as error:
            return CallResult(self._op, CallEnd.WRONG, f"no answer to what was asked: {error}")
        if revision is None:
            return CallResult(self._op, CallEnd.WRONG, "an answer without what was asked for")
        if (revision.min.major, revision.min.minor) > (revision.max.major, revision.max.minor):
            return CallResult(self._op, CallEnd.WRONG, f"{revision.min} is above {revision.max}")
        return CallResult(self._op, CallEnd.SUCCEEDED)

    def _reset(self, kind: AbortType) -> CallResult:
        command = np.zeros(1, RESET_DEVICE)
        command["hdr"]["szioctldata"] = command.nbytes
        command["abort_type"] = kind
        try:
            value = self._calls.ioctl(self._fd, Ioctl.RESET, command.view(np.uint8).data)
        except OSError as error:
            return failed(self._op, error.errno or 0, f", {int(command['abort_sts'][0])}")
        status = int(command["abort_sts"][0])
        if value or status != AbortStatus.SUCCESS:
            return CallResult(self._op, CallEnd.FAILED, f"abort status {status}")
        return CallResult(self._op, CallEnd.SUCCEEDED)

    def _aes(self) -> CallResult:
        try:
            with _session(self._calls, self._node) as (queue, ids, key):
                text = secrets.token_bytes(100)
                sealed = queue.gcm_encrypt(ids, key, text, timeout_s=AES_TIMEOUT_S)
                opened = queue.gcm_decrypt(ids, key, sealed.ciphertext, sealed.tag, sealed.iv, timeout_s=AES_TIMEOUT_S)
        except IhsmError as error:
            cause = error.__context__
            code = cause.errno or 0 if isinstance(cause, OSError) else 0
            return CallResult(self._op, CallEnd.FAILED, f"{type(error).__name__}: {error}", code)
        if opened.data != text or sealed.ciphertext == text:
            return CallResult(self._op, CallEnd.WRONG, "what was encrypted and decrypted is not what it was")
        return CallResult(self._op, CallEnd.SUCCEEDED)


@contextlib.contextmanager
def _session(calls: Calls, node: str) -> Iterator[tuple[Any, Any, int]]:
    """A session with a key for AES-GCM: where AES commands go, their ids, the key's number."""
    from ihsm.conformance.provisioning import open_session  # takes long to load, and only AES needs it

    with NodeDevice(node, calls=calls) as device, open_session(device) as (session, key):
        yield device.aes_queues[0], session.fast_path, key


def nodes() -> list[str]:
    """Nodes of HSM functions that this system has."""
    names = (name.removeprefix(HSM_NODE_PREFIX) for name in os.listdir("/dev") if name.startswith(HSM_NODE_PREFIX))
    return [f"/dev/{HSM_NODE_PREFIX}{name}" for name in sorted(names) if name.isdigit()]
