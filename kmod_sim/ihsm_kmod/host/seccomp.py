# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Seccomp user notification (linux/seccomp.h, seccomp_unotify(2)): system calls of a program, taken by another."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ihsm.closing import Closing
from ihsm_abi import seccomp
from ihsm_abi.seccomp import AND, JUMP_EQUAL, JUMP_GREATER_OR_EQUAL, LOAD_WORD, RETURN, Line
from ihsm_kmod.host.syscalls import IOCTL_TYPES, Sys

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

_IOCTL_TYPE_BITS: Final = 0xFF00


def filter_program(calls: Iterable[Sys] = tuple(Sys)) -> bytes:
    """The filter: notify of these calls, of ioctls only of the driver's types, and let all else be.

    What is not of x86-64 is let be, too: for it there is no device, and 32-bit programs the driver does not serve
    (spec 02 A.1).
    """
    lines: list[Line | str] = [
        (LOAD_WORD, 0, 0, seccomp.DATA_ARCH), (JUMP_EQUAL, 0, "allow", seccomp.AUDIT_ARCH_X86_64),
        (LOAD_WORD, 0, 0, seccomp.DATA_NR), (JUMP_GREATER_OR_EQUAL, "allow", 0, seccomp.X32_SYSCALL_BIT),
    ]  # fmt: skip
    lines += [(JUMP_EQUAL, "notify", 0, int(call)) for call in calls if call is not Sys.IOCTL]
    lines += [(JUMP_EQUAL, 0, "allow", int(Sys.IOCTL)), (LOAD_WORD, 0, 0, seccomp.low_word(1))]
    lines += [(AND, 0, 0, _IOCTL_TYPE_BITS), *((JUMP_EQUAL, "notify", 0, kind << 8) for kind in IOCTL_TYPES)]
    lines += ["allow", (RETURN, 0, 0, seccomp.RET_ALLOW), "notify", (RETURN, 0, 0, seccomp.RET_USER_NOTIF)]
    return seccomp.assemble(lines)


def install(program: bytes) -> int:
    """Put the calling thread, and all that it will start, under a filter; the listener's descriptor.

    Raises:
        OSError: as `ihsm_abi.seccomp.install`; EINVAL means a kernel older than 5.19.
    """
    return seccomp.install(program, seccomp.FLAG_NEW_LISTENER | seccomp.FLAG_WAIT_KILLABLE_RECV)


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
