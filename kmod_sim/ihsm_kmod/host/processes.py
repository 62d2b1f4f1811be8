# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Processes of the host, as the machine's kernel knows those that use its devices."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ihsm_kmod.kernel.mm import Piece, ProcessMemory
from ihsm_kmod.kernel.task import Core
from ihsm_kmod.kernel.thread_group import ThreadGroup


class Caller(NamedTuple):
    """Who makes a system call."""

    tgid: int
    """The process."""
    tid: int
    """The thread."""


class GroupMemory(ProcessMemory):
    """Memory of a process, also once its first thread has ended, which has none then; others of its threads have it."""

    def _get_otherwise(self, pieces: Sequence[Piece]) -> bytes:
        other = self._by_another_thread()
        return b"" if other is None else other._get(pieces)

    def _put_otherwise(self, pieces: Sequence[Piece], data: bytes) -> int:
        other = self._by_another_thread()
        return 0 if other is None else other._put(pieces, data)

    def _maps(self) -> bytes:
        maps = super()._maps()
        other = None if maps else self._by_another_thread()
        return maps if other is None else other._maps()

    def _by_another_thread(self) -> ProcessMemory | None:
        """The memory as another thread has it. For one access: the thread's number may be another process's next."""
        if not has_memory(self.pid):
            with contextlib.suppress(OSError):
                for tid in map(int, os.listdir(f"/proc/{self.pid}/task")):
                    if has_memory(tid):
                        return ProcessMemory(tid)
        return None


class HostMemory(GroupMemory):
    """Memory of a process, also once that is not dumpable any more: what /proc tells of it was opened before."""

    def __init__(self, tgid: int, tid: int) -> None:
        """Of that process, which executes what it executes now: another program has other memory.

        Raises:
            OSError: it is not dumpable already, or its thread `tid` is gone.
        """
        super().__init__(tgid)
        self.program = auxiliary_vector(tid)
        """Differs after execve(2), which gives a process other memory."""
        with contextlib.ExitStack() as undo:
            self._mem = os.open(f"/proc/{tid}/mem", os.O_RDWR | os.O_CLOEXEC)
            undo.callback(os.close, self._mem)
            self._opened_maps = os.open(f"/proc/{tid}/maps", os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, self._opened_maps)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Let go of it."""
        self._undo.close()

    def _get_otherwise(self, pieces: Sequence[Piece]) -> bytes:
        data = super()._get_otherwise(pieces)
        return data if data or is_dumpable(self.pid) else b"".join(self._get_slowly(pieces))

    def _get_slowly(self, pieces: Sequence[Piece]) -> list[bytes]:
        got = []
        with contextlib.suppress(OSError):
            for address, length in pieces:
                got.append(os.pread(self._mem, length, address))
        return got

    def _put_otherwise(self, pieces: Sequence[Piece], data: bytes) -> int:
        written = super()._put_otherwise(pieces, data)
        if written or not pieces or is_dumpable(self.pid):
            return written
        # This file writes to pages, too, that the program itself may only read.
        allowed = self._writable_bytes(pieces[0][0], len(data))
        with contextlib.suppress(OSError):
            written = os.pwrite(self._mem, data[:allowed], pieces[0][0])
        return written

    def _maps(self) -> bytes:
        if is_dumpable(self.pid):
            return super()._maps()
        with contextlib.suppress(OSError), open(self._opened_maps, "rb", closefd=False) as maps:
            maps.seek(0)
            return maps.read()
        return b""


def has_memory(tid: int) -> bool:
    """Whether a thread has memory: one that ends lets go of it first."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{tid}/statm").read_text().split()[0] != "0"
    return False


def auxiliary_vector(tgid: int) -> bytes:
    """What a process's program was started with, random addresses among it (getauxval(3)); OSError as `HostMemory`."""
    return Path(f"/proc/{tgid}/auxv").read_bytes()


def is_dumpable(tgid: int) -> bool:
    """Whether a process lets those of its user look at it (Linux: PR_SET_DUMPABLE)."""
    try:
        os.readlink(f"/proc/{tgid}/exe")
    except PermissionError:
        return False
    except OSError:
        pass
    return True


class HostProcess(ThreadGroup):
    """A process of the host that has used a device."""

    def __init__(self, kernel: Core, tgid: int) -> None:
        """The process with that id.

        Raises:
            OSError: it is gone.
        """
        self.pidfd = os.pidfd_open(tgid)
        """Readable once it has ended."""
        try:
            comm = Path(f"/proc/{tgid}/comm").read_text(errors="replace").strip()
            self.memory: HostMemory | None = None
            super().__init__(kernel, comm=comm, tgid=tgid, mm=GroupMemory(tgid))
        except BaseException:
            os.close(self.pidfd)
            raise
        self.descriptors: dict[int, int] = {}
        """Numbers under which it was given files, each with the file's inode."""

    def remember_memory(self, tid: int) -> None:
        """Open what is needed to reach its memory later on; its thread opens a device now, and may hide afterwards."""
        with contextlib.suppress(OSError):
            former = self.memory
            if former is None or former.program != auxiliary_vector(tid):
                self.mm = self.memory = HostMemory(self.tgid, tid)
                if former is not None:
                    former.close()

    def exit_files(self) -> None:
        """It has ended, and is in no call: let go of what was opened of it. Its files are others' concern."""
        os.close(self.pidfd)
        if self.memory is not None:
            self.memory.close()
