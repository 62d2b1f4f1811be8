# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A device that a kernel's driver has, through its node: the driver's commands, and a file for each session."""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from ihsm import forks
from ihsm.arguments import integer
from ihsm.chardev.aes import NodeAes
from ihsm.chardev.failures import NOT_TOLD, ioctl_failure, session_failure
from ihsm.chardev.information import NodeInformation
from ihsm.chardev.memory import NodeBuffer, NodeMemory
from ihsm.chardev.node_file import SYSTEM, Calls, NodeFile
from ihsm.closing import Closing
from ihsm.driver.hsm_queue import HsmReply, message_arguments, successful
from ihsm.driver.options import DriverOptions
from ihsm.errors import (
    ArgumentTypeError,
    ControllerLostError,
    ControllerNotReadyError,
    ForkedError,
    IhsmError,
    QueueClosedError,
    UnsupportedDeviceError,
)
from ihsm_abi.ddi import DdiStatus, RespHdr, decode_response_header
from ihsm_abi.hsm_queue import ControlKind, SessionControl
from ihsm_abi.mbor import MborDecodeError
from ihsm_abi.uapi import (
    GENERIC_IOCTL,
    MAX_DST_LENGTH,
    RESET_DEVICE,
    SESSION_CMDSET,
    AbortStatus,
    AbortType,
    Ioctl,
)

READY_S: Final = 30.0
"""How long a driver may take to recover a controller: a reset, and a command time-out before it."""
POLL_S: Final = 0.05


