# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The system calls that a device makes once it serves: all others fail with EPERM (seccomp(2)).

No call here opens a connection, starts a program or a process, looks into another one, or makes memory executable.
Which files `openat` reaches is not a filter's to say: `landlock` does. Numbers: asm/unistd_64.h.
"""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Callable, Iterable
from typing import Final

from ihsm_abi import seccomp
from ihsm_abi.seccomp import JUMP_ANY_BIT, JUMP_EQUAL, JUMP_GREATER_OR_EQUAL, LOAD_WORD, RETURN, Line

MACHINE: Final = "x86_64"
"""The one whose numbers are here."""

_OPENAT: Final = 257
_ANYHOW: Final = {
    # descriptors
    "read": 0, "write": 1, "readv": 19, "writev": 20, "pread64": 17, "pwrite64": 18, "close": 3, "close_range": 436,
    "lseek": 8, "dup": 32, "dup2": 33, "dup3": 292, "fcntl": 72, "pipe2": 293, "fstat": 5,
    # files, where Landlock lets them be
    "openat": _OPENAT, "stat": 4, "lstat": 6, "newfstatat": 262, "statx": 332, "access": 21, "faccessat": 269,
    "faccessat2": 439, "readlink": 89, "readlinkat": 267, "getdents": 78, "getdents64": 217, "getcwd": 79,
    "statfs": 137, "fstatfs": 138, "rename": 82, "renameat": 264, "unlink": 87, "unlinkat": 263, "umask": 95,
    "flock": 73, "fallocate": 285, "fsync": 74, "fdatasync": 75,
    # sockets that there are
    "accept": 43, "accept4": 288, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "shutdown": 48,
    "getsockname": 51, "getpeername": 52, "setsockopt": 54, "getsockopt": 55,
    # waiting, and waking others
    "poll": 7, "ppoll": 271, "select": 23, "pselect6": 270, "epoll_create1": 291, "epoll_ctl": 233,
    "epoll_wait": 232, "epoll_pwait": 281, "epoll_pwait2": 441, "eventfd2": 290, "io_submit": 209, "futex": 202,
    "membarrier": 324,
    # memory
    "munmap": 11, "brk": 12, "mremap": 25, "madvise": 28, "mlock": 149, "mlock2": 325, "munlock": 150,
    "memfd_create": 319, "ftruncate": 77,
    # threads, signals, the end
    "sched_yield": 24, "sched_setaffinity": 203, "sched_getaffinity": 204, "set_robust_list": 273, "rseq": 334,
    "gettid": 186, "getcpu": 309, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
    "rt_sigtimedwait": 128, "sigaltstack": 131, "restart_syscall": 219, "wait4": 61, "exit": 60, "exit_group": 231,
    # time
    "nanosleep": 35, "clock_nanosleep": 230, "clock_gettime": 228, "clock_getres": 229, "gettimeofday": 96,
    "time": 201, "timer_create": 222, "timer_settime": 223, "timer_delete": 226,
    # what is asked of oneself and the machine
    "getpid": 39, "getppid": 110, "getuid": 102, "geteuid": 107, "getgid": 104, "getegid": 108, "getrlimit": 97,
    "setrlimit": 160, "getrusage": 98, "uname": 63, "sysinfo": 99, "getrandom": 318,
}  # fmt: skip
_OF_THE_LOOKOUT: Final = (
    "read", "close", "fstat", "lseek", "recvmsg", "recvfrom", "sendto", "getsockopt", "getsockname", "poll", "futex",
    "munmap", "brk", "mremap", "madvise", "sched_yield", "sched_getaffinity", "set_robust_list", "rseq", "gettid",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall", "exit", "exit_group",
    "clock_gettime", "clock_nanosleep", "getpid", "getuid", "getrandom",
)  # fmt: skip
"""Besides, it opens files, to read them."""

_MMAP: Final = 9
_MPROTECT: Final = 10
_IOCTL: Final = 16
_CLONE: Final = 56
_KILL: Final = 62
_PRCTL: Final = 157
_TGKILL: Final = 234
_PRLIMIT64: Final = 302
_CLONE3: Final = 435
_PROT_EXEC: Final = 4
_CHANGES_FILES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
"""Flags of openat."""
_CLONE_THREAD: Final = 0x10000
_IOCTLS: Final = {
    "TCGETS": 0x5401, "FIONREAD": 0x541B, "FIONBIO": 0x5421, "FIONCLEX": 0x5450, "FIOCLEX": 0x5451,
    # holes in clients' files (native/holes.c)
    "UFFDIO_REGISTER": 0xC020AA00, "UFFDIO_UNREGISTER": 0x8010AA01, "UFFDIO_ZEROPAGE": 0xC020AA04,
}  # fmt: skip
_PRCTLS: Final = {"GET_DUMPABLE": 3, "SET_NAME": 15, "GET_NAME": 16, "GET_NO_NEW_PRIVS": 39, "SET_VMA": 0x53564D41}


def program(pid: int) -> bytes:
    """The filter of a device, for the process `pid`: signals go to that one alone."""
    return _program(pid, _ANYHOW.values())


def lookout_program(pid: int) -> bytes:
    """The filter of the process that looks at clients: it reads files and answers."""
    return _program(pid, [_ANYHOW[name] for name in _OF_THE_LOOKOUT])


def _program(pid: int, anyhow: Iterable[int]) -> bytes:
    """A filter that allows some calls `anyhow`, and others by their arguments."""
    lines: list[Line | str] = [
        (LOAD_WORD, 0, 0, seccomp.DATA_ARCH), (JUMP_EQUAL, 0, "refuse", seccomp.AUDIT_ARCH_X86_64),
        (LOAD_WORD, 0, 0, seccomp.DATA_NR), (JUMP_GREATER_OR_EQUAL, "refuse", 0, seccomp.X32_SYSCALL_BIT),
        (JUMP_EQUAL, "protection", 0, _MMAP), (JUMP_EQUAL, "protection", 0, _MPROTECT),
        (JUMP_EQUAL, "flags", 0, _CLONE), (JUMP_EQUAL, "absent", 0, _CLONE3),
        (JUMP_EQUAL, "request", 0, _IOCTL), (JUMP_EQUAL, "option", 0, _PRCTL),
        (JUMP_EQUAL, "process", 0, _KILL), (JUMP_EQUAL, "process", 0, _TGKILL), (JUMP_EQUAL, "self", 0, _PRLIMIT64),
    ]  # fmt: skip
    lines += [(JUMP_EQUAL, "allow", 0, number) for number in anyhow]
    lines += [(JUMP_EQUAL, "reading", "refuse", _OPENAT)]
    lines += ["reading", (LOAD_WORD, 0, 0, seccomp.low_word(2)), (JUMP_ANY_BIT, "refuse", "allow", _CHANGES_FILES)]
    # glibc takes `clone`, whose flags a filter can see, where there is no clone3
    lines += ["absent", (RETURN, 0, 0, seccomp.RET_ERRNO | errno.ENOSYS)]
    lines += ["protection", (LOAD_WORD, 0, 0, seccomp.low_word(2)), (JUMP_ANY_BIT, "refuse", "allow", _PROT_EXEC)]
    lines += ["flags", (LOAD_WORD, 0, 0, seccomp.low_word(0)), (JUMP_ANY_BIT, "allow", "refuse", _CLONE_THREAD)]
    lines += ["request", (LOAD_WORD, 0, 0, seccomp.low_word(1))]
    lines += [(JUMP_EQUAL, "allow", 0, number) for number in _IOCTLS.values()]
    lines += [(RETURN, 0, 0, seccomp.RET_ERRNO | errno.ENOTTY)]
    lines += ["option", (LOAD_WORD, 0, 0, seccomp.low_word(0))]
    lines += [*((JUMP_EQUAL, "allow", 0, number) for number in _PRCTLS.values()), (JUMP_EQUAL, "refuse", "refuse", 0)]
    lines += ["process", (LOAD_WORD, 0, 0, seccomp.low_word(0)), (JUMP_EQUAL, "allow", "refuse", pid)]
    lines += ["self", (LOAD_WORD, 0, 0, seccomp.low_word(0))]
    lines += [(JUMP_EQUAL, "allow", 0, 0), (JUMP_EQUAL, "allow", 0, pid)]
    lines += ["refuse", (RETURN, 0, 0, seccomp.RET_ERRNO | errno.EPERM)]
    lines += ["allow", (RETURN, 0, 0, seccomp.RET_ALLOW)]
    return seccomp.assemble(lines)


def restrict() -> None:
    """All threads of this process make no other calls from now on.

    Raises:
        OSError: the kernel has no filters, or this process may not have one; ENOSYS also on another machine.
    """
    _install(program)


def restrict_lookout() -> None:
    """The same for a process that looks at clients, whose calls are fewer."""
    _install(lookout_program)


def shown(filtered: bool) -> str:
    """For the status."""
    return "filtered" if filtered else "all"


def _install(made_for: Callable[[int], bytes]) -> None:
    if platform.machine() != MACHINE:
        raise OSError(errno.ENOSYS, f"no list of system calls for {platform.machine()}")
    seccomp.install(made_for(os.getpid()), seccomp.FLAG_TSYNC)
