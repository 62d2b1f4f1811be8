# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Seccomp user notification (linux/seccomp.h, seccomp_unotify(2)): system calls of a program, taken by another."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ihsm.closing import Closing
from ihsm_kmod.host.syscalls import AUDIT_ARCH_X86_64, IOCTL_TYPES, X32_SYSCALL_BIT, Sys

_PR_SET_NO_NEW_PRIVS: Final = 38
_SYS_SECCOMP: Final = 317
_SET_MODE_FILTER: Final = 1
_FLAG_NEW_LISTENER: Final = 1 << 3
_FLAG_WAIT_KILLABLE_RECV: Final = 1 << 5
"""Linux 5.19. Once a call is taken, only what kills the program ends its wait: without it a timer's signal would, and
the answer of a command that is carried out would be lost."""
_RET_ALLOW: Final = 0x7FFF0000
_RET_USER_NOTIF: Final = 0x7FC00000

_NOTIF: Final = struct.Struct("=QIIiIQ6Q")
"""struct seccomp_notif: id, pid, flags, and struct seccomp_data: nr, arch, instruction_pointer, args."""
_RESPONSE: Final = struct.Struct("=QqiI")
"""struct seccomp_notif_resp: id, val, error, flags."""
_ADDFD: Final = struct.Struct("=QIIII")
"""struct seccomp_notif_addfd: id, flags, srcfd, newfd, newfd_flags."""
_IOCTL_RECV: Final = 0xC0502100
_IOCTL_SEND: Final = 0xC0182101
_IOCTL_ID_VALID: Final = 0x40082102
_IOCTL_ADDFD: Final = 0x40182103
_IOCTL_SET_FLAGS: Final = 0x40082104
_FLAG_CONTINUE: Final = 1
_ADDFD_FLAG_SEND: Final = 1 << 1
"""Linux 5.14: the descriptor is given and the call answered with its number at once, or neither."""
_FD_SYNC_WAKE_UP: Final = 1
"""Linux 6.6: who waits for the answer runs on the processor where it was given."""

# Classic BPF (linux/bpf_common.h).
_LOAD_WORD: Final = 0x20
_AND: Final = 0x54
_JUMP_EQUAL: Final = 0x15
_JUMP_GREATER_OR_EQUAL: Final = 0x35
_RETURN: Final = 0x06
_DATA_NR: Final = 0
_DATA_ARCH: Final = 4
_DATA_ARG1: Final = 24
_INSTRUCTION: Final = struct.Struct("=HBBI")

_Line = tuple[int, int | str, int | str, int]
"""Code, where to go on if true and if false (lines to skip, or a label), value."""

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def filter_program(calls: Iterable[Sys] = tuple(Sys)) -> bytes:
    """The filter: notify of these calls, of ioctls only of the driver's types, and let all else be.

    What is not of x86-64 is let be, too: for it there is no device, and 32-bit programs the driver does not serve
    (spec 02 A.1).
    """
    others = [call for call in calls if call is not Sys.IOCTL]
    body: list[_Line] = [(_LOAD_WORD, 0, 0, _DATA_NR), (_JUMP_GREATER_OR_EQUAL, "allow", 0, X32_SYSCALL_BIT)]
    body += [(_JUMP_EQUAL, "notify", 0, int(call)) for call in others]
    body += [(_JUMP_EQUAL, 0, "allow", int(Sys.IOCTL)), (_LOAD_WORD, 0, 0, _DATA_ARG1), (_AND, 0, 0, 0xFF00)]
    body += [(_JUMP_EQUAL, "notify", 0, kind << 8) for kind in IOCTL_TYPES]
    head: list[_Line] = [(_LOAD_WORD, 0, 0, _DATA_ARCH), (_JUMP_EQUAL, 0, "allow", AUDIT_ARCH_X86_64)]
    tail: list[_Line] = [(_RETURN, 0, 0, _RET_ALLOW), (_RETURN, 0, 0, _RET_USER_NOTIF)]
    lines = head + body + tail
    labels = {"allow": len(lines) - 2, "notify": len(lines) - 1}

    def offset(at: int, target: int | str) -> int:
        return labels[target] - at - 1 if isinstance(target, str) else target

    return b"".join(
        _INSTRUCTION.pack(code, offset(at, true), offset(at, false), value)
        for at, (code, true, false, value) in enumerate(lines)
    )