class NodeDevice(Closing):
    """The device behind a node. Methods may be called from any thread; it is an `OpenDevice`.

    Others may have the node open as well: the partition is everybody's, sessions are each file's own. So a session has
    a file for itself here, opened with it, closed with it; what needs no session goes through one more.
    """

    def __init__(self, path: str, options: DriverOptions | None = None, *, calls: Calls = SYSTEM) -> None:
        """Open the node; of `options`, those of rings mean nothing here, and time limits are the driver's own.

        Args:
            path: the node, such as /dev/azihsm0.
            options: as for `Controller`.
            calls: system calls, for a node of another kernel than this program's.

        Raises:
            DeviceNotFoundError: there is no node, or no driver behind it.
            UnsupportedDeviceError: it is none of this driver's.
            ControllerNotReadyError: the driver recovers the controller, or could not.
            RequestRefusedError: it cannot be opened, such as for want of permission.
        """
        if not isinstance(path, str):
            raise ArgumentTypeError("NodeDevice", "path", f"{type(path).__name__}, must be text")
        if not isinstance(options, DriverOptions | None):
            raise ArgumentTypeError("NodeDevice", "options", f"{type(options).__name__}, must be DriverOptions")
        self.uri = f"chardev:{path}"
        self.options = options or DriverOptions()
        self.buffers = NodeMemory()
        self.outlives_us = True
        self._path = path
        self._calls = calls
        self._lock = threading.Lock()
        self._sessions: dict[int, NodeFile] = {}
        self._superseded: list[NodeFile] = []
        """Files of sessions whose ids another session has now: when they are closed, the driver flushes that."""
        self._stopped: IhsmError | None = None
        self._forked = False
        self._aes = NodeAes(self)
        self._common = NodeFile(calls, path, self.uri)
        forks.watch(self)
        try:
            self._life = self._introduced().entropy
        except BaseException:
            self.close()
            raise

    def _introduced(self) -> NodeInformation:
        """What the driver says at the first call, which shows whether it is one."""
        try:
            return NodeInformation.ask(self._common)
        except OSError as error:
            if error.errno == errno.ENOTTY and self._is_ours():
                raise ControllerNotReadyError(f"{self.uri}: the driver recovers the controller, or could not") from None
            if error.errno in (errno.ENOTTY, errno.EBADRQC, errno.EINVAL):
                raise UnsupportedDeviceError(f"{self.uri}: no HSM node of the azihsm driver") from None
            raise ioctl_failure(f"{self.uri}: device information", error) from None

    def _is_ours(self) -> bool:
        """Whether a driver of ours is there, which refuses device information while the controller is not ready.

        It refuses this command set as well, after it has looked at the controller's state.
        """
        command = _command()
        command["cmdset"] = SESSION_CMDSET + 1
        try:
            self._common.ioctl(Ioctl.GENERIC_SESSION, command.view(np.uint8).data)
        except OSError:
            return int(command["extended_status"][0]) != NOT_TOLD
        return False

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def aes_queues(self) -> Sequence[NodeAes]:
        """Where AES commands go; the driver has the queues."""
        return () if self.options.aes_queues == 0 else (self._aes,)

    @property
    def free_bytes(self) -> int:
        """`DriverOptions.buffer_bytes`: memory is there as long as the process gets some."""
        return self.options.buffer_bytes

    def allocate(self, size_bytes: int, alignment: int = 64) -> NodeBuffer:
        """Memory for prepared entries; errors as `NodeMemory.allocate`."""
        return self.buffers.allocate(size_bytes, alignment)

    def information(self) -> NodeInformation:
        """What the driver tells of the device.

        Raises:
            ControllerNotReadyError: the driver recovers the controller, or could not.
            DeviceGoneError: it has let go of the device.
            ForkedError: the device is the parent's.
        """
        operation = f"{self.uri}: device information"
        self._check_ours("device information")
        try:
            return NodeInformation.ask(self._common)
        except OSError as error:
            if error.errno == errno.ENOTTY and self._is_ours():
                raise ControllerNotReadyError(f"{operation}: the controller is not ready") from None
            raise ioctl_failure(operation, error) from None

    # -- HSM commands --------------------------------------------------------------------------------------------------

    def exchange(self, message: bytes, kind: ControlKind, session_id: int | None) -> HsmReply:
        """Execute one HSM command and wait for its response; the driver's time limit counts.

        What completions say of sessions is the driver's to know: the reply has the session id alone, from the response
        to a command that opened one.

        Args:
            message: encoded DDI request.
            kind: session control kind of its operation; one that opens a session opens the node once more.
            session_id: id that the command is sent under, None if it has none.

        Raises:
            HsmCommandError: completed without a response (`sc` not 0).
            SessionClosedError: the session was not opened here, or is closed.
            QueueClosedError: given up by the driver.
            ControllerNotReadyError: the driver recovers the controller, or could not.
            DeviceGoneError: it has let go of the device.
            RequestRefusedError, ResourceError: it refuses the command.
            ForkedError: the device is the parent's.
        """
        message, session_id, flags = message_arguments(message, kind, session_id)
        self.check("HSM command")
        if kind == ControlKind.OPEN:
            return self._open(message, flags, session_id)
        reply = self._send(self.file_of(session_id), message, flags, session_id)
        if kind == ControlKind.CLOSE and session_id is not None and _succeeded(reply.message) is not None:
            self.flush_session(session_id)
        return reply

    async def exchange_async(self, message: bytes, kind: ControlKind, session_id: int | None) -> HsmReply:
        """Like `exchange`, in a thread: whoever is cancelled while awaiting it leaves the command to it."""
        import asyncio  # takes longer to load than the rest

        return await asyncio.to_thread(self.exchange, message, kind, session_id)

    def _open(self, message: bytes, flags: SessionControl, session_id: int | None) -> HsmReply:
        """A command that opens a session, in a file of its own."""
        file = NodeFile(self._calls, self._path, self.uri)
        try:
            reply = self._send(file, message, flags, session_id)
            header = _succeeded(reply.message)
        except BaseException:
            file.close()
            raise
        if header is None or header.sess_id is None:
            file.close()
            return reply
        with self._lock:
            before = self._sessions.get(header.sess_id)
            if before is not None:
                self._superseded.append(before)
            self._sessions[header.sess_id] = file
        return reply._replace(session_id=header.sess_id)

    def _send(self, file: NodeFile, message: bytes, flags: SessionControl, session_id: int | None) -> HsmReply:
        request, response = np.frombuffer(message, np.uint8), np.zeros(MAX_DST_LENGTH, np.uint8)
        command = _command()
        command["session_control_flags"], command["session_id"] = flags, session_id or 0
        command["src_length"] = len(request)
        command["src_buf"] = request.ctypes.data if len(request) else 0
        command["dst_buf"], command["dst_length"] = response.ctypes.data, len(response)
        try:
            file.ioctl(Ioctl.GENERIC_SESSION, command.view(np.uint8).data)
        except OSError as error:
            extended = int(command["extended_status"][0])
            raise session_failure(f"{self.uri}: HSM command", error, extended) from None
        count = int(command["byte_count"][0])
        return successful(
            HsmReply(response[:count].tobytes(), int(command["status"][0]), count, SessionControl(0), None, None)
        )

    def file_of(self, session_id: int | None) -> NodeFile:
        """The file of a session; of one that was not opened here the common one, for the driver to refuse."""
        with self._lock:
            return self._common if session_id is None else self._sessions.get(session_id, self._common)

    def flush_session(self, session_id: int) -> None:
        """Close a session without a message: its file, which the driver answers by a flush. Others' are let alone."""
        session_id = integer("flush", "session_id", session_id, 0, 0xFFFF)
        with self._lock:
            file = self._sessions.pop(session_id, None)
        if file is not None:
            file.close()

    # -- its life ------------------------------------------------------------------------------------------------------

    def check(self, operation: str) -> None:
        """See that commands may be sent.

        Raises:
            ForkedError: the device is the parent's.
            IhsmError: what `stop` was given.
        """
        self._check_ours(operation)
        stopped = self._stopped
        if stopped is not None:
            raise stopped

    def _check_ours(self, operation: str) -> None:
        if self._forked:
            raise ForkedError(f"{self.uri}: {operation}")

    def check_life(self, operation: str) -> None:
        """See that the controller was not brought up anew, by whomever, since it was opened, reset or recovered here.

        Sessions outlive that in the driver's eyes, and key numbers mean other keys as soon as another program has
        brought in its own: an AES command would be done with those. Its entropy tells.

        Raises:
            ControllerLostError: it was.
        """
        if self.information().entropy != self._life:
            raise ControllerLostError(
                f"{self.uri}: {operation}: the controller was reset meanwhile, and keys and sessions went with that"
            )

    def stop(self, error: IhsmError) -> None:
        """Have commands to come fail with `error`, until `recover` or `reset`; those at work the driver ends."""
        self._stopped = error

    def recover(self) -> None:
        """Have a device that was lost work again: wait until the driver has recovered it, for others have it too.

        Sessions keep their files, so that they can be reopened.

        Raises:
            ControllerNotReadyError: the driver cannot, or takes longer than READY_S.
            DeviceGoneError: it has let go of the device.
            ForkedError: the device is the parent's.
        """
        deadline = time.monotonic() + READY_S
        while True:
            try:
                self._life = self.information().entropy
            except ControllerNotReadyError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(POLL_S)
            else:
                self._stopped = None
                return

    def reset(self, *, subsystem: bool = False) -> None:
        """Have the driver bring the controller up anew, for all that have the node open.

        Sessions keep their files, so that they can be reopened.

        Args:
            subsystem: NSSR instead of a disable; the sessions of the function end (spec 04 §12).

        Raises:
            ControllerNotReadyError: another reset is under way, or this one failed.
            UnsupportedDeviceError: the driver was told not to reset this function.
            DeviceGoneError, RequestRefusedError: as for any command.
            ForkedError: the device is the parent's.
        """
        operation = f"{self.uri}: reset"
        self._check_ours("reset")
        command = np.zeros(1, RESET_DEVICE)
        command["hdr"]["szioctldata"] = command.nbytes
        command["abort_type"] = AbortType.L2_NSSR if subsystem else AbortType.L2_RESET
        result = 0
        try:
            result = self._common.ioctl(Ioctl.RESET, command.view(np.uint8).data)
        except OSError as error:
            if not command["abort_sts"][0]:
                raise ioctl_failure(operation, error) from None
        status = int(command["abort_sts"][0])
        if result or status != AbortStatus.SUCCESS:
            raise ControllerNotReadyError(f"{operation}: {_name(status)}")
        entropy = self.information().entropy
        if entropy == self._life:
            raise UnsupportedDeviceError(f"{operation}: not done: the driver may not reset this function")
        self._life, self._stopped = entropy, None

    def close(self) -> None:
        """Close all files; the driver ends their sessions. Harmless the second time."""
        if self._forked:
            return
        with self._lock:
            files = [*self._sessions.values(), *self._superseded, self._common]
            self._sessions, self._superseded = {}, []
            self._stopped = QueueClosedError(f"{self.uri}: closed")
        self._aes.end()
        for file in files:
            file.close()

    def forked(self) -> None:
        """In a child of fork(): as closed, while the device works on for the parent; each file closes itself."""
        self._lock = threading.Lock()
        self._forked = True
        self._aes.forked()


def _command() -> np.ndarray[Any, np.dtype[np.void]]:
    """A session command without anything in it; the driver tells its extended status only where it has one."""
    command = np.zeros(1, GENERIC_IOCTL)
    command["hdr"]["szioctldata"] = command.nbytes
    command["extended_status"] = NOT_TOLD
    return command


def _succeeded(response: bytes) -> RespHdr | None:
    """The header of a response that reports success."""
    with contextlib.suppress(MborDecodeError):
        header, _ = decode_response_header(response)
        return header if header.status == DdiStatus.Success else None
    return None


def _name(status: int) -> str:
    try:
        return AbortStatus(status).name
    except ValueError:
        return f"status {status}"
