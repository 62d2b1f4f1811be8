# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm serve`, in which the first command brings in somebody else's code: what a fault in the device could do.

    intruder.py FOLDER serve [OPTIONS]

It runs in the thread that carries out HSM commands, and writes what it got by each attempt to the descriptor that the
variable REPORT names, a line each: `NAME: ERROR`, ERROR being a number, 0 where it did what it wanted.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from ihsm.cli import main
from ihsm_abi.libc import LIBC, checked
from ihsm_device.hsm.command import HsmCommand, HsmCompletion
from ihsm_device.hsm.module import SecurityModule

PR_SET_DUMPABLE = 4
PTRACE_PEEKDATA = 2
"""Of a process that is not traced: ESRCH, where one may ask at all."""
EXECUTABLE = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC


HOLDING = ctypes.PyDLL(None, use_errno=True)
"""The C library, called without letting other threads run: in a copy of this process they would never give back what
they took meanwhile, and it would wait for ever."""


def call(number: int, *arguments: object) -> int:
    """A system call, by its number on x86-64; raises OSError."""
    return checked(HOLDING.syscall(number, *arguments))


def ended_if_child(pid: int) -> None:
    """After a call that makes a process."""
    if pid == 0:
        os._exit(0)


def made_executable() -> None:
    """Memory that was written as data becomes code."""
    page = mmap.mmap(-1, mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    checked(LIBC.mprotect(ctypes.c_void_p(address), mmap.PAGESIZE, EXECUTABLE))


def file_in_memory() -> int:
    """A page without a name, which a device makes for traces."""
    file = os.memfd_create("code")
    os.ftruncate(file, mmap.PAGESIZE)
    return file


def attempts(folder: Path) -> dict[str, Callable[[], object]]:
    """What is tried; `folder` is the tests' own, with a file `other` and a listening socket `listener`."""
    other = socket.socket  # made in the attempt
    sockets = Path(sys.argv[sys.argv.index("--socket") + 1]).parent
    return {
        "read a file": lambda: os.close(os.open(folder / "other", os.O_RDONLY)),
        "write a file": lambda: os.close(os.open(folder / "other", os.O_WRONLY)),
        "make a file": lambda: os.close(os.open(folder / "new", os.O_WRONLY | os.O_CREAT)),
        "list a folder": lambda: os.listdir(folder),
        "read the passwords": lambda: os.close(os.open("/etc/passwd", os.O_RDONLY)),
        "read beside the sockets": lambda: os.close(os.open(sockets / "beside", os.O_RDONLY)),
        "write its own memory": lambda: os.close(os.open("/proc/self/mem", os.O_RDWR)),
        "read another's memory": lambda: os.close(os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY)),
        "remove a file": lambda: os.unlink(folder / "other"),
        "connect": lambda: other(socket.AF_UNIX).connect(os.fspath(folder / "listener")),
        "connect to the network": lambda: other(socket.AF_INET).connect(("127.0.0.1", 9)),
        "execute": lambda: os.execv(folder / "absent", ["absent"]),
        "fork": lambda: ended_if_child(call(56, signal.SIGCHLD, 0, 0, 0, 0)),
        "clone3": lambda: ended_if_child(call(435, bytes(88), 88)),
        "trace": lambda: call(101, PTRACE_PEEKDATA, os.getpid(), 0, 0),
        "read another process": lambda: call(310, os.getppid(), 0, 0, 0, 0, 0),
        "signal another process": lambda: os.kill(os.getppid(), 0),
        "executable memory": lambda: mmap.mmap(-1, mmap.PAGESIZE, prot=EXECUTABLE),
        "memory made executable": made_executable,
        "code in a file in memory": lambda: mmap.mmap(file_in_memory(), mmap.PAGESIZE, prot=EXECUTABLE),
        "a ring of system calls": lambda: call(425, 8, bytes(120)),
        "a program of the kernel's": lambda: call(321, 0, bytes(120), 120),
        "faults handled here": lambda: call(323, 0),
        "another namespace": lambda: call(272, 0x10000000),
        "mount": lambda: call(165, b"none", b"/mnt", b"tmpfs", 0, 0),
        "become root": lambda: os.setuid(0),
        "core dumps": lambda: call(157, PR_SET_DUMPABLE, 1, 0, 0, 0),
        "core dumps of any size": lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20)),
        "limits of another": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE),
    }


def outcome(attempt: Callable[[], object]) -> int:
    """The error number, 0 if there was none."""
    try:
        attempt()
    except OSError as error:
        return error.errno or errno.EIO
    except ValueError:  # Python's words for a limit that may not be raised
        return errno.EPERM
    return 0


def intrude(folder: Path) -> None:
    """Have the first command carry all that out."""
    report = int(os.environ["REPORT"])
    execute = SecurityModule.execute
    once = threading.Lock()

    def intruded(self: SecurityModule, command: HsmCommand) -> HsmCompletion:
        if once.acquire(blocking=False):
            for name, attempt in attempts(folder).items():
                os.write(report, f"{name}: {outcome(attempt)}\n".encode())
            os.close(report)
        return execute(self, command)

    SecurityModule.execute = intruded  # type: ignore[method-assign]


if __name__ == "__main__":
    intrude(Path(sys.argv.pop(1)))
    main()