def install(program: bytes) -> int:
    """Put the calling thread, and all that it will start, under a filter; the listener's descriptor.

    Raises:
        OSError: EINVAL, the host's kernel is older than 5.19; EBUSY, there is a listener already, above us; EPERM or
            EACCES, it is not allowed here; ENOSYS, the kernel has no seccomp.
    """
    if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise _error()
    argument = _Program(len(program) // _INSTRUCTION.size, program)
    flags = _FLAG_NEW_LISTENER | _FLAG_WAIT_KILLABLE_RECV
    fd: int = _LIBC.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, flags, ctypes.byref(argument))
    if fd < 0:
        raise _error()
    return fd


def _error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


@dataclass(frozen=True)
class Notification:
    """A system call that waits for its answer."""

    id: int
    tid: int
    nr: int
    args: tuple[int, ...]


class Listener(Closing):
    """Where the calls of all programs under a filter arrive. Any number of threads may use it."""

    def __init__(self, fd: int) -> None:
        """`fd` is from `install`, in whichever process; it is closed with the listener."""
        self.fd = fd
        with contextlib.suppress(OSError):  # older kernels are slower, no more
            fcntl.ioctl(fd, _IOCTL_SET_FLAGS, _FD_SYNC_WAKE_UP)

    def close(self) -> None:
        """Take no more calls: whoever makes one gets an error."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def has_programs(self) -> bool:
        """Wait for a call, which another thread may take before us; False once nobody is under the filter any more."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return not any(event & select.POLLHUP for _, event in poll.poll())

    def receive(self) -> Notification | None:
        """Wait for a call; None if it was none: the program was killed meanwhile, or nobody is under the filter.

        Raises:
            OSError: the calls may not be taken.
        """
        buffer = bytearray(_NOTIF.size)
        try:
            fcntl.ioctl(self.fd, _IOCTL_RECV, buffer)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        id_, tid, _, nr, _, _, *args = _NOTIF.unpack(buffer)
        return Notification(id_, tid, nr, tuple(args))

    def is_waiting(self, call: Notification) -> bool:
        """Whether the program still waits: if so, what was looked up by its ids is the program's, not another's."""
        try:
            fcntl.ioctl(self.fd, _IOCTL_ID_VALID, struct.pack("=Q", call.id))
        except OSError:
            return False
        return True

    def carry_on(self, call: Notification) -> None:
        """Let the host's kernel carry the call out."""
        self._send(call, 0, 0, _FLAG_CONTINUE)

    def answer(self, call: Notification, value: int) -> None:
        """What the call returns."""
        self._send(call, value, 0, 0)

    def fail(self, call: Notification, code: int) -> None:
        """What the call fails with."""
        self._send(call, 0, -code, 0)

    def give(self, call: Notification, fd: int, *, close_on_exec: bool) -> int | None:
        """Answer with a copy of a descriptor; its number there, None if the program has gone.

        Raises:
            OSError: EMFILE, the program has no number left.
        """
        flags = os.O_CLOEXEC if close_on_exec else 0
        try:
            order = bytearray(_ADDFD.pack(call.id, _ADDFD_FLAG_SEND, fd, 0, flags))
            number: int = fcntl.ioctl(self.fd, _IOCTL_ADDFD, order)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINPROGRESS):
                return None
            raise
        return number

    def _send(self, call: Notification, value: int, error: int, flags: int) -> None:
        try:
            fcntl.ioctl(self.fd, _IOCTL_SEND, _RESPONSE.pack(call.id, value, error, flags))
        except OSError as problem:
            if problem.errno != errno.ENOENT:  # killed meanwhile
                raise
